// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

extension ShimTests {
    /// Where the library finds a jemalloc, where it refuses, and what it says.
    @Suite struct StartTests {
        private func say(_ more: [String: String] = [:]) -> [String: String] {
            purgeAtOnce.merging(["PTRECLAIM_VERBOSE": "1"]) { $1 }.merging(more) { $1 }
        }

        @Test("Without jemalloc it does nothing, and says so when asked")
        func withoutJemalloc() async throws {
            let shim = try await ShimBuild.release()
            let silent = try await Victim.run(["/bin/true"], preloading: [shim])
            #expect(silent.status == 0 && silent.errors.isEmpty, "\(silent)")
            let asked = try await Victim.run(["/bin/true"], environment: say(), preloading: [shim])
            #expect(asked.status == 0, "\(asked)")
            #expect(asked.errors.contains("does nothing: no jemalloc"), "\(asked)")
            #expect(asked.errors.split(separator: "\n").count == 1)
        }

        @Test("It hooks a jemalloc that the program links, and says which and how")
        func linked() async throws {
            let outcome = try await runVictim("churn", ShimBuild.release(), environment: say())
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.errors.contains("hooks on jemalloc"), "\(outcome)")
            #expect(outcome.errors.contains("tables freed by"), "\(outcome)")
            #expect(outcome.numbers["page_pid"] == outcome.numbers["pid"])
            #expect(try #require(outcome.numbers["spans_zapped"]) > 30)
        }

        @Test(
            "It hooks a jemalloc that is preloaded, before it or after it",
            .enabled(
                if: FixtureLibraries.clang != nil && FixtureLibraries.sharedJemalloc != nil,
                "needs clang and libjemalloc.so.2"),
            arguments: [["-fPIE", "-pie"], ["-fno-pie", "-no-pie"]])
        func preloaded(options: [String]) async throws {
            let libraries = try FixtureLibraries()
            let program = try await libraries.plainProgram(options).path()
            let shim = try await ShimBuild.release()
            let jemalloc = URL(filePath: FixtureLibraries.sharedJemalloc ?? "")
            for order in [[shim, jemalloc], [jemalloc, shim]] {
                let outcome = try await Victim.run([program], environment: say(), preloading: order)
                #expect(outcome.status == 0, "\(outcome)")
                #expect(outcome.errors.contains("hooks on jemalloc"), "\(outcome)")
            }
        }

