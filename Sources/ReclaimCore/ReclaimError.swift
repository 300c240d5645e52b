// SPDX-License-Identifier: Apache-2.0

/// A call failed in a way that is not an answer. Tables that were freed before stay freed; no
/// byte has changed.
public struct ReclaimError: Error, Equatable, Sendable {
    public enum Code: UInt8, Sendable {
        /// The arguments are wrong: EINVAL.
        case invalidRange
        /// Tables or mappings could not be looked at: procfs is missing, closed to us, or refused.
        case lookFailed
        /// `madvise(MADV_DONTNEED)` failed.
        case discardFailed
        /// The backend failed.
        case freeFailed
        /// Nothing that this version knows frees tables on this kernel: EOPNOTSUPP.
        case unsupported
    }

    public let code: Code
    /// The kernel's errno, positive.
    public let errno: Int32
    public let range: AddressRange

    public init(_ code: Code, errno: Int32, range: AddressRange) {
        self.code = code
        self.errno = errno
        self.range = range
    }
}
