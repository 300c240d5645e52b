// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// The fence on kernels that this machine does not run: Debian's, booted in QEMU. Before
/// PT_RECLAIM it frees by mmap(MAP_FIXED).
extension ShimTests {
    @Suite(.enabled(if: missingForKernels.isEmpty, "needs \(missingForKernels)"))
    struct FenceKernelTests {
        @Test(
            "Nothing is lost and nobody hangs on kernels with and without PT_RECLAIM",
            arguments: ["6.1", "6.12", "7.2"])
        func torture(release: String) async throws {
            _ = try await ShimBuild.release(.library)
            let script = PackageFiles.root.appending(path: "Tests/Lab/fence-on-kernels").path()
            let environment = ProcessInfo.processInfo.environment
            // The script builds, so it needs the toolchain's PATH, not a victim's.
            let outcome = try await Victim.run(
                [
                    "/usr/bin/env", "PATH=\(environment["PATH"] ?? "")",
                    "HOME=\(environment["HOME"] ?? "/root")", script, "--seconds", "5", release,
                ], limit: .seconds(900))
            if outcome.output.contains("skipped: no Debian kernel \(release)") {
                try Test.cancel("no Debian kernel \(release) to be had here")
            }
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.output.contains("passed on \(release)."), "\(outcome)")
        }
    }
}
