// SPDX-License-Identifier: Apache-2.0

import Foundation
import ProcFS

/// A program that is filled and emptied, plain and in some modes, side by side.
protocol ProgramUnderChurn {
    var program: String { get }
    var allocator: Allocator { get }

    /// - Throws: where it is not installed, or does not do what it is told.
    func play() throws -> ChurnOutcome
}

/// redis-server, with the jemalloc that it is linked with.
struct RedisChurn: ProgramUnderChurn {
    let shim: Shim
    let scale: ChurnScale
    var program: String { "redis-server" }
    var allocator: Allocator { .jemalloc }

    func play() throws -> ChurnOutcome {
        let executable = try NotInstalled.find("redis-server")
        let directory = try makeRunDirectory()
        let plan = ChurnPlan(
            seed: 1, populateCount: scale.isQuick ? 100_000 : 1_000_000,
            fillCount: scale.isQuick ? 60_000 : 600_000, cycleCount: 1,
            waitSeconds: scale.settleSeconds,
            mallocConfiguration: scale.isQuick ? "dirty_decay_ms:1000,tcache:false" : nil)
        var targets: [RedisServer] = []
        var meters: [Meter] = []
        defer { for target in targets { target.stop() } }
        let course = Course(isRecording: scale.isRecording)
        for mode in [nil] + AllocatorChurn.modes(.jemalloc).map(Optional.init) {
            let target = try RedisServer(
                mode == nil ? .plain : .shim, executable: executable,
                shim: shim.in(mode, settings: scale.settings),
                mallocOptions: plan.mallocConfiguration,
                in: directory.appending(path: "redis-\(mode?.rawValue ?? "plain")"))
            targets.append(target)
            let watch = course.add(mode, pid: target.pid, commandLine: target.commandLine)
            meters.append(Meter(target, watch: watch))
        }
        _ = try ChurnPlayer(plan: plan, meters: meters).play { course.mark($0) }
        return course.finish(program, allocator)
    }
}

/// malloc and free, whoever is behind them.
struct AllocatorChurn: ProgramUnderChurn {
    let allocator: Allocator
    let shim: Shim
    let scale: ChurnScale
    var program: String { "allocator-churn" }

    static func modes(_ allocator: Allocator) -> [Mode] {
        allocator == .jemalloc ? [.hooks, .madvise, .scan, .hooksAndScan] : [.madvise, .scan]
    }

    /// Blocks of 16 to 4000 bytes, and of 64 KiB to 1 MiB: as many MiB of each.
    static func fill(
        _ process: DrivenProcess, mebibytes: Int, meanwhile: () -> Void = {}
    ) throws {
        try process.work("fill \((mebibytes << 20) / 2008) 16 4000", meanwhile: meanwhile)
        try process.work(
            "fill \((mebibytes << 20) / (544 << 10)) 65536 1048576", meanwhile: meanwhile)
    }

    func play() throws -> ChurnOutcome {
        let program = try Shim.build(product: "allocator-churn", what: "allocator-churn")
            .appending(path: "allocator-churn").path
        var targets: [DrivenProcess] = []
        defer { for target in targets { target.stop() } }
        let course = Course(isRecording: scale.isRecording)
        for mode in [nil] + Self.modes(allocator).map(Optional.init) {
            let environment = try allocator.environment(
                shim: mode == nil ? nil : shim, mode: mode, settings: scale.settings)
            let process = try DrivenProcess(
                [program, "--driven", "--threads", "2"], environment: environment)
            targets.append(process)
            course.add(mode, pid: process.pid, commandLine: process.commandLine)
            guard process.greeting == allocator.rawValue else {
                throw HarnessError("\(process.commandLine): \(process.greeting) is behind malloc")
            }
        }
        for (index, target) in targets.enumerated() {
            try course.work(on: index) { meanwhile in
                try Self.fill(
                    target, mebibytes: scale.isQuick ? 100 : 300, meanwhile: meanwhile)
            }
        }
        course.mark("filled")
        // 90 %, then all but a handful. Slowly: some allocators purge what was freed a while ago
        // when something else is freed.
        let percents = Array(repeating: 25, count: 8) + Array(repeating: 75, count: 5)
        for (round, percent) in percents.enumerated() {
            for (index, target) in targets.enumerated() {
                try course.work(on: index) { meanwhile in
                    try target.work("delete \(percent)", meanwhile: meanwhile)
                    try target.work("release", meanwhile: meanwhile)
                }
            }
            if round == 7 { course.mark("90 % deleted") }
            course.wait(scale.roundSeconds)
        }
        course.mark("nearly all deleted")
        for target in targets { try target.work("verify") }
        course.wait(scale.settleSeconds)
        return course.finish(self.program, allocator)
    }
}

