// SPDX-License-Identifier: Apache-2.0

/// Why a table was left where it is. One spelling, everywhere: reports, JSON, counters.
///
/// Raw values are numbers of the C interface and of the stats page: new reasons go to the end.
public enum KeptReason: UInt8, Sendable {
    /// The range covers the span only in part.
    case partial = 0
    /// An entry is not none: a page, the zero page, a swap entry, a uffd-wp or guard marker.
    case populated = 1
    /// There is no table to free.
    case absent = 2
    /// The span crosses a VMA boundary or reaches into a hole.
    case crossesVMA = 3
    /// Hugetlb, PFN-mapped or otherwise special memory.
    case specialVMA = 4
    /// A page appeared between the first look and the last.
    case refilled = 5
    /// The backend refused; the table is as it was.
    case backendFailed = 6
    /// The free was made and a second look still found the table.
    case stillThere = 7
    /// Nothing is mapped there.
    case unmapped = 8
    /// The stack of the thread that called, below where it is in use.
    case ownStack = 9
    /// A private mapping of a file or memfd, which no fence protects.
    case privateFile = 10
    /// Registered for uffd write protection: nobody else can fence it.
    case writeProtectRegistered = 11
    /// Registered with somebody else's userfaultfd (EBUSY).
    case registered = 12
    /// No userfaultfd that stops the kernel's own accesses is to be had.
    case fenceUnavailable = 13
    /// mlocked, and the only backend here would unlock it.
    case locked = 14
    /// The process has as many mappings as `vm.max_map_count` allows (ENOMEM).
    case tooManyMappings = 15
    /// The only backend here would lose attributes of the VMA.
    case losesAttributes = 16
    /// The process was forking all the while.
    case forking = 17
    /// Of the preload library's thread only: mapped by calls that it did not see, so it might be
    /// unmapped unseen.
    case unseenMapping = 18
    /// Of the preload library's thread only: somebody has switched the range off, and it was not
    /// looked at.
    case switchedOff = 19

    /// The spelling in reports, camel case. In C `ptreclaim_kept_name`.
    public var name: StaticString {
        switch self {
        case .partial: "partial"
        case .populated: "populated"
        case .absent: "absent"
        case .crossesVMA: "crossesVMA"
        case .specialVMA: "specialVMA"
        case .refilled: "refilled"
        case .backendFailed: "backendFailed"
        case .stillThere: "stillThere"
        case .unmapped: "unmapped"
        case .ownStack: "ownStack"
        case .privateFile: "privateFile"
        case .writeProtectRegistered: "writeProtectRegistered"
        case .registered: "registered"
        case .fenceUnavailable: "fenceUnavailable"
        case .locked: "locked"
        case .tooManyMappings: "tooManyMappings"
        case .losesAttributes: "losesAttributes"
        case .forking: "forking"
        case .unseenMapping: "unseenMapping"
        case .switchedOff: "switchedOff"
        }
    }

    /// How many reasons there are.
    public static var count: Int { 20 }
}

/// One counter per `KeptReason`, in spans of 2 MiB, without an allocation.
public struct KeptCounts: Equatable, Sendable {
    private var counts = InlineArray<20, Int>(repeating: 0)

    /// All zero.
    public init() {}

    /// How many spans were kept for this reason.
    public subscript(reason: KeptReason) -> Int {
        get { counts[Int(reason.rawValue)] }
        set { counts[Int(reason.rawValue)] = newValue }
    }

    /// Adds the counts of another call, reason by reason.
    public mutating func add(_ other: KeptCounts) {
        for index in counts.indices { counts[index] += other.counts[index] }
    }

    /// Whether the counts are the same for every reason.
    public static func == (left: KeptCounts, right: KeptCounts) -> Bool {
        for index in left.counts.indices where left.counts[index] != right.counts[index] {
            return false
        }
        return true
    }
}

// Needs an array, and so cannot be compiled into an allocator's hook.
#if !SHIM_SINGLE_MODULE
    extension KeptReason: CaseIterable {}
#endif
