// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import ProcFS
import TextTable

struct IdleScan: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "idle-scan",
        abstract: "CPU time of the service thread in a process that has memory and does nothing.",
        discussion: """
            1 GB, all of it written to; with 10 TB of reserved address space, too. The settings are \
            the default ones: a pass each second, and rarer where it finds nothing.
            """)

    @OptionGroup var options: TableOptions

    @Option(help: "Seconds that are measured.")
    var seconds = 60

    static let percentAllowed = 0.1

    struct Row: Encodable {
        let name: String
        let mode: Mode
        let seconds: Double
        /// Of the whole process. Only the service thread and the watchdog run.
        let cpuSeconds: Double
        let serviceSeconds: Double
        let passes: UInt64
        let passesCutShort: UInt64
        let tablesLookedAt: UInt64

        var percent: Double { 100 * max(cpuSeconds, serviceSeconds) / seconds }
    }

    func run() throws {
        guard seconds >= 1 else { throw ValidationError("--seconds must be 1 or more") }
        let shim = try Shim.prepare()
        let program = try Shim.build(product: "idle-space", what: "idle-space")
            .appending(path: "idle-space").path
        let machine = Machine.current()
        let kinds = [
            ("1 GB", ["1024", "1", "1"]), ("1 GB of 10 TB", ["1024", "10240", "64"]),
        ]
        var victims: [(name: String, mode: Mode, process: DrivenProcess)] = []
        defer { for victim in victims { victim.process.stop() } }
        for mode in [Mode.scan, .madvise] {
            for (name, arguments) in kinds {
                let process = try DrivenProcess(
                    [program] + arguments, environment: shim.in(mode).environment)
                victims.append((name, mode, process))
            }
        }
        // The first pass is not idle: it has all the memory to find.
        Thread.sleep(forTimeInterval: 2)
        let length = Double(options.quick ? 10 : seconds)
        let before = try victims.map { try Sample($0.process.pid) }
        let end = ContinuousClock.now + .seconds(length)
        while ContinuousClock.now < end {
            Progress.show(0, of: 1, "\(decimal(length, 0)) s of nothing")
            Thread.sleep(forTimeInterval: 0.5)
        }
        Progress.end()
        let rows = try zip(victims, before).map { victim, before in
            try Sample(victim.process.pid).since(before, name: victim.name, mode: victim.mode)
        }
        let verdicts = rows.map { row in
            Verdict(
                target: "\(row.mode.rawValue), \(row.name): at most "
                    + "\(decimal(Self.percentAllowed, 1)) % of one core",
                status: row.percent <= Self.percentAllowed ? .passed : .failed,
                measured: "\(decimal(row.percent, 3)) %, \(row.passes) passes")
        }
        let report = TableReport(
            "idle-scan", machine: machine, commands: victims.map(\.process.commandLine),
            rows: rows, verdicts: verdicts)
        try report.finish(options, note: "") { rows in
            TextTable<Row> { row in
                [
                    Column(title: "mode", value: row.mode.rawValue),
                    Column(title: "", value: row.name),
                    Column(title: "seconds", value: decimal(row.seconds, 1), align: .right),
                    Column(title: "passes", value: "\(row.passes)", align: .right),
                    Column(title: "cut short", value: "\(row.passesCutShort)", align: .right),
                    Column(title: "tables", value: "\(row.tablesLookedAt)", align: .right),
                    Column(
                        title: "service ms", value: decimal(1000 * row.serviceSeconds, 2),
                        align: .right),
                    Column(
                        title: "process ms", value: decimal(1000 * row.cpuSeconds, 2),
                        align: .right),
                    Column(title: "% of a core", value: decimal(row.percent, 3), align: .right),
                ]
            }.print(rows)
        }
    }

    private struct Sample {
        let time = ContinuousClock.now
        let cpuSeconds: Double
        let page: StatsPage

        init(_ pid: Int32) throws {
            page = try StatsPage.read(pid: pid)
            cpuSeconds = try ProcessStatus.read(pid: pid).cpuSeconds
            guard page.mode != "off" else {
                let reasons = page.counters.filter { $0.group == .refusal && $0.value > 0 }.map(
                    \.meaning)
                throw HarnessError("the library is off: \(reasons.joined(separator: "; "))")
            }
        }

        func since(_ before: Sample, name: String, mode: Mode) -> Row {
            func grown(_ counter: String) -> UInt64 {
                (page[counter] ?? 0) - (before.page[counter] ?? 0)
            }
            return Row(
                name: name, mode: mode, seconds: (time - before.time).seconds,
                cpuSeconds: cpuSeconds - before.cpuSeconds,
                serviceSeconds: Double(grown("service_ns")) / 1e9, passes: grown("passes"),
                passesCutShort: grown("passes_cut_short"),
                tablesLookedAt: grown("tables_looked_at"))
        }
    }
}
