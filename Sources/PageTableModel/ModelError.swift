// SPDX-License-Identifier: Apache-2.0

/// What a modelled system call fails with.
public struct ModelError: Error, Equatable, Sendable {
    /// The kernel's errno, positive.
    public let errno: Int32

    /// The arguments are wrong, or the memory is locked: EINVAL.
    public static let invalid = ModelError(errno: 22)
    /// There is a hole in the range, or no room: ENOMEM.
    public static let noMemory = ModelError(errno: 12)
    /// Nothing may be accessed there: EFAULT from a system call, SIGSEGV from an instruction.
    public static let fault = ModelError(errno: 14)
    /// Something is mapped there already: EEXIST.
    public static let exists = ModelError(errno: 17)
    /// Entries that are none in memory that a userfaultfd watches: EBUSY.
    public static let busy = ModelError(errno: 16)
    /// Not registered with a userfaultfd for this: ENOENT.
    public static let notRegistered = ModelError(errno: 2)
    /// A userfaultfd handler would have to answer first, or a file has no such page, where a program
    /// gets SIGBUS: EAGAIN.
    public static let wouldBlock = ModelError(errno: 11)
}
