// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// Everything that runs victims, one at a time: they are measured, and they load every core.
@Suite(.serialized) enum ShimTests {}

let torture = PackageFiles.executable("jemalloc-torture")
let victim = PackageFiles.executable("jemalloc-victim")

/// Environment of a victim that purges at once and has one arena.
let purgeAtOnce = ["MALLOC_CONF": "dirty_decay_ms:0,narenas:1"]

/// How long a torture runs: PTRECLAIM_TORTURE_SECONDS, or 5 s.
let tortureSeconds =
    ProcessInfo.processInfo.environment["PTRECLAIM_TORTURE_SECONDS"].flatMap { Int($0) } ?? 5

let isRoot = getuid() == 0

func runTorture(
    _ shim: URL?, _ options: [String] = [], seconds: Int = tortureSeconds,
    environment: [String: String] = purgeAtOnce
) async throws -> Victim.Outcome {
    try await Victim.run(
        [torture, "--seconds", "\(seconds)"] + options, environment: environment,
        preloading: shim.map { [$0] } ?? [], limit: .seconds(seconds + 60))
}

func runVictim(
    _ act: String, _ shim: URL?, environment: [String: String] = purgeAtOnce
) async throws -> Victim.Outcome {
    try await Victim.run(
        [victim, act], environment: environment, preloading: shim.map { [$0] } ?? [])
}
