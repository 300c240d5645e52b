// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

extension ShimTests {
    /// Eight threads whose every byte is checked, and shims that are wrong on purpose: the same
    /// torture must find them out, or its silence means nothing.
    @Suite struct TortureTests {
        @Test(
            "No byte changes under the torture",
            arguments: [
                "dirty_decay_ms:0,narenas:1", "dirty_decay_ms:0,narenas:2", "dirty_decay_ms:0",
                "dirty_decay_ms:10,background_thread:true",
                "dirty_decay_ms:0,muzzy_decay_ms:1000", "dirty_decay_ms:0,percpu_arena:percpu",
                "",
            ], ["auto", "remap"])
        func contents(configuration: String, backend: String) async throws {
            let outcome = try await runTorture(
                ShimBuild.release(),
                environment: [
                    "MALLOC_CONF": configuration, "PTRECLAIM_BACKEND": backend,
                    "PTRECLAIM_VERBOSE": "1",
                ])
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.numbers["wrong bytes"] == 0, "\(outcome)")
            #expect(outcome.errors.contains("hooks on jemalloc"), "\(outcome)")
        }

        @Test("No child hangs and no byte changes when threads fork", arguments: ["auto", "remap"])
        func forks(backend: String) async throws {
            let outcome = try await runTorture(
                ShimBuild.release(), ["--fork"],
                environment: ["MALLOC_CONF": "dirty_decay_ms:0", "PTRECLAIM_BACKEND": backend])
            #expect(outcome.status == 0, "\(outcome)")
            #expect(try #require(outcome.numbers["forks"]) > 0)
        }

        @Test(
            "As nobody, without capabilities and with no_new_privs, no byte changes",
            .enabled(if: isRoot && PackageFiles.installed("setpriv") != nil, "needs root, setpriv"))
        func nobody() async throws {
            // Where nobody can read it: the checkout may lie below a closed directory.
            let directory = try TemporaryDirectory(mode: 0o755)
            let library = try directory.copy(await ShimBuild.release())
            let program = try directory.copy(URL(filePath: torture))
            let outcome = try await Victim.run(
                [
                    "/usr/bin/env", "PTRECLAIM_VERBOSE=1", "MALLOC_CONF=dirty_decay_ms:0",
                    PackageFiles.installed("setpriv") ?? "", "--reuid=65534", "--regid=65534",
                    "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all",
                    "/usr/bin/env", "LD_PRELOAD=\(library.path())", program.path(), "--seconds",
                    "\(tortureSeconds)",
                ], limit: .seconds(tortureSeconds + 60))
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.errors.contains("hooks on jemalloc"), "\(outcome)")
        }

        struct Mutation: Sendable, CustomTestStringConvertible {
            let name: String
            let file: String
            let original: String
            let replacement: String
            var testDescription: String { name }
        }

        static let wrongOnes = [
            Mutation(
                name: "committed-memory-is-zapped", file: "Sources/ReclaimCore/OwnershipRule.swift",
                original: "        guard !committed else { return nil }\n", replacement: ""),
            Mutation(
                name: "spans-reach-beyond-the-joint",
                file: "Sources/ReclaimCore/OwnershipRule.swift",
                original:
                    "guard AddressRange(start: lower.start, end: end).contains(span.range) "
                    + "else { return nil }",
                replacement: "_ = end"),
            // jemalloc hands the extent out as soon as decommit has returned.
            Mutation(
                name: "pages-are-dropped-too-late", file: "Shim/Core/Entry.swift",
                original: "let count = try walk.decommit(extent)",
                replacement: """
                    enum Late { nonisolated(unsafe) static var extent: UInt = 0 }
                            let pageCount = extent.byteCount >> 12
                            let late = unsafe Late.extent
                            unsafe Late.extent = extent.start | (pageCount << 48)
                            if late == 0 || pageCount >> 16 != 0 { return 0 }
                            let start = late & ((1 << 48) - 1)
                            let count = try walk.decommit(
                                AddressRange(start: start, end: start + ((late >> 48) << 12)))
                    """),
        ]

        @Test("The torture finds out a shim that is wrong", arguments: wrongOnes)
        func wrongShim(mutation: Mutation) async throws {
            let shim = try await ShimBuild.mutated(
                mutation.name, replacing: mutation.original, with: mutation.replacement,
                in: mutation.file)
            let outcome = try await runTorture(shim)
            // A wrong byte inside jemalloc's own data would end the program by a signal instead.
            #expect(outcome.status != 0 && !outcome.timedOut, "\(outcome)")
            #expect(outcome.errors.contains("wrong bytes"), "\(outcome)")
        }

        @Test("The shim does what the rule in the core says: without the joint, tables stay")
        func ruleOfTheJoint() async throws {
            let mutant = try await ShimBuild.mutated(
                "no-joints", replacing: "        return span\n", with: "        return nil\n",
                in: "Sources/ReclaimCore/OwnershipRule.swift")
            let plain = try await runVictim("churn", nil).numbers
            let right = try await runVictim("churn", ShimBuild.release()).numbers
            let turned = try await runVictim("churn", mutant).numbers
            let zapped = try #require(right["spans_zapped"])
            #expect(try #require(turned["spans_zapped"]) < zapped / 4)
            let tables = try #require(turned["vm_pte_kib"]) - (try #require(right["vm_pte_kib"]))
            #expect(tables > 100, "25 of the 40 tables that 80 MB of blocks had")
            #expect(try #require(plain["vm_pte_kib"]) - (try #require(right["vm_pte_kib"])) > 100)
        }
    }
}
