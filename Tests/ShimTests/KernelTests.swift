// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// The shim on kernels that this machine does not run: Debian's, booted in QEMU.
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
            let script = PackageFiles.root.appending(path: "Tests/Lab/churn-on-kernels").path()
            let environment = ProcessInfo.processInfo.environment
            // The script builds, so it needs the toolchain's PATH, not a victim's.
            let outcome = try await Victim.run(
                [
                    "/usr/bin/env", "PATH=\(environment["PATH"] ?? "")",
                    "HOME=\(environment["HOME"] ?? "/root")", script,
                    "--seconds", "5", "--keys", "60000", release,
                ], limit: .seconds(600))
            if outcome.output.contains("skipped: no Debian kernel \(release)") {
                try Test.cancel("no Debian kernel \(release) to be had here")
            }
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.output.contains("passed on \(release)."), "\(outcome)")
        }
    }
}
