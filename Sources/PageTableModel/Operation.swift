// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

/// One system call or one access, as a program makes it. A model and a live process both play it.
public enum Operation: Equatable, Sendable {
    /// `mmap(MAP_FIXED)`. A file's offset is the address of the mapping, less a constant; hugetlb is
    /// always mapped with MAP_NORESERVE.
    case mmap(AddressRange, VMA.Kind, VMA.Protection, MapFlags)
    case munmap(AddressRange)
    /// `mremap` of `from` to `byteCount` bytes.
    case mremap(AddressRange, byteCount: UInt, Target)
    case mprotect(AddressRange, VMA.Protection)
    case madvise(AddressRange, Advice)
    /// `mlock2`.
    case mlock(AddressRange, onFault: Bool)
    case munlock(AddressRange)
    /// One byte is read, by an instruction.
    case read(UInt)
    /// One byte is written, by an instruction; it stands for the contents of its page.
    case write(UInt, UInt8)
    /// A child is made, looked at, and gone.
    case fork
    /// UFFDIO_REGISTER with a userfaultfd of the program's own.
    case register(AddressRange, UserfaultMode)
    case unregister(AddressRange)
    /// UFFDIO_WRITEPROTECT, with UFFD_FEATURE_WP_UNPOPULATED where the kernel has it.
    case writeProtect(AddressRange, Bool)
    /// `madvise(MADV_PT_RECLAIM)`, which no kernel has: `ptReclaim(range:access: .owned)`.
    case reclaim(AddressRange)

    /// Where `mremap` puts the memory.
    public enum Target: Equatable, Sendable {
        /// No flags: it grows or shrinks where it is.
        case inPlace
        /// MREMAP_MAYMOVE | MREMAP_FIXED.
        case fixed(UInt)
        /// MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP.
        case keepingSource(UInt)
    }

    /// Flags of `mmap` beyond those of the kind.
    public struct MapFlags: OptionSet, Hashable, Sendable {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }

        /// MAP_NORESERVE.
        public static let noReserve = MapFlags(rawValue: 1 << 0)
        /// MAP_POPULATE.
        public static let populate = MapFlags(rawValue: 1 << 1)
        /// MAP_FIXED_NOREPLACE in place of MAP_FIXED.
        public static let noReplace = MapFlags(rawValue: 1 << 2)
    }

    public enum UserfaultMode: String, CaseIterable, Sendable {
        case missing
        case writeProtect = "wp"
    }

    /// Advice by the kernel's number.
    public enum Advice: Int32, CaseIterable, Sendable {
        case dontneed = 4
        case free = 8
        case dontfork = 10
        case dofork = 11
        case hugepage = 14
        case nohugepage = 15
        case dontdump = 16
        case dodump = 17
        case pageout = 21
        case populateRead = 22
        case populateWrite = 23
        case dontneedLocked = 24
        case collapse = 25
        case guardInstall = 102
        case guardRemove = 103
    }
}
