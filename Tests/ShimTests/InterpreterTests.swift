// SPDX-License-Identifier: Apache-2.0

import Foundation
import ProcFS
import TestSupport
import Testing

/// Interpreters with a preloaded jemalloc, and with allocators that are none.
extension ShimTests {
    @Suite struct InterpreterTests {
        struct Interpreter: Sendable {
            let name: String
            let options: [String]
            /// Makes and drops strings in lists and maps, three times, keeps some, writes "ready"
            /// to a file in the directory that is its argument, waits for another, and looks at
            /// what it kept.
            let script: String
            var isInstalled: Bool { PackageFiles.installed(name) != nil }
        }

        static let python = Interpreter(
            name: "python3", options: ["-c"],
            script: """
                import os, sys, time
                def make(i): return {"k%d" % i: "v" * (i % 4000)}
                for turn in range(3):
                    made = [make(i) for i in range(60000)]
                    assert sum(len(s) for m in made for s in m.values()) == 60000 // 4000 * 7998000
                    kept = made[:100]
                    made = None
                with open(sys.argv[1] + "/ready", "w") as file: file.write("ready")
                while not os.path.exists(sys.argv[1] + "/go"): time.sleep(0.02)
                assert kept == [make(i) for i in range(100)]
                print("right")
                """)
        static let ruby = Interpreter(
            name: "ruby", options: ["-e"],
            script: """
                def make(i) = { "k#{i}" => "v" * (i % 4000) }
                def turn
                  made = (0...60000).map { |i| make(i) }
                  raise unless made.sum { |m| m.values.sum(&:size) } == 60000 / 4000 * 7998000
                  made[0, 100]
                end
                kept = nil
                3.times { kept = turn; GC.start }
                File.write(ARGV[0] + "/ready", "ready")
                sleep 0.02 until File.exist?(ARGV[0] + "/go")
                raise unless kept == (0...100).map { |i| make(i) }
                puts "right"
                """)
        static let node = Interpreter(
            name: "node", options: ["--expose-gc", "-e"],
            script: """
                const fs = require("fs"), { Worker } = require("worker_threads")
                const directory = process.argv[1]
                const make = i => ({ ["k" + i]: Buffer.alloc(30000 + i % 4000, i) })
                let kept
                function turn() {
                  const made = Array.from({ length: 3000 }, (_, i) => make(i))
                  made.forEach((m, i) => {
                    if (m["k" + i][29999] != i % 256) throw "wrong byte"
                  })
                  kept = made.slice(0, 20)
                }
                for (let i = 0; i < 3; i++) { turn(); gc() }
                const worker = new Worker(
                  "for (let i = 0; i < 500; i++) Buffer.alloc(50000, i)", { eval: true })
                worker.on("exit", () => {
                  gc()
                  setTimeout(() => fs.writeFileSync(directory + "/ready", "ready"), 300)
                })
                const timer = setInterval(() => {
                  if (!fs.existsSync(directory + "/go")) return
                  clearInterval(timer)
                  kept.forEach((m, i) => {
                    if (!m["k" + i].equals(make(i)["k" + i])) throw "wrong bytes"
                  })
                  console.log("right")
                }, 20)
                """)

        /// Runs the script to its end; `look` is called when its work is done.
        @discardableResult
        private func run(
            _ interpreter: Interpreter, in directory: TemporaryDirectory, preloading: [URL],
            environment: [String: String] = [:], look: (Int32) throws -> Void = { _ in }
        ) async throws -> Victim.Outcome {
            let started = try Victim.start(
                [PackageFiles.installed(interpreter.name) ?? ""] + interpreter.options
                    + [interpreter.script, directory.url.path()],
                environment: Preloading.environment.merging(["PYTHONMALLOC": "malloc"]) { $1 }
                    .merging(environment) { $1 },
                preloading: preloading)
            do {
                try await wait(seconds: 30, for: interpreter.name) { directory.has("ready") }
                try look(started.pid)
                try directory.write("go", to: "go")
            } catch {
                let outcome = try await started.end(within: .zero)
                Issue.record("\(interpreter.name): \(outcome)")
                throw error
            }
            let outcome = try await started.end(within: .seconds(20))
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.output == "right\n", "\(outcome)")
            return outcome
        }

