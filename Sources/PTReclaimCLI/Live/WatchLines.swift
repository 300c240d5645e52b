// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import ProcFS

/// A process in lines, one for each sample, for a pipe or a file.
struct WatchLines {
    let interval: Duration
    /// Samples, at most; nil for no end.
    let limit: Int?
    let isJSON: Bool

    func run(_ watcher: Watcher) throws {
        var watcher = watcher
        if !isJSON { write(WatchLine.heading) }
        var due = ContinuousClock.now
        for count in 1... {
            let sample = watcher.sample()
            if isJSON {
                write(try Format.jsonLine(WatchJSON(sample, pid: watcher.pid)))
            } else if let line = WatchLine(sample) {
                write(line.text)
            }
            for event in sample.events {
                PTReclaimCommand.note(
                    "process \(watcher.pid) \(ScreenText.printable(event.text))", command: "watch")
            }
            guard sample.glance != nil, count < limit ?? .max else { return }
            due = max(due + interval, .now)
            // Signals end it as they end any program.
            let left = (due - .now) / .microseconds(1)
            if left > 0 { Thread.sleep(forTimeInterval: left / 1e6) }
        }
    }

    /// Whoever reads the other end of a pipe has each line at once.
    private func write(_ line: String) {
        print(line)
        if let failure = StandardOutput.flush() {
            PTReclaimCommand.fail(failure, command: "watch")
        }
    }
}

/// One line: columns in a fixed order, a minus for what is unknown.
private struct WatchLine {
    let text: String

    private static let columns = [
        ("time", 20), ("vm_pte_kb", 10), ("needed_kb", 10), ("waste_kb", 10), ("waste_percent", 14),
        ("rss_kb", 10), ("waste_age_s", 12), ("mode", 11), ("tables_freed", 13),
        ("spans_zapped", 13),
    ]

    static var heading: String { aligned(columns.map(\.0)) }

    private static func aligned(_ values: [String]) -> String {
        zip(values, columns).map { value, column in
            String(repeating: " ", count: max(column.1 - value.count, 0)) + value
        }.joined(separator: " ")
    }

    /// Nil where the process has ended.
    init?(_ sample: WatchSample) {
        guard let glance = sample.glance else { return nil }
        let census = sample.census
        let page = try? sample.library.get()
        func kilobytes(_ byteCount: UInt?) -> String { byteCount.map { "\($0 / 1024)" } ?? "-" }
        func decimal(_ value: Double?) -> String { value.map { String(format: "%.1f", $0) } ?? "-" }
        func counter(_ name: String) -> String { page?[name].map { "\($0)" } ?? "-" }
        text = Self.aligned([
            sample.time.ISO8601Format(), kilobytes(glance.vmPTEByteCount),
            kilobytes(census?.neededByteCount), kilobytes(census?.wasteByteCount),
            decimal(census?.wastePercent), kilobytes(glance.rssByteCount),
            decimal(sample.censusAge.map { $0 / .seconds(1) }), page?.mode ?? "-",
            counter("tables_freed"), counter("spans_zapped"),
        ])
    }
}

/// Schema ptreclaim.watch/1, one object a line. Bytes, seconds; unknown is null, never a missing key.
///
/// `time` is ISO 8601, UTC. `waste_age_seconds` is how long ago `needed_bytes` and `waste_bytes` were
/// true. `library` is null where it is not loaded or cannot be read. `events` happened since the line
/// before; each has `kind` (`forked`, `executed`, `ended`), and `pid` of the child or `program`. In the
/// line of `ended` all figures are null.
private struct WatchJSON: Encodable {
    private let sample: WatchSample
    private let pid: Int32

    init(_ sample: WatchSample, pid: Int32) {
        self.sample = sample
        self.pid = pid
    }

    private enum Key: String, CodingKey {
        case schema, pid, time, command, library, events
        case vmPTE = "vm_pte_bytes"
        case needed = "needed_bytes"
        case waste = "waste_bytes"
        case wastePercent = "waste_percent"
        case wasteAge = "waste_age_seconds"
        case rss = "rss_bytes"
    }

    private struct Library: Encodable {
        let mode: String
        let isOff: Bool
        let counters: [String: UInt64]

        private enum CodingKeys: String, CodingKey {
            case mode, counters
            case isOff = "is_off"
        }
    }

    private struct Event: Encodable {
        let event: WatchEvent

        private enum Key: CodingKey { case kind, pid, program }

        func encode(to encoder: any Encoder) throws {
            var object = encoder.container(keyedBy: Key.self)
            switch event {
            case .forked(let child):
                try object.encode("forked", forKey: .kind)
                try object.encode(child, forKey: .pid)
            case .executed(let program):
                try object.encode("executed", forKey: .kind)
                try object.encode(program, forKey: .program)
            case .ended: try object.encode("ended", forKey: .kind)
            }
        }
    }

    func encode(to encoder: any Encoder) throws {
        let library = (try? sample.library.get()).map { page in
            Library(
                mode: page.mode, isOff: page.isOff,
                counters: Dictionary(
                    uniqueKeysWithValues: page.counters.map { ($0.name, $0.value) }))
        }
        var object = encoder.container(keyedBy: Key.self)
        try object.encode("ptreclaim.watch/1", forKey: .schema)
        try object.encode(pid, forKey: .pid)
        try object.encode(sample.time.ISO8601Format(), forKey: .time)
        try object.encode(sample.glance?.command, forKey: .command)
        try object.encode(sample.glance?.vmPTEByteCount, forKey: .vmPTE)
        try object.encode(sample.census?.neededByteCount, forKey: .needed)
        try object.encode(sample.census?.wasteByteCount, forKey: .waste)
        try object.encode(sample.census?.wastePercent, forKey: .wastePercent)
        try object.encode(sample.censusAge.map { $0 / .seconds(1) }, forKey: .wasteAge)
        try object.encode(sample.glance?.rssByteCount, forKey: .rss)
        try object.encode(sample.glance == nil ? nil : library, forKey: .library)
        try object.encode(sample.events.map { Event(event: $0) }, forKey: .events)
    }
}

extension Format {
    static func jsonLine(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }
}
