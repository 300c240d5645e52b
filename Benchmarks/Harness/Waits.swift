// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import Histogram
import ProcFS
import TextTable

struct Waits: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "How long threads that touch empty spans wait at fences.",
        discussion: """
            Threads write to empty spans at random and give the pages back, while the scan mode frees \
            without a pause (no delay, no watermark, the whole of a core). Each write is timed; one \
            in which the thread slept has waited, for a fence or for the mmap lock. Beside each run \
            the same one with the library switched off, for what page faults cost by themselves.
            """)

    @OptionGroup var options: TableOptions

    @Option(help: "Seconds of each run.")
    var seconds = 20

    @Option(help: "Threads that touch at once; as many as cores, if not given.")
    var threads: Int?

    static let microsecondsAllowed = 150.0

    /// No delay between passes, and nothing that would keep one from freeing.
    static let settings = [
        "PTRECLAIM_DELAY_MS": "0", "PTRECLAIM_BUDGET_PERCENT": "100",
        "PTRECLAIM_WATERMARK_KB": "0",
    ]

    struct Scenario: Encodable {
        let name: String
        let threads: Int
        let maps: Bool
        let isCounted: Bool

        /// - Parameter threads: of the second one.
        static func all(threads: Int?) -> [Scenario] {
            let cores = ProcessInfo.processInfo.activeProcessorCount
            let threads = threads ?? cores
            return [
                Scenario(name: "idle", threads: 1, maps: false, isCounted: true),
                Scenario(
                    name: "\(threads) threads, \(cores) cores", threads: threads, maps: false,
                    isCounted: true),
                Scenario(
                    name: "beside 256 MiB mapped and unmapped", threads: 1, maps: true,
                    isCounted: false),
            ]
        }

        /// Returns the row without the library, and the row with it.
        func play(shim: Shim, seconds: Int) throws -> [WaitRow] {
            let program = try Shim.build(product: "fence-waits", what: "fence-waits")
                .appending(path: "fence-waits").path
            let command = [
                program, "\(threads)", "64", "\(seconds * 1000)", maps ? "map" : "idle",
            ]
            let environment = shim.in(.scan, settings: Waits.settings).environment
            return [
                try WaitRow(self, command, environment: [:], hasShim: false),
                try WaitRow(self, command, environment: environment, hasShim: true),
            ]
        }
    }

    func run() throws {
        guard seconds >= 1, threads ?? 1 >= 1 else {
            throw ValidationError("--seconds and --threads must be 1 or more")
        }
        let shim = try Shim.prepare()
        let machine = Machine.current()
        let scenarios = Scenario.all(threads: threads)
        let length = options.quick ? 3 : seconds
        var rows: [WaitRow] = []
        for (index, scenario) in scenarios.enumerated() {
            Progress.show(index, of: scenarios.count, scenario.name)
            rows += try scenario.play(shim: shim, seconds: length)
        }
        Progress.end()
        let report = TableReport(
            "waits", machine: machine, commands: rows.filter(\.hasShim).map(\.command), rows: rows,
            verdicts: rows.filter(\.hasShim).flatMap(\.verdicts))
        try report.finish(
            options,
            note: "Microseconds. Slept: writes that waited, for a fence or for the mmap lock."
        ) { rows in
            TextTable<WaitRow> { $0.columns }.print(rows)
        }
    }
}

/// Times in nanoseconds.
struct Times {
    /// `NANOSECONDS:COUNT …`, the lowest first.
    let buckets: String
    private let histogram: Histogram<UInt64>
    let countAboveAllowed: UInt64

    var count: UInt64 { histogram.totalCount }
    var p50: UInt64 { quantile(50) }
    var p99: UInt64 { quantile(99) }
    var p999: UInt64 { quantile(99.9) }
    var longest: UInt64 { count > 0 ? histogram.max : 0 }

    /// From `name NANOSECONDS:COUNT …`.
    init(_ line: String) {
        self.init(buckets: line.split(separator: " ").dropFirst().joined(separator: " "))
    }

