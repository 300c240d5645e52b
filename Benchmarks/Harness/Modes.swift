// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import ProcFS
import TextTable

struct Modes: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "CPU and speed with each mode, against the same allocator without the library.",
        discussion: """
            In alternating windows, as `speed` does it: redis-server under redis-benchmark, and \
            allocator-churn, which allocates 150 MiB of small blocks and 150 MiB of large ones, \
            frees most of them at random, and gives the memory back. CPU is that of the process, \
            with the service thread; frees that are due later fall into the next windows.
            """)

    @OptionGroup var options: TableOptions

    @Option(help: "The most pairs of windows; fewer when both intervals are within 1 %.")
    var pairs = 60

    @Option(help: "Only this mode.")
    var mode: Mode?

    @Option(help: "Only this program: redis-server or allocator-churn.")
    var only: String?

    @Option(help: "Only this allocator, of allocator-churn.")
    var allocator: Allocator?

    struct Row: Codable {
        let program: String
        let allocator: Allocator
        let mode: Mode
        /// What is started with the library, and what works on it.
        let commands: [String]
        let result: PairedRun.Result

        var name: String { "\(program), \(allocator.rawValue), \(mode.rawValue)" }
        var verdicts: [Verdict] { result.verdicts(name) }
    }

    /// A program in one mode, to be compared with itself without the library.
    struct Comparison {
        let program: String
        let allocator: Allocator
        let mode: Mode

        var name: String { "\(program), \(allocator.rawValue), \(mode.rawValue)" }

        static let all: [Comparison] =
            AllocatorChurn.modes(.jemalloc).map {
                Comparison(program: "redis-server", allocator: .jemalloc, mode: $0)
            }
            + Allocator.allCases.flatMap { allocator in
                AllocatorChurn.modes(allocator).map {
                    Comparison(program: "allocator-churn", allocator: allocator, mode: $0)
                }
            }

        /// - Parameter pairs: the most pairs of windows.
        /// - Throws: where it is not installed, or the mode cannot run here.
        func play(shim: Shim, pairs: Int, isQuick: Bool) throws -> Row {
            let commands: [String]
            let result: PairedRun.Result
            if program == "redis-server" {
                let window = Window(
                    client: try NotInstalled.find("redis-benchmark"),
                    requestCount: isQuick ? 200_000 : 800_000)
                let played = try Speed.compare(
                    .default, server: NotInstalled.find("redis-server"), shim: shim.in(mode),
                    window: window, pairs: pairs, name: name)
                commands = [played.command] + window.commandLines
                result = played.figures
            } else {
                let executable = try Shim.build(product: program, what: program)
                    .appending(path: program).path
                let pair = try ChurnPair(
                    program: executable, allocator: allocator, mode: mode, shim: shim,
                    mebibytes: isQuick ? 50 : 150)
                commands = [pair.commandLine]
                result = try pair.compare(pairs: pairs, name: name)
            }
            return Row(
                program: program, allocator: allocator, mode: mode, commands: commands,
                result: result)
        }
    }

    func run() throws {
        guard pairs >= 3 else { throw ValidationError("--pairs must be 3 or more") }
        let shim = try Shim.prepare()
        let machine = Machine.current()
        let pairs = options.quick ? 4 : self.pairs
        var rows: [Row] = []
        var skipped: [Verdict] = []
        for comparison in Comparison.all where isChosen(comparison) {
            do {
                rows.append(try comparison.play(shim: shim, pairs: pairs, isQuick: options.quick))
            } catch let reason as NotInstalled {
                skipped.append(
                    Verdict(
                        target: comparison.name, status: .skipped, measured: reason.description))
            }
        }
        let report = TableReport(
            "modes", version: 2, machine: machine,
            commands: rows.flatMap(\.commands).withoutRepeats, rows: rows,
            verdicts: skipped + rows.flatMap(\.verdicts))
        try report.finish(options, note: "Shim / plain, means with intervals of 95 %.") { rows in
            TextTable<Row> { row in
                [
                    Column(title: "program", value: row.program),
                    Column(title: "allocator", value: row.allocator.rawValue),
                    Column(title: "mode", value: row.mode.rawValue),
                    Column(title: "CPU per operation", value: row.result.cpu.text, align: .right),
                    Column(
                        title: "operations per second", value: row.result.rate.text, align: .right),
                    Column(title: "pairs", value: "\(row.result.cpu.pairCount)", align: .right),
                ]
            }.print(rows)
        }
    }

    private func isChosen(_ comparison: Comparison) -> Bool {
        (only.map { comparison.program.contains($0) } ?? true)
            && mode ?? comparison.mode == comparison.mode
            && (allocator.map {
                comparison.program == "allocator-churn" && comparison.allocator == $0
            } ?? true)
    }
}

/// Two processes of allocator-churn, one of them with the library.
private final class ChurnPair {
    private let mode: Mode
    private let mebibytes: Int
    private let plain: DrivenProcess
    private let shimmed: DrivenProcess
    var commandLine: String { shimmed.commandLine }

    init(program: String, allocator: Allocator, mode: Mode, shim: Shim, mebibytes: Int) throws {
        self.mode = mode
        self.mebibytes = mebibytes
        let command = [program, "--driven", "--threads", "1"]
        plain = try DrivenProcess(
            command, environment: allocator.environment(shim: nil, mode: nil))
        do {
            shimmed = try DrivenProcess(
                command, environment: allocator.environment(shim: shim, mode: mode))
        } catch {
            plain.stop()
            throw error
        }
    }

    deinit {
        plain.stop()
        shimmed.stop()
    }

    func compare(pairs: Int, name: String) throws -> PairedRun.Result {
        try StatsPage.read(pid: shimmed.pid).require(mode)
        for process in [plain, shimmed] { _ = try window(process) }
        let result = try PairedRun(name: name, pairs: pairs).play { hasShim in
            try window(hasShim ? shimmed : plain)
        }
        // At the end, too: a watchdog may have ended a mode meanwhile.
        try StatsPage.read(pid: shimmed.pid).require(mode)
        return result
    }

    private func window(_ process: DrivenProcess) throws -> PairedRun.Figures {
        let before = try ProcessStatus.read(pid: process.pid).cpuSeconds
        var work = Work()
        for command in [
            "fill \((mebibytes << 20) / 2008) 16 4000",
            "fill \((mebibytes << 20) / (544 << 10)) 65536 1048576",
            "delete 50", "release", "delete 80", "release", "delete 100", "release",
        ] {
            work.add(try process.work(command))
        }
        let cpu = try ProcessStatus.read(pid: process.pid).cpuSeconds - before
        return PairedRun.Figures(
            operationsPerSecond: work.operationsPerSecond ?? 0,
            cpuPerOperation: cpu / Double(work.operations), seconds: work.seconds)
    }
}
