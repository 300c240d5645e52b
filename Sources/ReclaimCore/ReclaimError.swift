// SPDX-License-Identifier: Apache-2.0

/// Why a table was left where it is. One spelling, everywhere: reports, JSON, counters.
public enum KeptReason: UInt8, Sendable {
    /// The range covers the span only in part.
    case partial
    /// An entry is not none.
    case populated
    /// There is no table to free.
    case absent
    /// The span crosses a VMA boundary or reaches into a hole.
    case crossesVMA
    /// Hugetlb, PFN-mapped or otherwise special memory.
    case specialVMA
    /// A page appeared between the look and the free.
    case refilled
    /// The backend refused; the table is as it was.
    case backendFailed
    /// The free was made and a second look still found the table.
    case stillThere

    /// The spelling in reports, camel case.
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
        }
    }
}

/// A call of the kernel failed in a way that is not an answer.
public struct ReclaimError: Error, Equatable, Sendable {
    public enum Code: UInt8, Sendable {
        /// The arguments are wrong: EINVAL.
        case invalidRange
        /// The table could not be looked at.
        case lookFailed
        /// `madvise(MADV_DONTNEED)` failed.
        case discardFailed
        /// The backend failed.
        case freeFailed
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

/// What a walk did. Plain counters; no text.
public struct ReclaimReport: Equatable, Sendable {
    /// Spans whose table was looked at.
    public var tablesExamined = 0
    /// Tables that a second look found gone.
    public var tablesFreed = 0
    /// Spans kept, by `KeptReason.rawValue`.
    public var kept: KeptCounts = KeptCounts()
    /// VmPTE in bytes before and after, where it can be read.
    public var vmPTEBefore: UInt?
    public var vmPTEAfter: UInt?

    public init() {}
}

/// One counter per `KeptReason`, without an allocation.
public struct KeptCounts: Equatable, Sendable {
    private var counts: (Int, Int, Int, Int, Int, Int, Int, Int) = (0, 0, 0, 0, 0, 0, 0, 0)

    public init() {}

    public subscript(reason: KeptReason) -> Int {
        get {
            switch reason {
            case .partial: counts.0
            case .populated: counts.1
            case .absent: counts.2
            case .crossesVMA: counts.3
            case .specialVMA: counts.4
            case .refilled: counts.5
            case .backendFailed: counts.6
            case .stillThere: counts.7
            }
        }
        set {
            switch reason {
            case .partial: counts.0 = newValue
            case .populated: counts.1 = newValue
            case .absent: counts.2 = newValue
            case .crossesVMA: counts.3 = newValue
            case .specialVMA: counts.4 = newValue
            case .refilled: counts.5 = newValue
            case .backendFailed: counts.6 = newValue
            case .stillThere: counts.7 = newValue
            }
        }
    }

    public static func == (left: KeptCounts, right: KeptCounts) -> Bool {
        left.counts.0 == right.counts.0 && left.counts.1 == right.counts.1
            && left.counts.2 == right.counts.2 && left.counts.3 == right.counts.3
            && left.counts.4 == right.counts.4 && left.counts.5 == right.counts.5
            && left.counts.6 == right.counts.6 && left.counts.7 == right.counts.7
    }
}

// Needs an array, and so cannot be compiled into an allocator's hook.
#if !SHIM_SINGLE_MODULE
    extension KeptReason: CaseIterable {}
#endif
