// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import ProcFS
import TextTable

struct Looking: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "What it takes to look at processes: ptreclaim inspect, top and watch.",
        discussion: """
            inspect: one process of 100,000 PTE tables, in turns with a program that makes the same \
            scans and nothing else. top: 300 processes of 4 MB, and whatever else runs, in one pass; the time of the whole \
            command. watch: CPU time at one look a second, on a process of 1 GB, all of it written to, \
            on a terminal (of script, from util-linux) and into a pipe, three of each at a time.
            """)

    @OptionGroup var options: TableOptions

    @Option(help: "Passes of top, and pairs of inspect with its scans.")
    var passes = 15

    @Option(help: "Seconds for which watch is measured.")
    var seconds = 30

    static let processCount = 300
    static let passSecondsAllowed = 1.0
    static let percentAllowed = 0.5
    private static let watchersOfAKind = 3

    struct Row: Encodable {
        let name: String
        let unit: String
        let values: [Double]
        let allowed: Double
    }

    func run() throws {
        guard passes >= 1, seconds >= 1 else {
            throw ValidationError("--passes and --seconds must be 1 or more")
        }
        let products = try Shim.build(product: "ptreclaim", what: "ptreclaim")
        _ = try Shim.build(product: "idle-space", what: "idle-space")
        let program = products.appending(path: "ptreclaim").path
        let space = products.appending(path: "idle-space").path
        _ = try Shim.build(product: "bare-scans", what: "bare-scans")
        let machine = Machine.current()
        let inspect = try InspectCost.measure(
            in: products, pairs: options.quick ? min(passes, 5) : passes)
        var rows = inspect.rows
        rows += try top(program, space)
        rows += try watch(program, space)
        let verdicts = rows.map { row in
            Verdict(
                target: "\(row.name): at most \(decimal(row.allowed, 1)) \(row.unit), the median",
                status: median(row.values) <= row.allowed ? .passed : .failed,
                measured: "\(decimal(median(row.values), 3)) \(row.unit)")
        }
        let report = TableReport(
            "looking", machine: machine,
            commands: ["inspect PID", "top --once", "watch PID"].map { "\(program) \($0)" },
            rows: rows, verdicts: verdicts)
        let note = [inspect.note] + (Tool.find("script") == nil ? [Self.skipped] : [])
        try report.finish(options, note: note.joined(separator: "\n")) { rows in
            TextTable<Row> { row in
                [
                    Column(title: "", value: row.name),
                    Column(title: "unit", value: row.unit),
                    Column(title: "runs", value: "\(row.values.count)", align: .right),
                    Column(title: "median", value: decimal(median(row.values), 3), align: .right),
                    Column(
                        title: "least", value: decimal(row.values.min() ?? .nan, 3), align: .right),
                    Column(
                        title: "most", value: decimal(row.values.max() ?? .nan, 3), align: .right),
                ]
            }.print(rows)
        }
    }

    private static let skipped = "watch on a terminal: skipped, needs script (apt: bsdutils)"

    private func top(_ program: String, _ space: String) throws -> [Row] {
        var processes: [DrivenProcess] = []
        defer { for process in processes { process.stop() } }
        for index in 0..<Self.processCount {
            Progress.show(index, of: Self.processCount, "starting")
            processes.append(try DrivenProcess([space, "4", "1", "1"], environment: [:]))
        }
        let count = options.quick ? min(passes, 5) : passes
        var times: [Double] = []
        var cpuTimes: [Double] = []
        for index in 0..<count {
            Progress.show(index, of: count, "top")
            let cpuBefore = endedProcessesCPUSeconds
            let start = ContinuousClock.now
            let result = try Tool.run(program, ["top", "--once"])
            times.append((ContinuousClock.now - start).seconds)
            cpuTimes.append(endedProcessesCPUSeconds - cpuBefore)
            let seen = result.output.split(separator: "\n").count { $0.contains(" idle-space ") }
            guard result.status == 0, seen >= Self.processCount else {
                throw HarnessError(
                    "top has shown \(seen) of \(Self.processCount) processes:\n"
                        + result.output.suffix(2000))
            }
        }
        Progress.end()
        // The two differ where others want the CPUs, too.
        return [
            Row(name: "top, one pass", unit: "s", values: times, allowed: Self.passSecondsAllowed),
            Row(
                name: "top, CPU of one pass", unit: "s", values: cpuTimes,
                allowed: Self.passSecondsAllowed),
        ]
    }

    private func watch(_ program: String, _ space: String) throws -> [Row] {
        let victim = try DrivenProcess([space, "1024", "1", "1"], environment: [:])
        defer { victim.stop() }
        var watchers: [(kind: String, watcher: Watcher)] = []
        defer { for (_, watcher) in watchers { watcher.stop() } }
        for _ in 0..<Self.watchersOfAKind {
            watchers.append(
                ("watch, into a pipe", try Watcher([program, "watch", "\(victim.pid)"])))
            guard let script = Tool.find("script") else { continue }
            let command = "exec \(program) watch \(victim.pid)"
            let onTerminal = try Watcher(
                [script, "-qfec", command, "/dev/null"], isBehindAnother: true)
            watchers.append(("watch, on a terminal", onTerminal))
        }
        // Its start is not what it takes each second.
        Thread.sleep(forTimeInterval: 3)
        let length = Double(options.quick ? 10 : seconds)
        let before = try watchers.map { try $0.watcher.cpuSeconds() }
        let start = ContinuousClock.now
        while (ContinuousClock.now - start).seconds < length {
            Progress.show(
                Int((ContinuousClock.now - start).seconds), of: Int(length), "s of watch")
            Thread.sleep(forTimeInterval: 0.5)
        }
        Progress.end()
        let elapsed = (ContinuousClock.now - start).seconds
        let percents = try zip(watchers, before).map { entry, before in
            (entry.kind, 100 * (try entry.watcher.cpuSeconds() - before) / elapsed)
        }
        return Dictionary(grouping: percents, by: \.0).sorted { $0.key < $1.key }.map {
            Row(
                name: $0.key, unit: "% of a core", values: $0.value.map(\.1),
                allowed: Self.percentAllowed)
        }
    }

    /// A `ptreclaim watch` whose output goes to a pipe, or to a terminal that another program makes.
    private final class Watcher {
        private let process = Process()
        private let input = Pipe()
        private let output = Pipe()
        private let pid: Int32

        init(_ command: [String], isBehindAnother: Bool = false) throws {
            process.executableURL = URL(fileURLWithPath: command[0])
            process.arguments = Array(command.dropFirst())
            process.environment = ProcessInfo.processInfo.environment
                .merging(["TERM": "xterm-256color", "LC_ALL": "C.UTF-8"]) { $1 }
            process.standardInput = input
            process.standardOutput = output
            output.fileHandleForReading.readabilityHandler = { _ = $0.availableData }
            try process.run()
            guard isBehindAnother else {
                pid = process.processIdentifier
                return
            }
            let deadline = ContinuousClock.now + .seconds(10)
            while true {
                if let child = ProcessList.children(of: process.processIdentifier)?.first,
                    (try? ProcessGlance(pid: child))?.command == "ptreclaim"
                {
                    pid = child
                    return
                }
                guard ContinuousClock.now < deadline else {
                    process.terminate()
                    throw HarnessError("\(command[0]) has not started ptreclaim watch")
                }
                Thread.sleep(forTimeInterval: 0.02)
            }
        }

        func cpuSeconds() throws -> Double { try ProcessStatus.read(pid: pid).cpuSeconds }

        func stop() {
            kill(pid, SIGTERM)
            process.waitUntilExit()
            output.fileHandleForReading.readabilityHandler = nil
        }
    }
}
