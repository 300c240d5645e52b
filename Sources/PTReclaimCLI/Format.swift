// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import ProcFS

/// The one formatter: for people and for machines.
enum Format {
    static func json(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }

    static func human(_ census: PageTableCensus) -> String {
        var lines = [
            "\(census.pid) \(census.command)",
            row("VmPTE", kilobytes(census.vmPTEByteCount)),
            row("needed by live pages", kilobytes(census.neededByteCount)),
            row("waste", kilobytes(census.wasteByteCount) + percent(census.wastePercent)),
            row("PTE tables", tables(census.tables)),
            row("PMD and PUD tables", kilobytes(census.pmdPUDByteCount)),
        ]
        if !census.worst.isEmpty {
            lines.append("most empty tables in:")
            for range in census.worst {
                let bounds = "\(hexadecimal(range.start))-\(hexadecimal(range.end))"
                let name = range.name.isEmpty ? "anonymous" : range.name
                lines.append("  \(bounds)  \(range.emptyTables)  \(name)")
            }
        }
        return lines.joined(separator: "\n")
    }

    static func human(_ page: StatsPage) -> String {
        var lines = [
            row("mode", page.mode),
            row("tables freed by", StatsJSON.backendName(page.backend)),
        ]
        for counter in page.counters where !counter.isRefusal || counter.value > 0 {
            lines.append(row(counter.name, "\(counter.value)") + "  \(counter.meaning)")
        }
        return lines.joined(separator: "\n")
    }

    private static func row(_ label: String, _ value: String) -> String {
        label.padding(toLength: 22, withPad: " ", startingAt: 0) + value
    }

    private static func kilobytes(_ byteCount: UInt?) -> String {
        byteCount.map { "\($0 / 1024) kB" } ?? "unknown"
    }

    private static func percent(_ value: Double?) -> String {
        value.map { String(format: " (%.1f %%)", $0) } ?? ""
    }

    private static func tables(_ tables: PageTableCensus.Tables) -> String {
        guard let live = tables.live, let empty = tables.empty,
            let reclaimable = tables.reclaimable
        else { return "unknown" }
        return "\(live) live, \(empty) empty, \(reclaimable) of these reclaimable"
    }

    private static func hexadecimal(_ value: UInt) -> String { String(value, radix: 16) }
}

/// Schema ptreclaim.inspect/1: a census with a name for its form.
struct CensusJSON: Encodable {
    private let census: PageTableCensus

    init(_ census: PageTableCensus) { self.census = census }

    private enum Key: CodingKey { case schema }

    func encode(to encoder: any Encoder) throws {
        var object = encoder.container(keyedBy: Key.self)
        try object.encode("ptreclaim.inspect/1", forKey: .schema)
        try census.encode(to: encoder)
    }
}

/// Schema ptreclaim.stats/1.
struct StatsJSON: Encodable {
    private let schema = "ptreclaim.stats/1"
    private let pid: Int32
    private let mode: String
    private let backend: String
    private let counters: [String: UInt64]

    init(_ page: StatsPage) {
        pid = page.pid
        mode = page.mode
        backend = Self.backendName(page.backend)
        counters = Dictionary(uniqueKeysWithValues: page.counters.map { ($0.name, $0.value) })
    }

    static func backendName(_ value: UInt32) -> String {
        ["none", "dontneed", "remap", "mapfixed"][min(Int(value), 3)]
    }
}
