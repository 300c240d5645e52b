// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import ProcFS

@main
struct Benchmarks: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "Benchmarks",
        abstract: "Shows what the preload library does for servers with jemalloc."
            + " Without a subcommand: churn. `--report DIR` is `report DIR`.",
        subcommands: [
            Churn.self, Variants.self, Speed.self, Idle.self, Call.self, Model.self, Scan.self,
            Waits.self, IdleScan.self, Allocators.self, Modes.self, RSS.self, Looking.self,
            MakeReport.self,
        ],
        defaultSubcommand: Churn.self)

    /// Exit status: 0 done, 1 failed or a target missed, 2 usage.
    static func main() {
        do {
            var command = try parseAsRoot(
                subcommandFirst(Array(CommandLine.arguments.dropFirst())))
            try command.run()
        } catch {
            guard exitCode(for: error) == .validationFailure else { exit(withError: error) }
            FileHandle.standardError.write(Data((fullMessage(for: error) + "\n").utf8))
            Foundation.exit(2)
        }
    }
}

struct ChurnOptions: ParsableArguments {
    @Flag(help: "A tenth of the work, one cycle, a short decay: below a minute.")
    var quick = false

    @Option(help: "Seed of sizes, values and of the order of deletion.")
    var seed: UInt64 = 1

    @Flag(help: "Print one JSON document instead of tables.")
    var json = false

    func plan(cycles: Int) -> ChurnPlan {
        quick ? .quick(seed: seed) : .full(seed: seed, cycles: cycles)
    }
}

struct Churn: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Fill and delete: plain, retain:false and shim side by side. The default.",
        discussion: """
            Fills servers with keys, deletes them and measures what is left of their page tables. \
            Uses redis-server where there is one, otherwise the same churn in a small program.
            """)

    @OptionGroup var options: ChurnOptions

    @Option(help: "How often to fill and delete.")
    var cycles = 3

    @Flag(help: "Use the small program even if redis-server is there.")
    var embedded = false

    func run() throws {
        let shim = try Shim.prepare()
        let plan = options.plan(cycles: cycles)
        let run = try ChurnRun.play(
            plan, configurations: Configuration.allCases, shim: shim, embedded: embedded)
        if options.json { try printJSON(run) } else { run.print() }
        if run.verdicts.contains(where: { $0.status != .passed }) { throw ExitCode.failure }
    }
}

/// One run of the churn on a set of servers that live side by side.
struct ChurnRun: Encodable {
    let schema = "ptreclaim.benchmarks.churn/1"
    let machine: Machine
    let server: String
    let seed: UInt64
    let commands: [String]
    let rows: [Measurement]
    let verdicts: [Verdict]

    /// Plays `plan` on one server per configuration: the work in turn, so that no two are timed at
    /// once, the waits together.
    static func play(
        _ plan: ChurnPlan, configurations: [Configuration], shim: Shim, embedded: Bool = false,
        mallocOptions: String? = nil, redisArguments: [String] = []
    ) throws -> ChurnRun {
        let directory = try makeRunDirectory()
        // Now, not at the end: a setting may change back meanwhile.
        let machine = Machine.current()
        let extra = [plan.mallocConfiguration, mallocOptions].compactMap { $0 }
        let malloc = extra.isEmpty ? nil : extra.joined(separator: ",")
        let redis = embedded ? nil : Tool.find("redis-server")
        var targets: [any ChurnTarget] = []
        defer { for target in targets { target.stop() } }
        var server = ""
        let embeddedProgram = redis == nil ? try Shim.buildEmbeddedChurn() : nil
        for configuration in configurations {
            if let redis {
                let target = try RedisServer(
                    configuration, executable: redis, shim: shim, mallocOptions: malloc,
                    arguments: redisArguments,
                    in: directory.appending(path: "server\(targets.count)"))
                targets.append(target)
                let version = try Tool.run(redis, ["--version"]).output.split(separator: " ")
                    .first { $0.hasPrefix("v=") }?.dropFirst(2)
                server = "redis \(version ?? "?"), \(try target.allocator())"
            } else if let embeddedProgram {
                let target = try EmbeddedChurn(
                    configuration, executable: embeddedProgram, shim: shim,
                    mallocOptions: malloc, seed: plan.seed)
                targets.append(target)
                server = "jemalloc-churn, jemalloc \(target.jemallocVersion)"
            }
        }
        let player = ChurnPlayer(plan: plan, meters: targets.map { Meter($0) })
        let rows = try player.play()
        return ChurnRun(
            machine: machine, server: server, seed: plan.seed,
            commands: targets.map(\.commandLine), rows: rows, verdicts: verdicts(rows))
    }

