// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import ProcFS

/// The one formatter: for people and for machines.
enum Format {
    static func json(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return escaped(String(decoding: try encoder.encode(value), as: UTF8.self))
    }

    /// JSON whose strings hold nothing that a terminal would obey: the encoder leaves U+007F to U+009F.
    static func escaped(_ json: String) -> String {
        let controls = "\u{7f}"..."\u{9f}" as ClosedRange<Unicode.Scalar>
        guard json.unicodeScalars.contains(where: { controls.contains($0) }) else { return json }
        return json.unicodeScalars.reduce(into: "") { text, scalar in
            if controls.contains(scalar) {
                text += String(format: "\\u%04x", scalar.value)
            } else {
                text.unicodeScalars.append(scalar)
            }
        }
    }

    static func human(_ census: PageTableCensus) -> String {
        var lines = [
            "\(census.pid) \(ScreenText.printable(census.command))",
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
                let name = range.name.isEmpty ? "anonymous" : ScreenText.printable(range.name)
                lines.append("  \(bounds)  \(range.emptyTables)  \(name)")
            }
        }
        return lines.joined(separator: "\n")
    }

    /// The short form leaves out what is zero and counted by a mode that is not in use.
    static func human(_ page: StatsPage, all: Bool) -> String {
        var lines = [
            row("mode", page.mode),
            row("switched off", page.isOff ? "yes, by ptreclaim ctl \(page.pid) off" : "no"),
            row("tables freed by", StatsJSON.backendName(page)),
        ]
        for counter in page.counters where all || counter.value > 0 || page.counts(counter.group) {
            let head = row(counter.name, "\(counter.value)")
            lines.append(
                head.explained(by: counter.meaning, from: 26, to: Terminal.textColumns))
        }
        if !page.kept.isEmpty {
            lines.append("tables kept, by reason:")
            for (reason, count) in page.kept { lines.append("  " + row(reason, "\(count)")) }
        }
        lines += histogram(page.fencesMetByMicroseconds)
        return lines.joined(separator: "\n")
    }

    /// One line for each power of two from the lowest to the highest that was seen; none for none.
    private static func histogram(_ counts: [UInt64]) -> [String] {
        guard let first = counts.firstIndex(where: { $0 > 0 }),
            let last = counts.lastIndex(where: { $0 > 0 }), let most = counts.max()
        else { return [] }
        let lines = (first...last).map { index in
            let bound =
                index < counts.count - 1
                ? "below \(1 << index) us" : "\(1 << (index - 1)) us or more"
            // Whatever is not zero is to be seen. The page may hold any number.
            let length = (Double(counts[index]) / Double(most) * 40).rounded(.up)
            return "  " + row(bound, "\(counts[index])".padded(to: 8))
                + String(repeating: "#", count: Int(length))
        }
        return ["fences that a thread met, by the length of the fence:"] + lines
    }

    static func row(_ label: String, _ value: String) -> String {
        label.padded(to: 22) + value
    }

    static func milliseconds(_ nanoseconds: UInt64) -> String {
        String(format: "%.2f ms", Double(nanoseconds) / 1e6)
    }

    static func kilobytes(_ byteCount: UInt?) -> String {
        byteCount.map { "\($0 / 1024) kB" } ?? "unknown"
    }

    /// In the largest unit of which it has one; without decimals where there are none.
    static func binary(_ byteCount: UInt) -> String {
        let value = Double(byteCount)
        for (unit, name) in [(0x1p40, "TiB"), (0x1p30, "GiB"), (0x1p20, "MiB")]
        where value >= unit {
            let number = value / unit
            let text = String(format: number == number.rounded() ? "%.0f" : "%.1f", number)
            return "\(text) \(name)"
        }
        return "\(byteCount >> 10) KiB"
    }

    /// A census in one line.
    static func figures(_ census: PageTableCensus) -> String {
        "VmPTE \(kilobytes(census.vmPTEByteCount)), needed \(kilobytes(census.neededByteCount)), "
            + "waste \(kilobytes(census.wasteByteCount))\(percent(census.wastePercent)); "
            + "PTE tables: \(tables(census.tables))"
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

    static func hexadecimal(_ value: UInt) -> String { String(value, radix: 16) }
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

extension String {
    /// With spaces behind, two at least.
    func padded(to count: Int) -> String {
        self + String(repeating: " ", count: max(count - self.count, 2))
    }
}

extension StatsPage {
    /// Whether its mode is one in which `group` counts.
    func counts(_ group: Group) -> Bool {
        switch group {
        case .refusal: false
        case .hooks: mode.hasPrefix("hooks")
        case .purges: mode == "madvise"
        case .passes: hasServiceThread
        }
    }
}

/// Schema ptreclaim.stats/2.
struct StatsJSON: Encodable {
    private let schema = "ptreclaim.stats/2"
    private let pid: Int32
    private let mode: String
    private let isOff: Bool
    private let backend: String
    private let counters: [String: UInt64]
    private let kept: [String: UInt64]
    private let fencesMetByMicroseconds: [UInt64]

    private enum CodingKeys: String, CodingKey {
        case schema, pid, mode, backend, counters, kept
        case isOff = "is_off"
        case fencesMetByMicroseconds = "fences_met_by_microseconds"
    }

    init(_ page: StatsPage) {
        pid = page.pid
        mode = page.mode
        isOff = page.isOff
        backend = Self.backendName(page)
        counters = Dictionary(uniqueKeysWithValues: page.counters.map { ($0.name, $0.value) })
        kept = Dictionary(uniqueKeysWithValues: page.kept.map { ($0.reason, $0.count) })
        fencesMetByMicroseconds = page.fencesMetByMicroseconds
    }

    /// Behind a fence it is always `dontneed`; the page has the hooks' only.
    static func backendName(_ page: StatsPage) -> String {
        page.backend == 0 && page.hasServiceThread
            ? "dontneed" : ["none", "dontneed", "remap", "mapfixed"][min(Int(page.backend), 3)]
    }
}