        @Test(
            "It hooks a jemalloc behind je_, and behind any name given to it",
            .enabled(
                if: FixtureLibraries.clang != nil && FixtureLibraries.staticJemalloc != nil,
                "needs clang and libjemalloc_pic.a"),
            arguments: [("je_", nil), ("my_", "my_mallctl")])
        func prefixed(prefix: String, name: String?) async throws {
            let libraries = try FixtureLibraries()
            let program = try await libraries.prefixedProgram(prefix).path()
            let shim = try await ShimBuild.release()
            let named = name.map { ["PTRECLAIM_MALLCTL": $0] } ?? [:]
            let outcome = try await Victim.run(
                [program], environment: say(["PTRECLAIM_REPORT": "1"].merging(named) { $1 }),
                preloading: [shim])
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.errors.contains("hooks on jemalloc"), "\(outcome)")
            #expect(!outcome.errors.contains("; 0 spans zapped"), "\(outcome)")
            if name != nil {
                let unnamed = try await Victim.run(
                    [program], environment: say(), preloading: [shim])
                #expect(unnamed.status == 0, "\(unnamed)")
                #expect(unnamed.errors.contains("does nothing: no jemalloc"), "\(unnamed)")
            }
        }

        @Test(
            "It hooks a jemalloc inside the program by the name of its mallctl, or does nothing",
            .enabled(
                if: FixtureLibraries.clang != nil && FixtureLibraries.objcopy != nil
                    && FixtureLibraries.staticJemalloc != nil,
                "needs clang, objcopy and libjemalloc_pic.a"))
        func linkedStatically() async throws {
            let libraries = try FixtureLibraries()
            let shim = try await ShimBuild.release()
            func run(_ program: URL, _ more: [String: String] = [:]) async throws -> String {
                let outcome = try await Victim.run(
                    [program.path()],
                    environment: say(["PTRECLAIM_REPORT": "1"].merging(more) { $1 }),
                    preloading: [shim])
                #expect(outcome.status == 0, "\(outcome)")
                return outcome.errors
            }
            let name = ["PTRECLAIM_MALLCTL": "app_mallctl"]
            let exported = try await libraries.staticProgram("app_", exported: true)
            let named = try await run(exported, name)
            #expect(named.contains("hooks on jemalloc"), "\(named)")
            let zapped = named.firstMatch(of: /; (\d+) spans zapped/).flatMap { Int($0.1) }
            #expect(try #require(zapped) > 30, "\(named)")
            let nothing = "does nothing: no jemalloc behind malloc"
            #expect(try await run(exported).contains(nothing))
            let hidden = try await libraries.staticProgram("app_", exported: false)
            #expect(try await run(hidden, name).contains(nothing))
        }

        @Test("A malformed option costs one line and keeps its default")
        func malformed() async throws {
            let options = [
                "PTRECLAIM_MODE": "bogus", "PTRECLAIM_BACKEND": "magic", "PTRECLAIM_VERBOSE": "2",
                "PTRECLAIM_REPORT": "yes", "PTRECLAIM_TRACE_MB": "4097",
            ]
            let outcome = try await runVictim(
                "churn", ShimBuild.release(), environment: purgeAtOnce.merging(options) { $1 })
            #expect(outcome.status == 0, "\(outcome)")
            let lines = outcome.errors.split(separator: "\n")
            #expect(lines.count == options.count, "\(outcome)")
            for (name, value) in options {
                #expect(lines.count { $0.contains("\(name)=\(value)") } == 1, "\(outcome)")
            }
            #expect(outcome.numbers["mode"] == 1)
            #expect(try #require(outcome.numbers["spans_zapped"]) > 30)
        }

        @Test("Switched off, it is not there")
        func off() async throws {
            let outcome = try await runVictim(
                "churn", ShimBuild.release(), environment: say(["PTRECLAIM_MODE": "off"]))
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.errors.contains("does nothing: switched off"), "\(outcome)")
            #expect(outcome.output.contains("page: none"), "\(outcome)")
        }

        @Test("At exit it reports when asked, on one line")
        func report() async throws {
            let outcome = try await runVictim(
                "churn", ShimBuild.release(),
                environment: purgeAtOnce.merging(["PTRECLAIM_REPORT": "1"]) { $1 })
            #expect(outcome.status == 0, "\(outcome)")
            let line = /VmPTE at start \d+ kB, peak seen (\d+) kB, now (\d+) kB; (\d+) spans zapped/
            let match = try #require(outcome.errors.firstMatch(of: line), "\(outcome)")
            #expect(outcome.errors.split(separator: "\n").count == 1)
            #expect(try #require(Int(match.1)) >= (try #require(Int(match.2))))
            #expect(Int(match.3) == outcome.numbers["spans_zapped"])
        }

        @Test(
            "It refuses a jemalloc that guards memory",
            arguments: ["san_guard_small:1", "san_guard_large:1"])
        func guards(option: String) async throws {
            let outcome = try await runVictim(
                "churn", ShimBuild.release(), environment: say(["MALLOC_CONF": option]))
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.errors.contains("does nothing: opt.san_guard"), "\(outcome)")
            #expect(outcome.numbers["refused_san_guard"] == 1)
            #expect(outcome.numbers["mode"] == 0)
        }

        @Test(
            "It refuses a jemalloc on which somebody has set hooks before it",
            .enabled(if: FixtureLibraries.clang != nil, "needs clang"))
        func hooksBefore() async throws {
            let libraries = try FixtureLibraries()
            let outcome = try await Victim.run(
                [victim, "churn"], environment: say(),
                preloading: [try await ShimBuild.release(), try await libraries.ownHooks()])
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.errors.contains("does nothing: the application has"), "\(outcome)")
            #expect(outcome.numbers["refused_application_hooks"] == 1)
            #expect(outcome.numbers["decommits"] == 0)
            #expect(outcome.numbers["mode"] == 0)
        }
    }
}
