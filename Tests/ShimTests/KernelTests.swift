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
        @Test(
            "Everything is given back on kernels with and without PT_RECLAIM",
            arguments: ["6.1", "6.12", "7.2"])
        func churn(release: String) async throws {
            _ = try await ShimBuild.release()
            let outcome = try await Self.run(
                "churn-on-kernels", ["--seconds", "5", "--keys", "60000", release])
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.output.contains("passed on \(release)."), "\(outcome)")
        }

        @Test(
            "The call keeps its laws on kernels with and without PAGEMAP_SCAN and PT_RECLAIM",
            arguments: ["6.1", "6.12", "7.2"])
        func laws(release: String) async throws {
            let outcome = try await Self.run("laws-on-kernels", [release])
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.output.contains("laws hold on linux-image-\(release)."), "\(outcome)")
            #expect(outcome.output.contains(", 0 broken laws"), "\(outcome)")
            let tables = release == "6.1" ? "shows no tables" : "shows tables"
            #expect(outcome.output.contains(tables), "\(outcome)")
            #expect(outcome.output.contains("backends: dontneed") == (release == "7.2"))
        }

        // Before PT_RECLAIM a fence frees by mmap(MAP_FIXED).
        @Test(
            "A fence loses no write and hangs nobody on kernels with and without PT_RECLAIM",
            arguments: ["6.1", "6.12", "7.2"])
        func fence(release: String) async throws {
            _ = try await ShimBuild.release(.library)
            let outcome = try await Self.run("fence-on-kernels", ["--seconds", "3", release])
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
                $0.hasPrefix("skipped: no Debian kernel")
            }) {
                try Test.cancel("\(line)")
            }
            return outcome
        }
    }
}