        // Tests, not arguments: what is missing is to be shown as skipped.
        @Test(
            "Python gives its tables back in either order of the preload; without jemalloc, nothing",
            .enabled(if: python.isInstalled, "needs python3"),
            .enabled(if: Preloading.isPossible, "needs libjemalloc.so.2"))
        func pythonGives() async throws {
            try await expectNothing(Self.python, order: { [$0] }, mode: "hooks")
            try await expectTables(of: Self.python)
        }

        @Test(
            "Ruby gives its tables back in either order of the preload; without jemalloc, nothing",
            .enabled(if: ruby.isInstalled, "needs ruby"),
            .enabled(if: Preloading.isPossible, "needs libjemalloc.so.2"))
        func rubyGives() async throws {
            try await expectNothing(Self.ruby, order: { [$0] }, mode: "hooks")
            try await expectTables(of: Self.ruby)
        }

        @Test(
            "Node gives its tables back in either order of the preload; without jemalloc, nothing",
            .enabled(if: node.isInstalled, "needs node"),
            .enabled(if: Preloading.isPossible, "needs libjemalloc.so.2"))
        func nodeGives() async throws {
            try await expectNothing(Self.node, order: { [$0] }, mode: "hooks")
            try await expectTables(of: Self.node)
        }

        private func expectTables(of interpreter: Interpreter) async throws {
            var comparison = WasteComparison()
            for preloading in Preloading.allCases {
                let directory = try TemporaryDirectory()
                let outcome = try await run(
                    interpreter, in: directory,
                    preloading: preloading.libraries(in: directory)
                ) { pid in
                    try comparison.look(at: pid, preloading)
                }
                let lines = outcome.errors.split(separator: "\n")
                if preloading == .jemalloc {
                    #expect(lines.isEmpty, "\(outcome)")
                } else {
                    #expect(lines.count == 1, "\(outcome)")
                    #expect(outcome.errors.contains("hooks on jemalloc"), "\(outcome)")
                }
            }
            try comparison.check(interpreter.name)
        }

        private static func find(_ name: String) -> URL? {
            ["/usr/lib/x86_64-linux-gnu/\(name)", "/usr/lib64/\(name)"]
                .first { FileManager.default.fileExists(atPath: $0) }.map { URL(filePath: $0) }
        }
        static let tcmalloc = find("libtcmalloc_minimal.so.4")
        static let mimalloc = find("libmimalloc.so.2")

        /// Runs an interpreter in which nothing is to be found, with the shim and `more`.
        private func expectNothing(
            _ interpreter: Interpreter, order: (URL) -> [URL], mode: String
        ) async throws {
            let shim = try await ShimBuild.release()
            let outcome = try await run(
                interpreter, in: try TemporaryDirectory(), preloading: order(shim),
                environment: ["PTRECLAIM_MODE": mode]
            ) { pid in
                #expect(throws: ProcFSError.self, "it has a stats page") {
                    try StatsPage.read(pid: pid)
                }
            }
            #expect(outcome.errors.split(separator: "\n").count == 1, "\(outcome)")
            #expect(
                outcome.errors.contains("does nothing: no jemalloc behind malloc"), "\(outcome)")
        }

        @Test(
            "With tcmalloc behind malloc it does nothing",
            .enabled(if: tcmalloc != nil, "needs libtcmalloc-minimal4"),
            .enabled(if: python.isInstalled, "needs python3"), arguments: ["auto", "hooks"])
        func besideTcmalloc(mode: String) async throws {
            let library = try #require(Self.tcmalloc)
            try await expectNothing(Self.python, order: { [$0, library] }, mode: mode)
            try await expectNothing(Self.python, order: { [library, $0] }, mode: mode)
        }

        @Test(
            "With mimalloc behind malloc it does nothing",
            .enabled(if: mimalloc != nil, "needs libmimalloc2.0"),
            .enabled(if: python.isInstalled, "needs python3"), arguments: ["auto", "hooks"])
        func besideMimalloc(mode: String) async throws {
            let library = try #require(Self.mimalloc)
            try await expectNothing(Self.python, order: { [$0, library] }, mode: mode)
            try await expectNothing(Self.python, order: { [library, $0] }, mode: mode)
        }
    }
}
