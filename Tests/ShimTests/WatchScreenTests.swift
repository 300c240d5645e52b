// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

extension ShimTests {
    /// `ptreclaim watch` on processes that have the library.
    @Suite struct WatchScreenTests {
        private let program = PackageFiles.executable("ptreclaim")

        private func with<Result>(
            mode: String, _ body: (Int32) async throws -> Result
        ) async throws -> Result {
            // What a scan finds it leaves, until it is asked.
            let environment = purgeAtOnce.merging([
                "PTRECLAIM_MODE": mode, "PTRECLAIM_WATERMARK_KB": "1000000",
            ]) { $1 }
            let running = try Victim.start(
                [victim, "wait"], environment: environment,
                preloading: [try await ShimBuild.release()])
            do {
                _ = try await running.line(startingWith: "ready: ", within: .seconds(20))
                let result = try await body(running.pid)
                _ = try await running.end(within: .zero)
                return result
            } catch {
                _ = try await running.end(within: .zero)
                throw error
            }
        }

        private func terminal(_ pid: Int32) throws -> PseudoTerminal {
            try PseudoTerminal(
                [program, "watch", "\(pid)", "--interval", "0.2"], columns: 120, rows: 40)
        }

        private static func hasAnswer(_ output: String) -> Bool {
            output.contains(/now: [1-9][0-9]* of [0-9]+ tables freed, VmPTE [0-9]+ kB before/)
        }

        private static func showsFreed(_ output: String) -> Bool {
            let frame = PseudoTerminal.frames(output).last ?? []
            return frame.contains { $0.contains(/^tables_freed +[1-9]/) }
        }

        @Test(
            "n has the tables freed, says how many, and the counters show it",
            .enabled(if: KernelAbilities.canFence, "needs a fence"))
        func now() async throws {
            try await with(mode: "scan") { pid in
                let terminal = try terminal(pid)
                let first = try await terminal.output { $0.contains("tables_freed") }
                #expect(first.contains("mode scan, on"))
                terminal.type("n")
                let answer = try await terminal.output(where: Self.hasAnswer)
                #expect(answer.contains("asked, waiting"))
                terminal.clear()
                try await terminal.output(where: Self.showsFreed)
                terminal.type("q")
                #expect(try await terminal.end() == 0)
            }
        }

        @Test("in mode hooks n says that there is nothing to do now")
        func nowWithHooks() async throws {
            try await with(mode: "hooks") { pid in
                let terminal = try terminal(pid)
                try await terminal.output {
                    $0.contains("spans_zapped") && $0.contains("mode hooks, on")
                }
                terminal.type("n")
                try await terminal.output { $0.contains("nothing is deferred in mode hooks") }
                terminal.type("q")
                #expect(try await terminal.end() == 0)
            }
        }

        @Test(
            "a stopped process does not hold up the screen, nor a q",
            .enabled(if: KernelAbilities.canFence, "needs a fence"))
        func silence() async throws {
            try await with(mode: "scan") { pid in
                let terminal = try terminal(pid)
                try await terminal.output { $0.contains("mode scan, on") }
                kill(pid, SIGSTOP)
                terminal.type("n")
                try await terminal.output { $0.contains("asked, waiting") }
                terminal.clear()
                try await terminal.output { PseudoTerminal.frames($0).count >= 3 }
                terminal.type("q")
                #expect(try await terminal.end(within: .seconds(5)) == 0)
            }
        }

        @Test("lines tell the mode and what was counted")
        func lines() async throws {
            try await with(mode: "hooks") { pid in
                let outcome = try await Victim.run(
                    [program, "watch", "\(pid)", "--count", "1", "--interval", "0.1"])
                let line = try #require(outcome.output.split(separator: "\n").last)
                let fields = line.split(separator: " ")
                #expect(fields.count == 10 && fields[7] == "hooks", "\(outcome)")
                #expect(try #require(Int(fields[9])) > 0, "spans zapped: \(outcome)")
            }
        }
    }
}