    init(buckets: String) {
        self.buckets = buckets
        var histogram = Histogram<UInt64>(numberOfSignificantValueDigits: .three)
        var above: UInt64 = 0
        for (nanoseconds, count) in Self.pairs(buckets) {
            histogram.record(nanoseconds, count: count)
            if Double(nanoseconds) > 1000 * Waits.microsecondsAllowed { above += count }
        }
        self.histogram = histogram
        countAboveAllowed = above
    }

    /// How many times took how long.
    var pairs: [(nanoseconds: UInt64, count: UInt64)] { Self.pairs(buckets) }

    private static func pairs(_ buckets: String) -> [(nanoseconds: UInt64, count: UInt64)] {
        buckets.split(separator: " ").compactMap { pair in
            let words = pair.split(separator: ":").compactMap { UInt64($0) }
            return words.count == 2 ? (words[0], words[1]) : nil
        }
    }

    private func quantile(_ percent: Double) -> UInt64 {
        count > 0 ? histogram.valueAtPercentile(percent) : 0
    }
}

/// With what one would ask of it; read back, all is counted from the buckets again.
extension Times: Codable {
    private enum CodingKeys: CodingKey {
        case buckets, count, p50, p99, p999, longest, countAboveAllowed
    }

    init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        let buckets = try container.decode(String.self, forKey: .buckets)
        // Hours, and more than anybody counts: a file that was tampered with.
        guard Self.pairs(buckets).allSatisfy({ $0.nanoseconds < 1 << 44 && $0.count < 1 << 44 })
        else {
            throw DecodingError.dataCorruptedError(
                forKey: .buckets, in: container, debugDescription: "a time or a count is too large")
        }
        self.init(buckets: buckets)
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(buckets, forKey: .buckets)
        try container.encode(count, forKey: .count)
        try container.encode(p50, forKey: .p50)
        try container.encode(p99, forKey: .p99)
        try container.encode(p999, forKey: .p999)
        try container.encode(longest, forKey: .longest)
        try container.encode(countAboveAllowed, forKey: .countAboveAllowed)
    }
}

struct WaitRow: Codable {
    let scenario: String
    /// As one would type it.
    let command: String
    let isCounted: Bool
    let hasShim: Bool
    let touches: Times
    let waits: Times
    let mappingCount: Int
    var fences: UInt64 = 0
    var fencesMet: UInt64 = 0
    var longestFenceNanoseconds: UInt64 = 0
    var backOffs: UInt64 = 0
    var fencesOpened: UInt64 = 0
    var tablesFreed: UInt64 = 0
    /// Tables freed behind one fence: in the first tenth of the run, and in the rest.
    var tablesPerFenceAtFirst = 0.0
    var tablesPerFenceLater = 0.0

    init(
        _ scenario: Waits.Scenario, _ command: [String], environment: [String: String],
        hasShim: Bool
    ) throws {
        self.scenario = scenario.name
        isCounted = scenario.isCounted
        self.hasShim = hasShim
        self.command = RedisServer.line(environment, command)
        let process = try DrivenProcess(command, environment: environment)
        defer { process.stop() }
        var samples: [(freed: UInt64, fences: UInt64)] = []
        func sample() {
            guard hasShim, let page = try? StatsPage.read(pid: process.pid) else { return }
            samples.append((page["tables_freed"] ?? 0, page["fences"] ?? 0))
        }
        sample()
        touches = Times(process.line(meanwhile: sample))
        sample()
        waits = Times(process.line())
        mappingCount = Int(process.line().split(separator: " ").last ?? "") ?? 0
        let wrong = process.line()
        guard wrong == "wrong 0", touches.count > 0 else {
            throw HarnessError("\(process.commandLine): \(wrong)")
        }
        guard hasShim else { return }
        let page = try StatsPage.read(pid: process.pid)
        fencesOpened = page["fences_opened"] ?? 0
        // The watchdog ends fencing where the service thread does not get on; that is a result.
        guard page.mode == "scan" || fencesOpened > 0 else {
            throw HarnessError("no scan mode: \(page.refusal)")
        }
        fences = page["fences"] ?? 0
        fencesMet = page["fences_met"] ?? 0
        longestFenceNanoseconds = page["fence_longest_ns"] ?? 0
        backOffs = page["back_offs"] ?? 0
        tablesFreed = page["tables_freed"] ?? 0
        let middle = samples.count / 10 + 1
        if samples.count > middle, let first = samples.first, let last = samples.last {
            let early = samples[middle]
            tablesPerFenceAtFirst = Self.ratio(
                early.freed &- first.freed, early.fences &- first.fences)
            tablesPerFenceLater = Self.ratio(last.freed &- early.freed, last.fences &- early.fences)
        }
    }