    func print() {
        Swift.print("\(machine.line); \(server); seed \(seed)")
        for command in commands { Swift.print("  \(command)") }
        Measurement.printTable(rows)
        Swift.print(
            "Operations since the row before; CPU with the wait, where jemalloc purges; p99 of"
                + " batches of \(RESPClient.commandsPerBatch).")
        for verdict in verdicts { Swift.print(verdict.line) }
        flushOutput()
    }

    static let wastePercentAllowed = 2.0
    static let wasteByteCountAllowed: UInt = 32 << 10
    static let plainWastePercentWanted = 30.0
    static let vmaCountAllowed = 20

    static func verdicts(_ rows: [Measurement]) -> [Verdict] {
        let plain = rows.filter { $0.configuration == .plain }
        let shim = rows.filter { $0.configuration == .shim }
        return [wasteVerdict(plain: plain, shim: shim), vmaVerdict(plain: plain, shim: shim)]
    }

    private static func wasteVerdict(plain: [Measurement], shim: [Measurement]) -> Verdict {
        let target =
            "waste after every \"all deleted\" step at most 2 % of VmPTE or 32 kB"
        let plainPercent = plain.filter(\.isAllDeleted).map { $0.census.wastePercent }
        guard let least = plainPercent.map({ $0 ?? -1 }).min(), least >= 0 else {
            return Verdict(
                target: target, status: .notCounted,
                measured: "this kernel does not tell empty tables (PAGEMAP_SCAN, Linux 6.7)")
        }
        guard least >= plainWastePercentWanted else {
            return Verdict(
                target: target, status: .notCounted,
                measured: "plain wastes only \(decimal(least, 1)) % in one of them, not 30 %")
        }
        let steps = shim.filter(\.isAllDeleted)
        let isMet = steps.allSatisfy { step in
            guard let waste = step.census.wasteByteCount, let percent = step.census.wastePercent
            else { return false }
            return waste <= wasteByteCountAllowed || percent <= wastePercentAllowed
        }
        let figures = steps.map { step in
            let waste = step.census.wasteByteCount.map { "\($0 / 1024)" } ?? "?"
            return "\(waste) of \(step.census.vmPTEByteCount / 1024) kB"
        }
        return Verdict(
            target: target, status: isMet ? .passed : .failed,
            measured: figures.joined(separator: ", ") + " (plain at least \(decimal(least, 1)) %)")
    }

    private static func vmaVerdict(plain: [Measurement], shim: [Measurement]) -> Verdict {
        let excess = zip(plain, shim).map { $1.peakVMACount - $0.peakVMACount }.max() ?? 0
        return Verdict(
            target: "VMAs at most plain + \(vmaCountAllowed)",
            status: excess <= vmaCountAllowed ? .passed : .failed,
            measured: "plain \(excess >= 0 ? "+" : "-") \(abs(excess)) at most")
    }
}

/// Plays the steps in their order.
struct ChurnPlayer {
    let plan: ChurnPlan
    let meters: [Meter]

    /// - Parameter done: told the name of each step when its work is done, before the wait; where
    ///   there is only one cycle, without its number.
    func play(done: (String) -> Void = { _ in }) throws -> [Measurement] {
        var rows: [Measurement] = []
        let total = meters.count * (1 + 2 * plan.cycleCount)
        func step(
            _ name: String, isAllDeleted: Bool, _ work: (any ChurnTarget, Meter) throws -> Void
        ) throws {
            for meter in meters {
                Progress.show(
                    rows.count, of: total, "\(name) (\(meter.target.configuration.rawValue))")
                try work(meter.target, meter)
            }
            done(plan.cycleCount == 1 && name.hasSuffix(" 1") ? String(name.dropLast(2)) : name)
            Progress.show(rows.count, of: total, "\(name): waiting for the decay")
            waitAndSample()
            for meter in meters {
                rows.append(try meter.measure(step: name, isAllDeleted: isAllDeleted))
            }
        }
        try step("flushed", isAllDeleted: false) { target, meter in
            try meter.time { try target.populate(plan) }
            try meter.time { try target.flush() }
        }
        for (index, cycle) in plan.cycles.enumerated() {
            try step("90 % deleted \(index + 1)", isAllDeleted: false) { target, meter in
                try meter.time { try target.fill(cycle, of: plan) }
                try meter.time { try target.deleteMost(cycle) }
            }
            for meter in meters { try meter.target.verify(cycle, of: plan) }
            try step("all deleted \(index + 1)", isAllDeleted: true) { target, meter in
                try meter.time { try target.deleteRest(cycle) }
            }
        }
        Progress.end()
        return rows
    }

    private func waitAndSample() {
        let end = ContinuousClock.now + .seconds(plan.waitSeconds)
        for meter in meters { meter.beginWait() }
        defer { for meter in meters { meter.endWait() } }
        while ContinuousClock.now < end {
            Thread.sleep(forTimeInterval: 0.1)
            for meter in meters { meter.sampleIfDue() }
        }
    }
}
