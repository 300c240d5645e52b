// SPDX-License-Identifier: Apache-2.0

import Foundation
import ProcFS

/// A program that is filled and emptied, plain and in some modes, side by side.
protocol ProgramUnderChurn {
    var program: String { get }
    var allocator: Allocator { get }

    /// Returns a row for each process, the plain one first, and how each was started.
    func play() throws -> (rows: [WasteRow], commands: [String])
}

/// redis-server, with the jemalloc that it is linked with.
struct RedisChurn: ProgramUnderChurn {
    let shim: Shim
    let scale: ChurnScale
    var program: String { "redis-server" }
    var allocator: Allocator { .jemalloc }

    func play() throws -> (rows: [WasteRow], commands: [String]) {
        let executable = try NotInstalled.find("redis-server")
        let directory = try makeRunDirectory()
        let plan = ChurnPlan(
            seed: 1, populateCount: scale.isQuick ? 100_000 : 1_000_000,
            fillCount: scale.isQuick ? 60_000 : 600_000, cycleCount: 1,
            waitSeconds: scale.settleSeconds,
            mallocConfiguration: scale.isQuick ? "dirty_decay_ms:1000,tcache:false" : nil)
        let modes: [Mode?] = [nil, .hooks, .madvise, .scan]
        var targets: [RedisServer] = []
        defer { for target in targets { target.stop() } }
        for mode in modes {
            targets.append(
                try RedisServer(
                    mode == nil ? .plain : .shim, executable: executable,
                    shim: shim.in(mode, settings: scale.settings),
                    mallocOptions: plan.mallocConfiguration,
                    in: directory.appending(path: "redis-\(mode?.rawValue ?? "plain")")))
        }
        _ = try ChurnPlayer(plan: plan, meters: targets.map { Meter($0) }).play()
        let rows = try zip(targets, modes).map { target, mode in
            try WasteRow(program: program, allocator: allocator, mode: mode, pid: target.pid)
        }
        return (rows, targets.map(\.commandLine))
    }
}

/// malloc and free, whoever is behind them.
struct AllocatorChurn: ProgramUnderChurn {
    let allocator: Allocator
    let shim: Shim
    let scale: ChurnScale
    var program: String { "allocator-churn" }

    static func modes(_ allocator: Allocator) -> [Mode] {
        allocator == .jemalloc ? [.hooks, .madvise, .scan] : [.madvise, .scan]
    }

    /// Blocks of 16 to 4000 bytes, and of 64 KiB to 1 MiB: as many MiB of each.
    static func fill(_ process: DrivenProcess, mebibytes: Int) throws {
        try process.work("fill \((mebibytes << 20) / 2008) 16 4000")
        try process.work("fill \((mebibytes << 20) / (544 << 10)) 65536 1048576")
    }

    func play() throws -> (rows: [WasteRow], commands: [String]) {
        let program = try Shim.build(product: "allocator-churn", what: "allocator-churn")
            .appending(path: "allocator-churn").path
        var targets: [(mode: Mode?, process: DrivenProcess)] = []
        defer { for target in targets { target.process.stop() } }
        for mode in [nil] + Self.modes(allocator).map(Optional.init) {
            let environment = try allocator.environment(
                shim: mode == nil ? nil : shim, mode: mode, settings: scale.settings)
            let process = try DrivenProcess(
                [program, "--driven", "--threads", "2"], environment: environment)
            targets.append((mode, process))
            guard process.greeting == allocator.rawValue else {
                throw HarnessError("\(process.commandLine): \(process.greeting) is behind malloc")
            }
        }
        for target in targets {
            try Self.fill(target.process, mebibytes: scale.isQuick ? 100 : 300)
        }
        // 90 %, then all but a handful. Slowly: some allocators purge what was freed a while ago
        // when something else is freed.
        for percent in Array(repeating: 25, count: 8) + Array(repeating: 75, count: 5) {
            for target in targets {
                try target.process.work("delete \(percent)")
                try target.process.work("release")
            }
            Thread.sleep(forTimeInterval: scale.roundSeconds)
        }
        for target in targets { try target.process.work("verify") }
        Thread.sleep(forTimeInterval: scale.settleSeconds)
        let rows = try targets.map { target in
            try WasteRow(
                program: self.program, allocator: allocator, mode: target.mode,
                pid: target.process.pid)
        }
        return (rows, targets.map(\.process.commandLine))
    }
}

