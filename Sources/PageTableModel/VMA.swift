// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

/// A virtual memory area: neighbouring pages of one kind with the same attributes.
public struct VMA: Equatable, Sendable {
    public enum Kind: Hashable, Sendable {
        /// `MAP_PRIVATE | MAP_ANONYMOUS`.
        case anonymousPrivate
        /// `MAP_SHARED` of a file in memory.
        case shared(file: Int)
        /// `MAP_SHARED | MAP_ANONYMOUS`, to be mapped: a file of its own, as long as the mapping. Once
        /// mapped it is `shared`.
        case sharedAnonymous
        /// `MAP_PRIVATE` of such a file: written pages are copies.
        case privateFile(file: Int)
        /// `MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB`, of 2 MiB pages.
        case hugetlb
        /// Made by the kernel or a driver; nobody reclaims from it.
        case special

        var file: Int? {
            switch self {
            case .shared(let file), .privateFile(let file): file
            case .anonymousPrivate, .sharedAnonymous, .hugetlb, .special: nil
            }
        }

        /// Whether pages of this VMA are a file's, at first or for ever.
        var isFile: Bool { file != nil }
        /// hugetlb is VM_SPECIAL, too, and each mapping of it a file of its own.
        var canMerge: Bool { self != .special && self != .hugetlb }
        var isAnonymous: Bool { self == .anonymousPrivate }
        var isShared: Bool {
            switch self {
            case .shared, .sharedAnonymous: true
            case .anonymousPrivate, .privateFile, .hugetlb, .special: false
            }
        }
    }

    /// PROT_READ, PROT_WRITE, PROT_EXEC by their numbers.
    public struct Protection: OptionSet, Hashable, Sendable {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }

        public static let none: Protection = []
        public static let read = Protection(rawValue: 1)
        public static let write = Protection(rawValue: 2)
        public static let execute = Protection(rawValue: 4)
        public static let readWrite: Protection = [.read, .write]
    }

    /// What makes neighbouring VMAs differ, besides their protection.
    public struct Attributes: OptionSet, Hashable, Sendable {
        public let rawValue: UInt16
        public init(rawValue: UInt16) { self.rawValue = rawValue }

        /// mlock (VM_LOCKED); `MADV_DONTNEED` is refused.
        public static let locked = Attributes(rawValue: 1 << 0)
        /// VM_NOHUGEPAGE.
        public static let noHugePage = Attributes(rawValue: 1 << 1)
        /// VM_DONTDUMP.
        public static let dontDump = Attributes(rawValue: 1 << 2)
        /// Registered with a userfaultfd for missing pages (VM_UFFD_MISSING).
        public static let missingRegistered = Attributes(rawValue: 1 << 3)
        /// Registered with a userfaultfd for write protection (VM_UFFD_WP).
        public static let writeProtectRegistered = Attributes(rawValue: 1 << 4)
        /// VM_HUGEPAGE.
        public static let hugePage = Attributes(rawValue: 1 << 5)
        /// VM_DONTCOPY: a child does not get it.
        public static let dontFork = Attributes(rawValue: 1 << 6)
        /// Its pages are accounted to overcommit (VM_ACCOUNT).
        public static let accounted = Attributes(rawValue: 1 << 7)
        /// MAP_NORESERVE (VM_NORESERVE).
        public static let noReserve = Attributes(rawValue: 1 << 8)
        /// mlock2(MLOCK_ONFAULT) (VM_LOCKONFAULT), always with `locked`.
        public static let lockedOnFault = Attributes(rawValue: 1 << 9)
        /// There may be guard markers (VM_MAYBE_GUARD); never cleared.
        public static let mayHaveGuards = Attributes(rawValue: 1 << 10)

        static let registered: Attributes = [.missingRegistered, .writeProtectRegistered]
    }

    public internal(set) var range: AddressRange
    public internal(set) var kind: Kind
    public internal(set) var protection: Protection
    public internal(set) var attributes: Attributes
    /// The page number (VM's `vm_pgoff`) that stands at `start`: of the file, or for memory without
    /// one of the address at which its first page was written.
    public internal(set) var pageOffset: UInt
    /// Which `anon_vma` the first written page tied this VMA to; nil before. Two VMAs that were
    /// tied apart never merge, however much they look alike.
    public internal(set) var anonVMA: Int?

    init(
        range: AddressRange, kind: Kind = .anonymousPrivate, protection: Protection = .readWrite,
        attributes: Attributes = [], pageOffset: UInt? = nil, anonVMA: Int? = nil
    ) {
        self.range = range
        self.kind = kind
        self.protection = protection
        self.attributes = attributes
        self.pageOffset = pageOffset ?? range.start / PageGeometry.pageByteCount
        self.anonVMA = anonVMA
    }

    public var start: UInt { range.start }
    public var end: UInt { range.end }
    public var pageCount: UInt { range.byteCount / PageGeometry.pageByteCount }

    func pageOffset(of address: UInt) -> UInt {
        pageOffset &+ (address &- start) / PageGeometry.pageByteCount
    }
}