/// memcached, which keeps its slabs: whether its values stay what they are.
struct MemcachedChurn: ProgramUnderChurn {
    let allocator: Allocator
    let shim: Shim
    let scale: ChurnScale
    var program: String { "memcached" }

    func play() throws -> ChurnOutcome {
        let executable = try NotInstalled.find("memcached")
        let directory = try makeRunDirectory()
        let plan = ChurnPlan(
            seed: 1, populateCount: 0, fillCount: scale.isQuick ? 60_000 : 300_000, cycleCount: 1,
            waitSeconds: 0, mallocConfiguration: nil)
        var targets: [(process: KeptProcess, client: MemcachedClient)] = []
        defer { for target in targets { target.process.stop() } }
        let course = Course(isRecording: scale.isRecording)
        for mode in [nil, Mode.madvise, .scan] {
            let own = directory.appending(
                path: "memcached-\(allocator.rawValue)-\(mode?.rawValue ?? "plain")")
            let socket = own.appending(path: "socket").path
            let command = [executable, "-u", "root", "-s", socket, "-m", "2048", "-o", "modern"]
            let environment = try allocator.environment(
                shim: mode == nil ? nil : shim, mode: mode, settings: scale.settings)
            let process = try KeptProcess(command, environment: environment, directory: own)
            targets.append((process, try Self.connect(to: process, path: socket)))
            course.add(
                mode, pid: process.pid, commandLine: RedisServer.line(environment, command))
        }
        for (index, target) in targets.enumerated() {
            try course.work(on: index) { meanwhile in
                try Self.play(target.client, plan, meanwhile: meanwhile) { name in
                    if index == 0 { course.mark(name) }
                }
            }
        }
        course.wait(scale.settleSeconds)
        return course.finish(program, allocator)
    }

    private static func connect(to process: KeptProcess, path: String) throws -> MemcachedClient {
        for _ in 0..<100 {
            if let client = try? MemcachedClient(path: path) { return client }
            Thread.sleep(forTimeInterval: 0.05)
        }
        throw HarnessError("memcached did not come up:\n\(process.output)")
    }

    /// Fill, delete 90 %, look at the rest, flush, crawl, and fill and look again.
    private static func play(
        _ client: MemcachedClient, _ plan: ChurnPlan, meanwhile: () -> Void,
        mark: (String) -> Void
    ) throws {
        guard let cycle = plan.cycles.first else { return }
        for pass in 0..<2 {
            for key in 0..<plan.fillCount {
                try client.set(key, to: cycle.value(key), of: plan.block)
                if key % 1024 == 0 { meanwhile() }
            }
            try client.finish()
            mark("filled")
            for key in cycle.deletionOrder.prefix(cycle.mostCount) { try client.delete(Int(key)) }
            try client.finish()
            for key in cycle.deletionOrder.dropFirst(cycle.mostCount) {
                try client.get(Int(key), expecting: cycle.value(Int(key)), of: plan.block)
            }
            try client.finish()
            // flush_all takes effect in the next second.
            try client.tell("flush_all", expecting: "OK")
            mark("flushed")
            meanwhile()
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

    func play() throws -> ChurnOutcome {
        let executable = try NotInstalled.find("node")
        let script = Shim.packageRoot.appending(path: "Benchmarks/Node/churn.js").path
        let command = [
            executable, "--expose-gc", script, scale.isQuick ? "20000" : "100000",
            scale.isQuick ? "2000" : "4000",
        ]
        var targets: [DrivenProcess] = []
        defer { for target in targets { target.stop() } }
        let course = Course(isRecording: scale.isRecording)
        for mode in [nil, Mode.scan, .auto] {
            let environment = try allocator.environment(
                shim: mode == nil ? nil : shim, mode: mode, settings: scale.settings)
            let target = try DrivenProcess(command, environment: environment)
            targets.append(target)
            course.add(mode, pid: target.pid, commandLine: target.commandLine)
        }
        try course.together { meanwhile in
            for target in targets {
                let answer = target.line(meanwhile: meanwhile)
                guard answer == "done 0" else {
                    throw HarnessError("\(target.commandLine): \(answer)")
                }
            }
        }
        course.mark("all deleted")
        course.wait(scale.settleSeconds)
        return course.finish(program, allocator)
    }
}
