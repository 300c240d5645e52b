// SPDX-License-Identifier: Apache-2.0

import Foundation

/// A process under measurement. Its keeper, a small shell that waits for the end of its input,
/// kills it and removes its directory however this program ends: at its end, by an error, by
/// SIGINT, even by SIGKILL. No signal handler is needed, and none can be forgotten.
final class KeptProcess {
    let pid: Int32
    let directory: URL
    private let keeper = Process()
    private let keeperInput = Pipe()

    /// Starts `command` with `environment` added to this program's own.
    init(_ command: [String], environment: [String: String], directory: URL) throws {
        self.directory = directory
        try FileManager.default.createDirectory(
            at: directory, withIntermediateDirectories: true)
        let settings = environment.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
        let script = """
            trap '' INT TERM HUP
            directory=$1; shift
            "$@" </dev/null >"$directory/output" 2>&1 &
            echo $!
            read -r _
            kill -9 $! 2>/dev/null
            wait 2>/dev/null
            rm -rf -- "$directory"
            rmdir -- "${directory%/*}" 2>/dev/null
            """
        keeper.executableURL = URL(fileURLWithPath: "/bin/sh")
        keeper.arguments =
            ["-c", script, "keeper", directory.path, "env"] + settings + command
        let output = Pipe()
        keeper.standardInput = keeperInput
        keeper.standardOutput = output
        try keeper.run()
        let line = String(decoding: output.fileHandleForReading.availableData, as: UTF8.self)
        guard let pid = Int32(line.trimmingCharacters(in: .whitespacesAndNewlines)) else {
            throw HarnessError("could not start \(command[0])")
        }
        self.pid = pid
    }

    /// What the process has printed so far.
    var output: String {
        (try? String(contentsOf: directory.appending(path: "output"), encoding: .utf8)) ?? ""
    }

    func stop() {
        try? keeperInput.fileHandleForWriting.close()
        keeper.waitUntilExit()
    }
}

/// The ways in which a server is run.
enum Configuration: String, CaseIterable {
    case plain
    case retainOff = "retain:false"
    case shim

    /// - Parameter extra: MALLOC_CONF of every server in the run, if any.
    func environment(shim: Shim, extra: String?) -> [String: String] {
        var options = extra.map { [$0] } ?? []
        var environment: [String: String] = [:]
        switch self {
        case .plain: break
        case .retainOff: options.append("retain:false")
        case .shim: environment = shim.environment
        }
        if !options.isEmpty {
            // A jemalloc that redis brings along may have been built with the prefix.
            environment["MALLOC_CONF"] = options.joined(separator: ",")
            environment["JE_MALLOC_CONF"] = environment["MALLOC_CONF"]
        }
        return environment
    }
}

/// Something the churn can be played on.
protocol ChurnTarget: AnyObject {
    var configuration: Configuration { get }
    var pid: Int32 { get }
    /// The environment and command, as one would type it.
    var commandLine: String { get }
    /// Called now and then while it works, outside its clock where there is one.
    var betweenBatches: () -> Void { get set }

    func populate(_ plan: ChurnPlan) throws -> Work
    func flush() throws -> Work
    func fill(_ cycle: ChurnPlan.Cycle, of plan: ChurnPlan) throws -> Work
    func deleteMost(_ cycle: ChurnPlan.Cycle) throws -> Work
    /// Compares what is left byte by byte.
    func verify(_ cycle: ChurnPlan.Cycle, of plan: ChurnPlan) throws
    func deleteRest(_ cycle: ChurnPlan.Cycle) throws -> Work
    /// Time of one fork, where the target forks; the median of a few.
    func forkMicroseconds() throws -> Int?
    func stop()
}

/// A real redis-server on a unix socket of its own.
final class RedisServer: ChurnTarget {
    let configuration: Configuration
    let commandLine: String
    let socketPath: String
    private let process: KeptProcess
    private let client: RESPClient

    var pid: Int32 { process.pid }
    var betweenBatches: () -> Void {
        get { client.betweenBatches }
        set { client.betweenBatches = newValue }
    }

    /// - Parameter arguments: more of redis-server's own, such as `--disable-thp no`.
    init(
        _ configuration: Configuration, executable: String, shim: Shim, mallocOptions: String?,
        arguments: [String] = [], in directory: URL
    ) throws {
        self.configuration = configuration
        socketPath = directory.appending(path: "redis.sock").path
        let environment = configuration.environment(shim: shim, extra: mallocOptions)
        let command =
            [
                executable, "--port", "0", "--unixsocket", socketPath, "--save", "",
                "--appendonly", "no", "--dir", directory.path, "--daemonize", "no",
            ] + arguments
        commandLine = Self.line(environment, command)
        process = try KeptProcess(command, environment: environment, directory: directory)
        do {
            client = try Self.connect(to: process, path: socketPath)
            guard try client.ask("INFO", "memory").contains("mem_allocator:jemalloc") else {
                throw HarnessError("\(executable) was not built with jemalloc")
            }
        } catch {
            process.stop()
            throw error
        }
    }

