// SPDX-License-Identifier: Apache-2.0

/// What a policy makes a machine do, beyond the faults and purges that every policy has.
public enum Cost: String, CaseIterable, Codable, Sendable {
    case buildTable
    case freeTable
    case freeTableInRun
    case moveTable
    case readEntry
    case lookAtEmptyTable
    case lookAtPopulatedTable
    case lookAtNothing
    case call
    case fence
    case systemCall
    case unmapExtent
    case mapExtent
    case countPage

    public var meaning: String {
        switch self {
        case .buildTable: "a fault that builds a PTE table, more than one that does not"
        case .freeTable: "MADV_DONTNEED over one span that has an empty table"
        case .freeTableInRun: "the same, each of 512 in one call"
        case .moveTable: "mremap of a span to a scratch span, which is mapped over"
        case .readEntry: "the kernel reads one entry (PAGEMAP_SCAN over 512 empty tables)"
        case .lookAtEmptyTable: "a look at an empty table, each of 512"
        case .lookAtPopulatedTable: "a look at a table with one page"
        case .lookAtNothing: "a look that finds no table"
        case .call: "what a call reads besides: VmPTE twice, a VMA"
        case .fence: "UFFDIO_REGISTER, UNREGISTER and WAKE of a run"
        case .systemCall: "a madvise that does nothing"
        case .unmapExtent: "munmap inside a mapping, more than MADV_DONTNEED"
        case .mapExtent: "mmap that closes such a hole"
        case .countPage: "an atomic addition to a count"
        }
    }
}

/// Nanoseconds of each cost, and where they were measured.
public struct Costs: Codable, Equatable, Sendable {
    /// Machine, kernel and day.
    public var measuredOn: String
    private var nanoseconds: [String: Double]

    public init(measuredOn: String, nanoseconds: [Cost: Double]) {
        self.measuredOn = measuredOn
        self.nanoseconds = Dictionary(
            uniqueKeysWithValues: nanoseconds.map { ($0.key.rawValue, $0.value) })
    }

    public subscript(cost: Cost) -> Double {
        get { nanoseconds[cost.rawValue] ?? 0 }
        set { nanoseconds[cost.rawValue] = newValue }
    }

    /// What is wrong with costs that were read from a file, or nil.
    public var complaint: String? {
        for cost in Cost.allCases {
            guard let value = nanoseconds[cost.rawValue] else { return "\(cost) is missing" }
            guard value.isFinite, value >= 0 else { return "\(cost) must be 0 or more" }
        }
        let known = Set(Cost.allCases.map(\.rawValue))
        return nanoseconds.keys.first { !known.contains($0) }.map { "\($0) is no cost" }
    }
}
