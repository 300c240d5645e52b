// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing
import TraceFile

private let hasRedis = ["redis-server", "redis-cli", "redis-benchmark", "redis-check-rdb"]
    .allSatisfy { PackageFiles.installed($0) != nil }

extension ShimTests {
    /// A redis-server as people run it.
    @Suite(.enabled(if: hasRedis, "needs redis-server and redis-tools")) struct RedisTests {
        /// A server of one test, in a directory of its own, on a socket.
        private struct Server {
            let directory: TemporaryDirectory
            var socket: String { directory.url.appending(path: "socket").path() }
            var dump: String { directory.url.appending(path: "dump.rdb").path() }
            var pidFile: URL { directory.url.appending(path: "pid") }

            var command: [String] {
                [
                    PackageFiles.installed("redis-server") ?? "", "--port", "0", "--unixsocket",
                    socket, "--dir", directory.url.path(), "--save", "", "--pidfile",
                    pidFile.path(), "--enable-debug-command", "yes",
                ]
            }

            func ask(_ words: String...) async throws -> String {
                let outcome = try await Victim.run(
                    [PackageFiles.installed("redis-cli") ?? "", "-s", socket] + words)
                return outcome.output.trimmingCharacters(in: .whitespacesAndNewlines)
            }

            func waitUntilUp() async throws {
                for _ in 0..<500 {
                    if try await ask("ping") == "PONG" { return }
                    try await Task.sleep(for: .milliseconds(20))
                }
                throw ShimBuild.Failure(description: "redis-server does not answer")
            }

            func value(_ name: String, of section: String) async throws -> String? {
                try await ask("info", section).split(whereSeparator: \.isNewline)
                    .first { $0.hasPrefix("\(name):") }.map { String($0.dropFirst(name.count + 1)) }
            }

            func load(operations: Int) throws -> Victim {
                try Victim.start([
                    PackageFiles.installed("redis-benchmark") ?? "", "-s", socket, "-t",
                    "set,lpush",
                    "-r", "100000", "-d", "1500", "-P", "8", "-n", "\(operations)", "-q",
                ])
            }
        }

        @Test("A daemon shows its counters, and gives its tables back when its keys go")
        func daemon() async throws {
            var kibibytes: [Int] = []
            for shim in [nil, try await ShimBuild.release()] {
                let server = Server(directory: try TemporaryDirectory())
                let start = try await Victim.run(
                    server.command + ["--daemonize", "yes"], environment: purgeAtOnce,
                    preloading: shim.map { [$0] } ?? [])
                #expect(start.status == 0, "\(start)")
                try await server.waitUntilUp()
                let pid = try String(contentsOf: server.pidFile, encoding: .utf8)
                    .trimmingCharacters(in: .whitespacesAndNewlines)
                defer { kill(Int32(pid) ?? 0, SIGKILL) }
                // Longer than what jemalloc keeps in thread caches: of short values it keeps a few
                // hundred, all over the heap, and each of them keeps its table.
                #expect(try await server.ask("debug", "populate", "4000", "key", "40000") == "OK")
                #expect(try await server.ask("flushall") == "OK")
                if shim != nil {
                    let counters = try await Victim.run([victim, "counters", pid])
                    #expect(counters.status == 0, "\(counters)")
                    #expect(counters.numbers["page_pid"] == Int(pid))
                    #expect(try #require(counters.numbers["spans_zapped"]) > 50, "\(counters)")
                }
                let status = try String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)
                let line = try #require(status.firstMatch(of: /VmPTE:\s*(\d+) kB/))
                kibibytes.append(try #require(Int(line.1)))
                _ = try await server.ask("shutdown", "nosave")
            }
            #expect(kibibytes[1] * 2 < kibibytes[0], "VmPTE plain and with the shim: \(kibibytes)")
        }

        @Test("What a server records predicts its VmPTE while it fills and when its keys go")
        func trace() async throws {
            let server = Server(directory: try TemporaryDirectory())
            let trace = server.directory.url.appending(path: "trace").path()
            let running = try Victim.start(
                server.command,
                environment: purgeAtOnce.merging(["PTRECLAIM_TRACE": trace]) { $1 },
                preloading: [try await ShimBuild.release()])
            do {
                try await server.waitUntilUp()
                for byteCount in ["40000", "500"] {
                    #expect(
                        try await server.ask("debug", "populate", "5000", "key", byteCount)
                            == "OK")
                    #expect(try await server.ask("flushall") == "OK")
                }
                _ = try await server.ask("shutdown", "nosave")
                let end = try await running.end(within: .seconds(20))
                #expect(end.status == 0, "\(end)")
            } catch {
                _ = try await running.end(within: .zero)
                throw error
            }
            try expectClose(TraceReplay(TraceReader(path: trace)), growth: 300 * 1024)
        }

        @Test("BGSAVE under load writes right files", arguments: ["auto", "remap"])
        func backgroundSave(backend: String) async throws {
            let server = Server(directory: try TemporaryDirectory())
            let running = try Victim.start(
                server.command,
                environment: [
                    "MALLOC_CONF": "dirty_decay_ms:0,background_thread:true",
                    "PTRECLAIM_BACKEND": backend,
                ], preloading: [try await ShimBuild.release()])
            do {
                try await server.waitUntilUp()
                let load = try server.load(operations: 4_000_000)
                for round in 0..<4 {
                    try await Task.sleep(for: .milliseconds(500))
                    #expect(try await server.ask("bgsave").hasPrefix("Background saving started"))
                    var waited = 0
                    while try await server.value("rdb_bgsave_in_progress", of: "persistence") != "0"
                    {
                        try await Task.sleep(for: .milliseconds(50))
                        waited += 1
                        try #require(waited < 1200, "the child of BGSAVE hangs")
                    }
                    let status = try await server.value("rdb_last_bgsave_status", of: "persistence")
                    #expect(status == "ok", "round \(round)")
                    let check = try await Victim.run(
                        [PackageFiles.installed("redis-check-rdb") ?? "", server.dump])
                    #expect(check.status == 0, "\(check)")
                    if round == 1 { _ = try await server.ask("flushall") }
                }
                _ = try await load.terminate()
                let digest = try await server.ask("debug", "digest")
                #expect(try await server.ask("debug", "reload") == "OK")
                #expect(try await server.ask("debug", "digest") == digest)
                #expect(digest.count == 40)
                let counters = try await Victim.run([victim, "counters", "\(running.pid)"])
                #expect(counters.status == 0, "\(counters)")
                #expect(try #require(counters.numbers["decommits"]) > 1000)
                _ = try await server.ask("shutdown", "nosave")
                let end = try await running.end(within: .seconds(20))
                #expect(end.status == 0, "\(end)")
            } catch {
                _ = try await running.end(within: .zero)
                throw error
            }
        }
    }
}