    private static func connect(to process: KeptProcess, path: String) throws -> RESPClient {
        for _ in 0..<200 {
            if let client = try? RESPClient(path: path) {
                if let reply = try? client.ask("PING"), reply == "+PONG\r\n" { return client }
            }
            Thread.sleep(forTimeInterval: 0.05)
        }
        throw HarnessError("redis-server did not come up:\n\(process.output)")
    }

    func populate(_ plan: ChurnPlan) throws -> Work {
        for key in 0..<plan.populateCount {
            try client.set(key, to: plan.populateValue(key), of: plan.block)
        }
        return try client.finish()
    }

    func flush() throws -> Work {
        _ = try client.ask("FLUSHALL", "SYNC")
        return Work()
    }

    func fill(_ cycle: ChurnPlan.Cycle, of plan: ChurnPlan) throws -> Work {
        for key in 0..<plan.fillCount {
            try client.set(key, to: cycle.value(key), of: plan.block)
        }
        return try client.finish()
    }

    func deleteMost(_ cycle: ChurnPlan.Cycle) throws -> Work {
        for key in cycle.deletionOrder.prefix(cycle.mostCount) { try client.delete(Int(key)) }
        return try client.finish()
    }

    func verify(_ cycle: ChurnPlan.Cycle, of plan: ChurnPlan) throws {
        for key in cycle.deletionOrder.dropFirst(cycle.mostCount) {
            try client.get(Int(key), expecting: cycle.value(Int(key)), of: plan.block)
        }
        _ = try client.finish()
    }

    func deleteRest(_ cycle: ChurnPlan.Cycle) throws -> Work {
        for key in cycle.deletionOrder.dropFirst(cycle.mostCount) { try client.delete(Int(key)) }
        return try client.finish()
    }

    func forkMicroseconds() throws -> Int? {
        let times = try (0..<5).map { _ in
            _ = try client.ask("BGSAVE")
            while try field("rdb_bgsave_in_progress", of: "persistence") != "0" {
                Thread.sleep(forTimeInterval: 0.01)
            }
            guard try field("rdb_last_bgsave_status", of: "persistence") == "ok" else {
                throw HarnessError("BGSAVE failed (\(configuration.rawValue))")
            }
            return Int(try field("latest_fork_usec", of: "stats") ?? "")
        }
        return times.compactMap { $0 }.sorted().dropFirst(2).first
    }

    /// jemalloc as redis names it.
    func allocator() throws -> String { try field("mem_allocator", of: "memory") ?? "unknown" }

    private func field(_ name: String, of section: String) throws -> String? {
        try client.ask("INFO", section).split(whereSeparator: \.isNewline)
            .first { $0.hasPrefix(name + ":") }
            .map { String($0.dropFirst(name.count + 1)) }
    }

    func stop() { process.stop() }

    static func line(_ environment: [String: String], _ command: [String]) -> String {
        let settings = environment.filter { $0.key != "JE_MALLOC_CONF" }
            .sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
        let quoted = command.map { $0.isEmpty ? "''" : $0 }
        return (settings + quoted).joined(separator: " ")
    }
}

/// The same churn inside jemalloc, for a machine without redis. It ends with its input.
final class EmbeddedChurn: ChurnTarget {
    let configuration: Configuration
    let commandLine: String
    let jemallocVersion: String
    var betweenBatches: () -> Void = {}
    private let process: DrivenProcess

    var pid: Int32 { process.pid }

    init(
        _ configuration: Configuration, executable: URL, shim: Shim, mallocOptions: String?,
        seed: UInt64
    ) throws {
        self.configuration = configuration
        let environment = configuration.environment(shim: shim, extra: mallocOptions)
        let arguments = ["--driven", "--seed", String(seed)]
        commandLine = RedisServer.line(environment, [executable.path] + arguments)
        process = try DrivenProcess([executable.path] + arguments, environment: environment)
        jemallocVersion = process.greeting
    }

    private func ask(_ command: String) throws -> Work {
        try process.work(command, meanwhile: betweenBatches)
    }

    func populate(_ plan: ChurnPlan) throws -> Work {
        try ask("populate \(plan.populateCount) \(ChurnPlan.populateByteCount)")
    }

    func flush() throws -> Work { try ask("delete 100") }

    func fill(_ cycle: ChurnPlan.Cycle, of plan: ChurnPlan) throws -> Work {
        let range = ChurnPlan.byteCountRange
        return try ask("fill \(plan.fillCount) \(range.lowerBound) \(range.upperBound)")
    }

    func deleteMost(_ cycle: ChurnPlan.Cycle) throws -> Work { try ask("delete 90") }

    func verify(_ cycle: ChurnPlan.Cycle, of plan: ChurnPlan) throws { _ = try ask("verify") }

    func deleteRest(_ cycle: ChurnPlan.Cycle) throws -> Work { try ask("delete 100") }

    func forkMicroseconds() throws -> Int? { nil }

    func stop() { process.stop() }
}