    private static func ratio(_ tables: UInt64, _ fences: UInt64) -> Double {
        fences > 0 ? Double(tables) / Double(fences) : 0
    }

    private func microseconds(_ nanoseconds: UInt64) -> String {
        decimal(Double(nanoseconds) / 1000, 1)
    }

    var columns: [Column] {
        func number(_ title: String, _ value: String) -> Column {
            Column(title: title, value: value, align: .right)
        }
        func time(_ title: String, _ value: UInt64, of times: Times) -> Column {
            number(title, times.count > 0 ? microseconds(value) : "-")
        }
        return [
            Column(title: "", value: scenario),
            Column(title: "mode", value: hasShim ? "scan" : "plain"),
            number("writes", "\(touches.count)"),
            time("p50", touches.p50, of: touches),
            time("p99.9", touches.p999, of: touches),
            time("max", touches.longest, of: touches),
            number("slept", "\(waits.count)"),
            time("p50", waits.p50, of: waits),
            time("p99", waits.p99, of: waits),
            time("p99.9", waits.p999, of: waits),
            time("max", waits.longest, of: waits),
            number(
                "> \(decimal(Waits.microsecondsAllowed, 0))",
                waits.count > 0 ? "\(waits.countAboveAllowed)" : "-"),
            number("fences", hasShim ? "\(fences)" : "-"),
            number("met", hasShim ? "\(fencesMet)" : "-"),
            number("longest", hasShim ? microseconds(longestFenceNanoseconds) : "-"),
            number("back-offs", hasShim ? "\(backOffs)" : "-"),
        ]
    }

    var verdicts: [Verdict] {
        guard fencesOpened == 0 else {
            return [
                Verdict(
                    target: "\(scenario): no fence that is held for 100 ms", status: .failed,
                    measured: "the watchdog has opened one after \(fences), and ended fencing: "
                        + "the service thread did not get on; longest "
                        + "\(microseconds(longestFenceNanoseconds)) us")
            ]
        }
        let measured =
            "p99.9 \(microseconds(waits.p999)) us of \(waits.count) waits, longest "
            + "\(microseconds(waits.longest)); of all writes \(microseconds(touches.p999)) us"
        guard isCounted else {
            return [
                Verdict(
                    target: "\(scenario): reported", status: .notCounted, measured: measured),
                Verdict(
                    target: "\(scenario): fences get shorter where they have become long",
                    status: longestFenceNanoseconds < 1_000_000
                        ? .notCounted : backOffs > 0 ? .passed : .failed,
                    measured: "\(backOffs) times backed off; tables behind a fence "
                        + "\(decimal(tablesPerFenceAtFirst, 1)) at first, "
                        + "\(decimal(tablesPerFenceLater, 1)) later; longest fence "
                        + "\(microseconds(longestFenceNanoseconds)) us; \(fencesOpened) opened"),
            ]
        }
        return [
            Verdict(
                target: "\(scenario): p99.9 of the waits at most "
                    + "\(decimal(Waits.microsecondsAllowed, 0)) us",
                status: waits.count < 1000
                    ? .notResolved
                    : Double(waits.p999) <= 1000 * Waits.microsecondsAllowed ? .passed : .failed,
                measured: measured)
        ]
    }
}
