// SPDX-License-Identifier: Apache-2.0

import Foundation
import ProcFS
import ReclaimCore
import TestSupport
import Testing

/// The modes that fence have what they need here.
let modesCanFence =
    KernelAbilities.hasUserfaultfd && KernelAbilities.backends.contains(.dontneed)
    && KernelAbilities.showsTables

/// A Swift server, with the Swift runtime, Foundation and concurrency, has an Embedded Swift runtime
/// in its process as well: that of the library, which must not interpose it.
extension ShimTests {
    struct SwiftServerTests {
        private static let server = PackageFiles.executable("swift-server")

        /// What the library comes to, with and without jemalloc.
        private struct Mode {
            let name: String
            let line: String
            let fences: Bool

            init(_ name: String, jemalloc: Bool) {
                self.name = name
                let hooks = "hooks on jemalloc"
                let scan = "scans every 20 ms"
                let none = "does nothing: "
                let noHooks = "no hooks: no jemalloc behind malloc"
                switch (name, jemalloc) {
                case ("hooks", true), ("auto", true): (line, fences) = (hooks, false)
                case ("hooks", false), ("auto", false): (line, fences) = (none, false)
                case ("hooks+scan", true): (line, fences) = ("dontneed; \(scan)", true)
                case ("hooks+scan", false): (line, fences) = (noHooks, true)
                case ("scan", _): (line, fences) = (scan, true)
                case ("madvise", _): (line, fences) = ("looks 20 ms after each purge", true)
                default: (line, fences) = ("\(none)switched off", false)
                }
            }
        }

        /// Runs the server to its end; returns its waste when it had done its work, in kB, in spans
        /// that lie inside one mapping. On a machine that is too busy the watchdog opens a fence,
        /// and nobody is served any more: another attempt.
        private func serve(_ name: String, jemalloc: Bool) async throws -> Int? {
            for _ in 1...2 {
                let run = try await serveOnce(name, jemalloc: jemalloc)
                if !run.gaveUp { return run.waste }
            }
            let run = try await serveOnce(name, jemalloc: jemalloc)
            #expect(!run.gaveUp, "three times the watchdog had to open a fence")
            return run.waste
        }

        private func serveOnce(
            _ name: String, jemalloc: Bool
        ) async throws -> (waste: Int?, gaveUp: Bool) {
            let mode = Mode(name, jemalloc: jemalloc)
            let directory = try TemporaryDirectory()
            let library = FixtureLibraries.sharedJemalloc.map { URL(filePath: $0) }
            let shim = try await ShimBuild.release()
            let started = try Victim.start(
                [Self.server, "serve", directory.url.path(), mode.fences ? "10000" : "0"],
                environment: [
                    "MALLOC_CONF": "dirty_decay_ms:0", "PTRECLAIM_MODE": name,
                    "PTRECLAIM_VERBOSE": "1", "PTRECLAIM_DELAY_MS": "20",
                    "PTRECLAIM_BUDGET_PERCENT": "100", "PTRECLAIM_WATERMARK_KB": "0",
                ], preloading: (jemalloc ? [try #require(library)] : []) + [shim])
            var waste: Int?
            var gaveUp = false
            do {
                try await wait(seconds: 60, for: "the server") { directory.has("ready") }
                // The last purges may have come just now.
                for _ in 0..<(mode.fences && jemalloc ? 100 : 1) {
                    waste = try PageTableCensus.take(pid: started.pid).tables.reclaimable
                        .map { $0 * 4 }
                    if waste ?? 0 <= 32 { break }
                    try await Task.sleep(for: .milliseconds(50))
                }
                if mode.fences && modesCanFence {
                    gaveUp = try StatsPage.read(pid: started.pid)["fences_opened"] ?? 0 > 0
                }
                try directory.write("go", to: "go")
            } catch {
                Issue.record("\(try await started.end(within: .zero))")
                throw error
            }
            let outcome = try await started.end(within: .seconds(20))
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.numbers["wrong"] == 0, "\(outcome)")
            #expect(outcome.numbers["still stored"] == 0, "\(outcome)")
            #expect(outcome.errors.split(separator: "\n").count == 1, "\(outcome)")
            #expect(outcome.errors.contains(mode.line), "\(outcome)")
            if modesCanFence && !gaveUp {
                let left = mode.fences ? 0 : 32
                #expect(outcome.numbers["calls that left a table"] == 0, "\(outcome)")
                #expect(outcome.numbers["tables left alone"] == left, "\(outcome)")
                #expect(outcome.numbers["freed by a call"] == left, "\(outcome)")
            }
            if ProcessInfo.processInfo.environment["PTRECLAIM_SHOW_WASTE"] != nil {
                print("swift-server, \(name), jemalloc: \(jemalloc), kB: \(waste ?? -1)")
            }
            return (waste, gaveUp)
        }

        @Test("With libc's malloc it answers right, and its own mappings are served, in any mode")
        func alone() async throws {
            let fencing = modesCanFence ? ["madvise", "scan", "hooks+scan"] : []
            for name in ["hooks", "auto"] + fencing { _ = try await serve(name, jemalloc: false) }
        }

        @Test(
            "With jemalloc it answers right, and wastes no tables, in any mode",
            .enabled(if: Preloading.isPossible, "needs libjemalloc.so.2"))
        func withJemalloc() async throws {
            let plain = try await serve("off", jemalloc: true)
            let fencing = modesCanFence ? ["madvise", "scan", "hooks+scan"] : []
            for name in ["hooks", "auto"] + fencing {
                let waste = try await serve(name, jemalloc: true)
                guard KernelAbilities.showsTables else { continue }
                #expect(try #require(plain) >= 64)
                #expect(try #require(waste) <= 32, "\(name), of \(plain ?? 0) kB")
            }
        }

        private func advise(_ environment: [String: String], shim: Bool) async throws -> [String] {
            let outcome = try await Victim.run(
                [Self.server, "advise"], environment: environment,
                preloading: shim ? [try await ShimBuild.release()] : [])
            #expect(outcome.status == 0, "\(outcome)")
            return outcome.output.split(separator: "\n").map(String.init)
        }

        @Test(
            "ptReclaimAdvise switches a range off and on, and frees it now",
            .enabled(if: modesCanFence, "needs userfaultfd and PT_RECLAIM, Linux 6.14"),
            arguments: ["madvise", "scan", "hooks+scan"])
        func advice(mode: String) async throws {
            let lines = try await advise(
                ["PTRECLAIM_MODE": mode, "PTRECLAIM_DELAY_MS": "60000"], shim: true)
            #expect(
                lines == [
                    "tables: 8", "off: done", "now, while off: done", "tables while off: 8",
                    "on: done", "now: done", "tables after now: 0",
                    "not a page: invalidRange, errno 22",
                    "above user space: invalidRange, errno 22", "freed by a call: 8",
                ])
        }

        @Test(
            "ptReclaimAdvise says where there is nobody to take advice", arguments: [true, false])
        func noAdvice(shim: Bool) async throws {
            let lines = try await advise(["PTRECLAIM_MODE": "hooks"], shim: shim)
            for prefix in ["off: ", "now, while off: ", "on: ", "now: "] {
                #expect(lines.contains(prefix + "unsupported, errno 95"), "\(lines)")
            }
        }
    }
}
