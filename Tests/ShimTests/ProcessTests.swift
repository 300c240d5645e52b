// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

extension ShimTests {
    /// What processes do around an allocator: arenas, hooks, locks, fork, descriptors.
    @Suite struct ProcessTests {
        @Test("Arenas of threads, created arenas and the huge one are hooked as they appear")
        func arenas() async throws {
            let outcome = try await runVictim(
                "arenas", ShimBuild.release(),
                environment: ["MALLOC_CONF": "dirty_decay_ms:0,narenas:4"])
            #expect(outcome.status == 0, "\(outcome)")
            let numbers = outcome.numbers
            #expect(try #require(numbers["arenas"]) >= 4, "0, some threads', huge, created")
            #expect(numbers["arenas_like_0"] == numbers["arenas"], "\(outcome)")
            #expect(numbers["arenas_hooked"] == numbers["arenas"], "\(outcome)")
            #expect(numbers["created_like_0"] == 1)
        }

        @Test("An arena that takes the number of a destroyed one is hooked; nobody's bytes go")
        func destroyed() async throws {
            let outcome = try await runVictim("arena-destroyed", ShimBuild.release())
            #expect(outcome.status == 0, "\(outcome)")
            #expect(!outcome.output.contains("other"), "\(outcome)")
            #expect(try #require(outcome.numbers["destroys"]) > 0)
        }

        @Test("An arena with hooks of the application's own is left alone and counted")
        func hooksAtCreate() async throws {
            let outcome = try await runVictim("hooks-at-create", ShimBuild.release())
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.numbers["refused_application_hooks"] == 1)
        }

        @Test(
            "Hooks that the application sets later change no byte",
            arguments: ["hooks-wrapped", "hooks-replaced"], ["auto", "remap"])
        func hooksLater(act: String, backend: String) async throws {
            let outcome = try await runVictim(
                act, ShimBuild.release(),
                environment: purgeAtOnce.merging(["PTRECLAIM_BACKEND": backend]) { $1 })
            #expect(outcome.status == 0, "\(outcome)")
        }

        @Test(
            "Locked memory is kept: decommit fails, and the program runs on",
            .enabled(if: isRoot, "needs root to lock so much"))
        func locked() async throws {
            let outcome = try await runVictim("mlockall", ShimBuild.release())
            #expect(outcome.status == 0, "\(outcome)")
            #expect(try #require(outcome.numbers["decommit_failures"]) > 0)
            #expect(outcome.numbers["decommits"] == 0)
        }

        @Test("errno stays what it was", arguments: ["auto", "remap"])
        func errno(backend: String) async throws {
            let outcome = try await runVictim(
                "errno", ShimBuild.release(),
                environment: purgeAtOnce.merging(["PTRECLAIM_BACKEND": backend]) { $1 })
            #expect(outcome.status == 0, "\(outcome)")
            #expect(try #require(outcome.numbers["spans_zapped"]) > 0)
        }

        @Test(
            "A forked child has a page of its own and frees tables", arguments: ["auto", "remap"])
        func fork(backend: String) async throws {
            let outcome = try await runVictim(
                "fork", ShimBuild.release(),
                environment: purgeAtOnce.merging(["PTRECLAIM_BACKEND": backend]) { $1 })
            #expect(outcome.status == 0, "\(outcome)")
            let numbers = outcome.numbers
            #expect(numbers["child.page_pid"] == numbers["child.pid"], "\(outcome)")
            #expect(numbers["page_pid"] == numbers["pid"], "\(outcome)")
            let child = try #require(numbers["child.spans_zapped"])
            let parent = try #require(numbers["spans_zapped"])
            // The parent churns twice, the child once.
            #expect(child > 30 && parent > child && parent < 3 * child, "\(outcome)")
        }

        @Test("Children forked while threads purge come to their end")
        func forkBesideThreads() async throws {
            let outcome = try await runVictim(
                "fork-threads", ShimBuild.release(),
                environment: ["MALLOC_CONF": "dirty_decay_ms:0"])
            #expect(outcome.status == 0, "\(outcome)")
            #expect(try #require(outcome.numbers["children_with_pages"]) > 0)
        }

        @Test("Descriptors that the application closed and opened again are its own")
        func closeFrom() async throws {
            let outcome = try await runVictim("closefrom", ShimBuild.release())
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.numbers["child.page_pid"] == outcome.numbers["child.pid"])
            #expect(try #require(outcome.numbers["child.spans_zapped"]) > 30)
        }

        @Test(
            "A process that is PID 1 counts, as in a container",
            .enabled(
                if: isRoot && PackageFiles.installed("unshare") != nil, "needs root and unshare"))
        func firstProcess() async throws {
            let outcome = try await Victim.run(
                [
                    PackageFiles.installed("unshare") ?? "", "--pid", "--fork", "--mount-proc",
                    victim, "churn",
                ], environment: purgeAtOnce, preloading: [try await ShimBuild.release()])
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.numbers["page_pid"] == 1)
            #expect(try #require(outcome.numbers["decommits"]) > 0)
        }
    }
}
