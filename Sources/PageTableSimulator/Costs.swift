// SPDX-License-Identifier: Apache-2.0

public import Foundation

/// What a policy makes a machine do, beyond the faults and purges that every policy has.
public enum Cost: Int, CaseIterable, Sendable {
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

    /// The spelling in files.
    public var name: String { "\(self)" }

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
            uniqueKeysWithValues: nanoseconds.map { ($0.key.name, $0.value) })
    }

    public subscript(cost: Cost) -> Double {
        get { nanoseconds[cost.name] ?? 0 }
        set { nanoseconds[cost.name] = newValue }
    }

    /// What is wrong with costs that were read from a file, or nil.
    public var complaint: String? {
        for cost in Cost.allCases {
            guard let value = nanoseconds[cost.name] else { return "\(cost) is missing" }
            guard value.isFinite, value >= 0 else { return "\(cost) must be 0 or more" }
        }
        let known = Set(Cost.allCases.map(\.name))
        return nanoseconds.keys.first { !known.contains($0) }.map { "\($0) is no cost" }
    }
}

extension Costs {
    /// What `ptreclaim costs` measured where this was written.
    public static let `default` = Costs(
        measuredOn: "AMD EPYC, 2 CPUs, Linux 6.18.44-fc-v669, 2026-11-27",
        nanoseconds: [
            .buildTable: 501,
            .freeTable: 1322,
            .freeTableInRun: 464,
            .moveTable: 6700,
            .readEntry: 0.87,
            .lookAtEmptyTable: 447,
            .lookAtPopulatedTable: 1122,
            .lookAtNothing: 912,
            .call: 26710,
            .fence: 3415,
            .systemCall: 310,
            .unmapExtent: 3196,
            .mapExtent: 1862,
            .countPage: 4.73,
        ])
}

// MARK: - Files

extension Costs {
    /// What `ptreclaim costs --json` wrote.
    public static func read(from data: Data) throws(CostsError) -> Costs {
        let costs: Costs
        do {
            costs = try JSONDecoder().decode(Costs.self, from: data)
        } catch {
            throw CostsError("no costs: \(Self.reason(error))")
        }
        if let complaint = costs.complaint { throw CostsError("bad costs: \(complaint)") }
        return costs
    }

    private static func reason(_ error: any Error) -> String {
        switch error {
        case DecodingError.keyNotFound(let key, _): "\(key.stringValue) is missing"
        case DecodingError.typeMismatch(_, let context),
            DecodingError.valueNotFound(_, let context):
            "\(context.codingPath.last?.stringValue ?? "the document") is of another type"
        default: "not JSON"
        }
    }

    /// For `read(from:)`: the same costs on every run give the same bytes.
    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return try encoder.encode(self) + Data("\n".utf8)
    }
}

/// Why a file has no costs, in one line.
public struct CostsError: Error, Equatable, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}
