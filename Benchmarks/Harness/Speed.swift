// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import ProcFS

struct Speed: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Speed of redis with the shim, against redis without, in alternating windows.")

    enum Decay: String, CaseIterable, ExpressibleByArgument {
        case `default`
        case zero = "0"

        var mallocOptions: String? { self == .zero ? "dirty_decay_ms:0" : nil }
    }

    @Option(help: "The most pairs of windows; fewer when both intervals are within 1 %.")
    var pairs = 60

    @Option(help: "Only this decay: default or 0. Both, if not given.")
    var decay: Decay?

    @Option(help: "The library's mode; auto, if not given.")
    var mode: Mode?

    @Option(help: "Requests in a window, in thousands.")
    var kilorequests = 800

    @Flag(help: "Print one JSON document instead of text.")
    var json = false

    struct Result: Codable {
        /// What the verdicts are of.
        let name: String
        let decay: String
        let mode: String
        /// That starts the server with the library.
        let command: String
        let figures: PairedRun.Result
        let purgesPerSecond: Double

        var verdicts: [Verdict] { figures.verdicts(name) }
    }

    struct Document: Encodable {
        let schema = "ptreclaim.benchmarks.speed/2"
        let machine: Machine
        let commands: [String]
        let results: [Result]
    }

    func run() throws {
        guard pairs >= 3 else { throw ValidationError("--pairs must be 3 or more") }
        guard let server = Tool.find("redis-server"), let client = Tool.find("redis-benchmark")
        else { throw HarnessError("redis-server and redis-benchmark are needed") }
        let shim = try Shim.prepare().in(mode)
        let machine = Machine.current()
        let window = Window(client: client, requestCount: kilorequests * 1000)
        if !json {
            print(machine.line)
            for line in window.commandLines { print("  \(line)") }
            flushOutput()
        }
        let results = try (decay.map { [$0] } ?? Decay.allCases).map { decay in
            let result = try Self.compare(
                decay, server: server, shim: shim, window: window, pairs: pairs)
            if !json { Self.show(result) }
            return result
        }
        if json {
            try printJSON(
                Document(machine: machine, commands: window.commandLines, results: results))
        }
        let verdicts = results.flatMap(\.verdicts)
        if verdicts.contains(where: { $0.status != .passed }) { throw ExitCode.failure }
    }

    /// Plays the windows on a server with `shim` and on one without.
    static func compare(
        _ decay: Decay, server: String, shim: Shim, window: Window, pairs: Int,
        name: String? = nil
    ) throws -> Result {
        let directory = try makeRunDirectory()
        var servers: [RedisServer] = []
        defer { for server in servers { server.stop() } }
        let mode = shim.mode?.rawValue ?? "auto"
        for configuration in [Configuration.plain, .shim] {
            let name = "\(decay.rawValue)-\(mode)-\(configuration.rawValue)"
            servers.append(
                try RedisServer(
                    configuration, executable: server, shim: shim,
                    mallocOptions: decay.mallocOptions, in: directory.appending(path: name)))
        }
        try StatsPage.read(pid: servers[1].pid).require(shim.mode)
        Progress.show(0, of: pairs, "warming up")
        for server in servers {
            try window.warmUp(server)
            _ = try window.run(on: server)
        }
        let decommitsBefore = try StatsPage.read(pid: servers[1].pid)["decommits"] ?? 0
        let name = name ?? "decay \(decay.rawValue)" + (shim.mode.map { ", \($0.rawValue)" } ?? "")
        let result = try PairedRun(name: name, pairs: pairs).play { hasShim in
            try window.run(on: servers[hasShim ? 1 : 0])
        }
        let page = try StatsPage.read(pid: servers[1].pid)
        try page.require(shim.mode)
        let decommits = page["decommits"] ?? 0
        return Result(
            name: name, decay: decay.rawValue, mode: mode, command: servers[1].commandLine,
            figures: result,
            purgesPerSecond: Double(decommits - decommitsBefore) / result.shimSeconds)
    }

    private static func show(_ result: Result) {
        print(
            "decay \(result.decay): \(decimal(result.purgesPerSecond, 0)) purges per second")
        for verdict in result.verdicts { print(verdict.line) }
        flushOutput()
    }
}

/// A fixed amount of work that redis-benchmark does to one server.
struct Window {
    let client: String
    let requestCount: Int

    /// Sets of two sizes and a delete churn, over the same million of keys.
    private var parts: [[String]] {
        let common = ["-r", "1000000", "-P", "16", "-c", "50", "--csv"]
        let quarter = ["-n", String(requestCount / 4)]
        return [
            common + quarter + ["-d", "512", "-t", "set"],
            common + quarter + ["DEL", "key:__rand_int__"],
            common + quarter + ["-d", "3000", "-t", "set"],
            common + quarter + ["DEL", "key:__rand_int__"],
        ]
    }

    var commandLines: [String] {
        parts.map { "redis-benchmark -s SOCKET " + $0.joined(separator: " ") }
    }

    /// Brings the server to where the windows keep it: half of the keys are there, so that every
    /// second DEL finds one.
    func warmUp(_ server: RedisServer) throws {
        let fill = ["-r", "1000000", "-n", "700000", "-P", "16", "-d", "1500", "-t", "set", "-q"]
        let result = try Tool.run(client, ["-s", server.socketPath] + fill)
        guard result.status == 0 else { throw HarnessError("redis-benchmark: \(result.output)") }
    }

    func run(on server: RedisServer) throws -> PairedRun.Figures {
        let before = try ProcessStatus.read(pid: server.pid).cpuSeconds
        var seconds = 0.0
        for part in parts {
            let result = try Tool.run(client, ["-s", server.socketPath] + part)
            // "test","rps",… then the figures of the one test.
            let fields = result.output.split(separator: "\n").last?.split(separator: ",") ?? []
            guard result.status == 0, fields.count >= 2,
                let rate = Double(fields[1].trimmingCharacters(in: ["\""])), rate > 0
            else { throw HarnessError("redis-benchmark: \(result.output)") }
            seconds += Double(requestCount / 4) / rate
        }
        let cpu = try ProcessStatus.read(pid: server.pid).cpuSeconds - before
        let count = Double(requestCount / 4 * parts.count)
        return PairedRun.Figures(
            operationsPerSecond: count / seconds, cpuPerOperation: cpu / count, seconds: seconds)
    }
}
