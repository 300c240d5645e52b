// SPDX-License-Identifier: Apache-2.0

/// A call failed in a way that is not an answer. Tables that were freed before stay freed; no
/// byte that can be read has changed.
///
/// What a call keeps is no error: see `KeptReason`.
public struct ReclaimError: Error, Equatable, Sendable {
    /// What failed. Raw values are for this process only.
    public enum Code: UInt8, Sendable {
        /// The arguments are wrong: EINVAL. Nothing has been done.
        case invalidRange
        /// Tables or mappings could not be looked at: procfs is missing (ENOENT), closed to us
        /// (EACCES) or out of descriptors (EMFILE, ENFILE), or what it takes to look is not to be
        /// had (ENOMEM; of `ptReclaimAdvise(range:_:)` EAGAIN, too).
        case lookFailed
        /// `madvise(MADV_DONTNEED)` failed: EINVAL for mlocked memory, ENOMEM for a hole.
        case discardFailed
        /// The backend failed, with the errno of its system call; EFAULT where the span does not lie
        /// in one VMA.
        case freeFailed
        /// Nothing that this version knows frees tables on this kernel: EOPNOTSUPP.
        case unsupported
    }

    /// What failed.
    public let code: Code
    /// The kernel's errno, positive.
    public let errno: Int32
    /// The addresses that it was about, in bytes: of the argument, or of the part that failed.
    public let range: AddressRange

    /// An error of an address space of your own.
    ///
    /// - Parameters:
    ///   - code: what failed.
    ///   - errno: positive, as in errno.h.
    ///   - range: the addresses that it is about.
    public init(_ code: Code, errno: Int32, range: AddressRange) {
        self.code = code
        self.errno = errno
        self.range = range
    }
}