/// memcached, which keeps its slabs: whether its values stay what they are.
struct MemcachedChurn: ProgramUnderChurn {
    let allocator: Allocator
    let shim: Shim
    let scale: ChurnScale
    var program: String { "memcached" }

    func play() throws -> (rows: [WasteRow], commands: [String]) {
        let executable = try NotInstalled.find("memcached")
        let directory = try makeRunDirectory()
        let plan = ChurnPlan(
            seed: 1, populateCount: 0, fillCount: scale.isQuick ? 60_000 : 300_000, cycleCount: 1,
            waitSeconds: 0, mallocConfiguration: nil)
        var targets: [(mode: Mode?, process: KeptProcess, client: MemcachedClient)] = []
        var commands: [String] = []
        defer { for target in targets { target.process.stop() } }
        for mode in [nil, Mode.madvise, .scan] {
            let own = directory.appending(
                path: "memcached-\(allocator.rawValue)-\(mode?.rawValue ?? "plain")")
            let socket = own.appending(path: "socket").path
            let command = [executable, "-u", "root", "-s", socket, "-m", "2048", "-o", "modern"]
            let environment = try allocator.environment(
                shim: mode == nil ? nil : shim, mode: mode, settings: scale.settings)
            commands.append(RedisServer.line(environment, command))
            let process = try KeptProcess(command, environment: environment, directory: own)
            targets.append((mode, process, try Self.connect(to: process, path: socket)))
        }
        for target in targets { try Self.play(target.client, plan) }
        Thread.sleep(forTimeInterval: scale.settleSeconds)
        let rows = try targets.map { target in
            try WasteRow(
                program: program, allocator: allocator, mode: target.mode, pid: target.process.pid)
        }
        return (rows, commands)
    }

    private static func connect(to process: KeptProcess, path: String) throws -> MemcachedClient {
        for _ in 0..<100 {
            if let client = try? MemcachedClient(path: path) { return client }
            Thread.sleep(forTimeInterval: 0.05)
        }
        throw HarnessError("memcached did not come up:\n\(process.output)")
    }

    /// Fill, delete 90 %, look at the rest, flush, crawl, and fill and look again.
    private static func play(_ client: MemcachedClient, _ plan: ChurnPlan) throws {
        guard let cycle = plan.cycles.first else { return }
        for pass in 0..<2 {
            for key in 0..<plan.fillCount {
                try client.set(key, to: cycle.value(key), of: plan.block)
            }
            try client.finish()
            for key in cycle.deletionOrder.prefix(cycle.mostCount) { try client.delete(Int(key)) }
            try client.finish()
            for key in cycle.deletionOrder.dropFirst(cycle.mostCount) {
                try client.get(Int(key), expecting: cycle.value(Int(key)), of: plan.block)
            }
            try client.finish()
            // flush_all takes effect in the next second.
            try client.tell("flush_all", expecting: "OK")
            Thread.sleep(forTimeInterval: 1.5)
            if pass == 1 { try client.tell("lru_crawler crawl all", expecting: "OK") }
        }
    }
}

/// node: V8's own heap, which it maps itself, and buffers of malloc.
struct NodeChurn: ProgramUnderChurn {
    let allocator: Allocator
    let shim: Shim
    let scale: ChurnScale
    var program: String { "node" }

    func play() throws -> (rows: [WasteRow], commands: [String]) {
        let executable = try NotInstalled.find("node")
        let script = Shim.packageRoot.appending(path: "Benchmarks/Node/churn.js").path
        let command = [
            executable, "--expose-gc", script, scale.isQuick ? "20000" : "100000",
            scale.isQuick ? "2000" : "4000",
        ]
        var targets: [(mode: Mode?, process: DrivenProcess)] = []
        defer { for target in targets { target.process.stop() } }
        for mode in [nil, Mode.scan, .auto] {
            let environment = try allocator.environment(
                shim: mode == nil ? nil : shim, mode: mode, settings: scale.settings)
            targets.append((mode, try DrivenProcess(command, environment: environment)))
        }
        for target in targets {
            let answer = target.process.line()
            guard answer == "done 0" else {
                throw HarnessError("\(target.process.commandLine): \(answer)")
            }
        }
        Thread.sleep(forTimeInterval: scale.settleSeconds)
        let rows = try targets.map { target in
            try WasteRow(
                program: program, allocator: allocator, mode: target.mode, pid: target.process.pid)
        }
        return (rows, targets.map(\.process.commandLine))
    }
}
