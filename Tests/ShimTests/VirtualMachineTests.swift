// SPDX-License-Identifier: Apache-2.0

import Foundation
import ReclaimCore
import TestSupport
import Testing

/// The library in QEMU, whose guest gives memory back. `Tests/Lab/virtio-mem-in-qemu` has all ways,
/// modes and kinds of memory, beside QEMU without the library.
extension ShimTests {
    static let missingForVirtualMachines =
        ["qemu-system-x86_64", "busybox", "cpio", "depmod", "modprobe", "apt-get", "python3"]
        .filter { PackageFiles.installed($0) == nil } + (isRoot ? [] : ["root"])

    @Suite(
        .enabled(if: missingForVirtualMachines.isEmpty, "needs \(missingForVirtualMachines)"),
        .enabled(
            if: KernelAbilities.hasUserfaultfd && KernelAbilities.backends.contains(.dontneed),
            "needs userfaultfd and PT_RECLAIM, Linux 6.14"))
    struct VirtualMachineTests {
        // A test each: of one case that is cancelled, nothing is said, and it counts as passed.
        @Test("QEMU gives back the tables of shared guest memory that virtio-mem unplugs, by scan")
        func unplugsShared() async throws {
            try await check(["--memory", "memfd", "--mode", "scan", "--way", "steps", "--migrate"])
        }

        @Test("QEMU gives back the tables of private guest memory in a balloon, by madvise")
        func inflatesPrivate() async throws {
            try await check(["--memory", "ram", "--mode", "madvise", "--way", "balloon"])
        }

        private func check(_ arguments: [String]) async throws {
            // The script builds, so it needs the toolchain's PATH, not a victim's.
            let environment = ProcessInfo.processInfo.environment
            let outcome = try await Victim.run(
                [
                    "/usr/bin/env", "PATH=\(environment["PATH"] ?? "")",
                    "HOME=\(environment["HOME"] ?? "/root")",
                    PackageFiles.root.appending(path: "Tests/Lab/virtio-mem-in-qemu").path(),
                    "--size", "128",
                ] + arguments, limit: .seconds(600))
            if outcome.status == 77,
                let line = outcome.output.split(separator: "\n").first(where: {
                    $0.hasPrefix("skipped: ")
                })
            {
                try Test.cancel("\(line)")
            }
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.output.contains("passed in 6.12."), "\(outcome)")
            #expect(outcome.output.contains(" ok\n"), "\(outcome)")
            #expect(outcome.output.contains(#/tables_freed [1-9][0-9]/#), "\(outcome)")
            if arguments.contains("--migrate") {
                #expect(outcome.output.contains("gives way to postcopy"), "\(outcome)")
            }
        }
    }
}
