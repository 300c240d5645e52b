// SPDX-License-Identifier: Apache-2.0

import Foundation
import ProcFS
import TestSupport
import Testing

extension ShimTests {
    /// A service thread that does not get on: nobody waits for it for long, but where it has committed
    /// itself to free, and no byte is lost anywhere.
    @Suite(.enabled(if: KernelAbilities.hasFence, "needs a fence and PT_RECLAIM"))
    struct WatchdogTests {
        private func run(
            _ options: [String] = [], step: SwitchedShim.Step, seconds: Int = 2
        ) async throws -> Watched {
            try await Watched.run(
                [fenceStop, "--seconds", "\(seconds)"] + options,
                environment: eager("scan").merging(SwitchedShim.environment(stopping: step)) { $1 },
                preloading: [SwitchedShim.library()], seconds: seconds)
        }

        @Test(
            "The service thread stops for a second, at each step of a fence",
            arguments: SwitchedShim.Step.allCases)
        func eachStep(step: SwitchedShim.Step) async throws {
            let run = try await run(["--fork"], step: step)
            let numbers = run.outcome.numbers
            #expect(run.outcome.status == 0, "\(run)")
            #expect(numbers["wrong"] == 0, "\(run)")
            let waits = try ["write ms", "replace ms", "fork ms"].map { try #require(numbers[$0]) }
            let longest = waits.max() ?? 0
            print(
                "\(step): write, replace, fork \(waits) ms; opened \(try run.count("fences_opened"))"
            )
            // The claim keeps replacing out, the fence writing.
            if step.isCommitted {
                #expect(longest > 800 && longest < 1500, "\(run)")
            } else {
                #expect(longest < 400, "\(run)")
            }
            #expect(try run.count("fences") > 0, "\(run)")
            if step.isHarmless {
                #expect(try run.count("fences_opened") == 0, "\(run)")
                #expect(run.stats?.mode == "scan", "\(run)")
            } else if !step.isCommitted {
                #expect(try run.count("fences_opened") == 1, "\(run)")
                #expect(run.stats?.mode == "off", "\(run)")
                #expect(try run.count("refused_fence_opened") == 1, "\(run)")
                // Fencing is over.
                #expect(try run.count("fences") < 100, "\(run)")
            }
        }

        @Test(
            "The process is stopped and goes on, again and again", arguments: ["scan", "madvise"])
        func stopsAndContinues(mode: String) async throws {
            let seconds = modeTortureSeconds + 1
            let run = try await Watched.run(
                [allocatorTorture, "--seconds", "\(seconds)", "--threads", "4", "--mappings"],
                environment: eager(mode), preloading: [ShimBuild.release()], seconds: seconds
            ) { pid in
                let end = ContinuousClock.now + .seconds(seconds - 1)
                while ContinuousClock.now < end {
                    kill(pid, SIGSTOP)
                    try await Task.sleep(for: .milliseconds(Int.random(in: 0..<30)))
                    kill(pid, SIGCONT)
                    try await Task.sleep(for: .milliseconds(Int.random(in: 5..<60)))
                }
            }
            #expect(run.outcome.status == 0, "\(run)")
            #expect(try run.count("tables_freed") > 10, "\(run)")
        }

        @Test("Everything starves at nice 19, beside busy loops")
        func starves() async throws {
            let seconds = modeTortureSeconds + 1
            let loop = ["/bin/sh", "-c", "while :; do :; done"]
            let loops = try (0..<4).map { _ in try Victim.start(loop) }
            let run = try await Watched.run(
                ["/usr/bin/nice", "-n", "19", fenceStop, "--fork", "--seconds", "\(seconds)"],
                environment: eager("scan"), preloading: [ShimBuild.release()], seconds: seconds)
            for loop in loops { _ = try await loop.terminate() }
            #expect(run.outcome.status == 0, "\(run)")
            #expect(try run.count("passes") > 0, "\(run)")
        }

        @Test("A debugger stops the service thread alone, for half a second, again and again")
        func debugger() async throws {
            let seconds = modeTortureSeconds + 2
            let run = try await Watched.run(
                [fenceStop, "--seconds", "\(seconds)"], environment: eager("scan"),
                preloading: [ShimBuild.release()], seconds: seconds
            ) { pid in
                try await Task.sleep(for: .milliseconds(300))
                let debugger = try await Victim.run(
                    [PackageFiles.executable("thread-debugger"), "\(pid)", "ptreclaim", "500"],
                    limit: .seconds(seconds + 30))
                #expect(debugger.status == 0, "\(debugger)")
            }
            #expect(run.outcome.status == 0, "\(run)")
            let numbers = run.outcome.numbers
            // Where it is stopped in the one call that frees, everybody waits.
            for name in ["write ms", "replace ms"] {
                #expect(try #require(numbers[name]) < 700, "\(run)")
            }
        }
    }
}
