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

    fileprivate struct Row: Encodable {
        let program: String
        let allocator: Allocator
        let mode: Mode
        let cpu: RatioEstimate
        let rate: RatioEstimate
        let verdicts: [Verdict]
    }

    func run() throws {
        guard pairs >= 3 else { throw ValidationError("--pairs must be 3 or more") }
        let shim = try Shim.prepare()
        let machine = Machine.current()
        let pairs = options.quick ? 4 : self.pairs
        var rows: [Row] = []
        var commands: [String] = []
        var skipped: [Verdict] = []
        if allocator == nil, only.map({ "redis-server".contains($0) }) ?? true {
            if let server = Tool.find("redis-server"), let client = Tool.find("redis-benchmark") {
                let window = Window(client: client, requestCount: options.quick ? 200_000 : 800_000)
                commands += window.commandLines
                for mode in [Mode.hooks, .madvise, .scan] where self.mode ?? mode == mode {
                    let result = try Speed.compare(
                        .default, server: server, shim: shim.in(mode), window: window, pairs: pairs,
                        name: "redis-server, jemalloc, \(mode.rawValue)")
                    rows.append(
                        Row(
                            program: "redis-server", allocator: .jemalloc, mode: mode,
                            cpu: result.cpu, rate: result.rate, verdicts: result.verdicts))
                }
            } else {
                skipped.append(
                    Verdict(
                        target: "redis-server", status: .skipped, measured: "is not installed"))
            }
        }
        if only.map({ "allocator-churn".contains($0) }) ?? true {
            let program = try Shim.build(product: "allocator-churn", what: "allocator-churn")
                .appending(path: "allocator-churn").path
            for allocator in Allocator.allCases where self.allocator ?? allocator == allocator {
                for mode in AllocatorChurn.modes(allocator) where self.mode ?? mode == mode {
                    do {
                        let run = try ChurnPair(
                            program: program, allocator: allocator, mode: mode, shim: shim,
                            mebibytes: options.quick ? 50 : 150)
                        commands.append(run.commandLine)
                        rows.append(try run.compare(pairs: pairs))
                    } catch let reason as NotInstalled {
                        skipped.append(
                            Verdict(
                                target: allocator.rawValue, status: .skipped,
                                measured: reason.description))
                    }
                }
            }
        }
        let report = TableReport(
            "modes", machine: machine, commands: commands, rows: rows,
            verdicts: skipped + rows.flatMap(\.verdicts))
        try report.finish(options, note: "Shim / plain, means with intervals of 95 %.") { rows in
            TextTable<Row> { row in
                [
                    Column(title: "program", value: row.program),
                    Column(title: "allocator", value: row.allocator.rawValue),
                    Column(title: "mode", value: row.mode.rawValue),
                    Column(title: "CPU per operation", value: row.cpu.text, align: .right),
                    Column(title: "operations per second", value: row.rate.text, align: .right),
                    Column(title: "pairs", value: "\(row.cpu.pairCount)", align: .right),
                ]
            }.print(rows)
        }
    }
}

/// Two processes of allocator-churn, one of them with the library.
private final class ChurnPair {
    private let name: String
    private let allocator: Allocator
    private let mode: Mode
    private let mebibytes: Int
    private let plain: DrivenProcess
    private let shimmed: DrivenProcess
    var commandLine: String { shimmed.commandLine }

    init(program: String, allocator: Allocator, mode: Mode, shim: Shim, mebibytes: Int) throws {
        name = "allocator-churn, \(allocator.rawValue), \(mode.rawValue)"
        self.allocator = allocator
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

    func compare(pairs: Int) throws -> Modes.Row {
        for process in [plain, shimmed] { _ = try window(process) }
        let result = try PairedRun(name: name, pairs: pairs).play { hasShim in
            try window(hasShim ? shimmed : plain)
        }
        let page = try StatsPage.read(pid: shimmed.pid)
        guard page.mode == mode.rawValue else {
            throw HarnessError("\(commandLine): mode \(page.mode)")
        }
        return Modes.Row(
            program: "allocator-churn", allocator: allocator, mode: mode, cpu: result.cpu,
            rate: result.rate, verdicts: result.verdicts(name))
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
