// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// The shim and the call on kernels that this machine does not run: Debian's, booted in QEMU.
extension ShimTests {
    static let missingForKernels =
        ["qemu-system-x86_64", "busybox", "cpio", "depmod", "apt-get"]
        .filter { PackageFiles.installed($0) == nil } + (isRoot ? [] : ["root"])

    @Suite(.enabled(if: missingForKernels.isEmpty, "needs \(missingForKernels)"))
    struct KernelTests {
        // A test each: of one case that is cancelled, nothing is said, and it counts as passed.
        @Test("Everything is given back on Linux 6.1, which frees no table by itself")
        func churn61() async throws { try await churn("6.1") }

        @Test("Everything is given back on Linux 6.12, which frees no table by itself")
        func churn612() async throws { try await churn("6.12") }

        @Test("Everything is given back on Linux 7.2, with PT_RECLAIM")
        func churn72() async throws { try await churn("7.2") }

        private func churn(_ release: String) async throws {
            _ = try await ShimBuild.release()
            try await Self.expectPass(
                "churn-on-kernels", ["--seconds", "5", "--keys", "60000"], on: release)
        }

        @Test("The call keeps its laws on Linux 6.1, without PAGEMAP_SCAN")
        func laws61() async throws { try await laws("6.1", "shows no tables") }

        @Test("The call keeps its laws on Linux 6.12, without PT_RECLAIM")
        func laws612() async throws { try await laws("6.12", "shows tables") }

        @Test("The call keeps its laws on Linux 7.2, with PT_RECLAIM")
        func laws72() async throws { try await laws("7.2", "shows tables") }

        private func laws(_ release: String, _ tables: String) async throws {
            let outcome = try await Self.run("laws-on-kernels", [release])
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.output.contains("laws hold on linux-image-\(release)."), "\(outcome)")
            #expect(outcome.output.contains(", 0 broken laws"), "\(outcome)")
            #expect(outcome.output.contains(tables), "\(outcome)")
            #expect(outcome.output.contains("backends: dontneed") == (release == "7.2"))
        }

        // Before PT_RECLAIM a fence frees by mmap(MAP_FIXED).
        @Test("A fence loses no write and hangs nobody on Linux 6.1")
        func fence61() async throws { try await fence("6.1") }

        @Test("A fence loses no write and hangs nobody on Linux 6.12")
        func fence612() async throws { try await fence("6.12") }

        @Test("A fence loses no write and hangs nobody on Linux 7.2")
        func fence72() async throws { try await fence("7.2") }

        private func fence(_ release: String) async throws {
            _ = try await ShimBuild.release(.library)
            try await Self.expectPass("fence-on-kernels", ["--seconds", "3"], on: release)
        }

        @Test(
            "On Linux 6.1 the modes that fence say why they do nothing",
            .enabled(if: Preloading.isPossible, "needs libjemalloc.so.2"))
        func modes61() async throws { try await modes("6.1") }

        @Test(
            "On Linux 6.12 the modes that fence say why they do nothing",
            .enabled(if: Preloading.isPossible, "needs libjemalloc.so.2"))
        func modes612() async throws { try await modes("6.12") }

        @Test(
            "On Linux 7.2 every mode frees tables, and no byte changes",
            .enabled(if: Preloading.isPossible, "needs libjemalloc.so.2"))
        func modes72() async throws { try await modes("7.2") }

        private func modes(_ release: String) async throws {
            _ = try await ShimBuild.release()
            try await Self.expectPass(
                "modes-on-kernels", ["--seconds", "1", "--short"], on: release)
        }

        private static func expectPass(
            _ script: String, _ arguments: [String], on release: String
        ) async throws {
            let outcome = try await run(script, arguments + [release])
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.output.contains("passed on \(release)."), "\(outcome)")
        }

        private static func run(
            _ script: String, _ arguments: [String]
        ) async throws -> Victim.Outcome {
            let path = PackageFiles.root.appending(path: "Tests/Lab/\(script)").path()
            let environment = ProcessInfo.processInfo.environment
            // The script builds, so it needs the toolchain's PATH, not a victim's.
            let outcome = try await Victim.run(
                [
                    "/usr/bin/env", "PATH=\(environment["PATH"] ?? "")",
                    "HOME=\(environment["HOME"] ?? "/root")", path,
                ] + arguments, limit: .seconds(900))
            if let line = outcome.output.split(separator: "\n").first(where: {
                $0.hasPrefix("skipped: ")
            }) {
                try Test.cancel("\(line)")
            }
            return outcome
        }
    }
}
