// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// One at a time: they wait for each other anyway, because they change settings of the machine.
@Suite(.serialized, .enabled(if: Playground.isOpen, Playground.why))
struct ConformanceTests {
    /// Without hugetlb, as all runs here: other tests have pages in the pool, and the machine may have
    /// no more to give.
    @Test("the model and this kernel agree after every operation")
    func sequences() async throws {
        let outcome = try await conform(
            [
                "--sequences", "60", "--seed", "20000", "--without", "hugetlb", "--seconds", "40",
            ], limit: .seconds(180))
        #expect(outcome.status == 0, "\(outcome)")
    }

    @Test("two processes that play the same agree: what is seen is the operations' doing")
    func agreement() async throws {
        let outcome = try await conform([
            "--against-itself", "--sequences", "10", "--seconds", "40", "--seed", "500",
            "--no-shrink",
            "--without", "userfault", "--without", "guards", "--without", "everything",
            "--without", "hugetlb",
        ])
        // Where pages go to swap depends on who else uses the machine.
        #expect(
            outcome.status == 0 || outcome.output.contains(": swap"), "\(outcome)")
    }

    @Test(
        "a bad argument is a usage error",
        arguments: [
            ["--profile", "5.4"], ["--mistake", "none"], ["--without", "nothing"],
            ["--sequences", "0"], ["--replay", "/nonexistent"],
        ])
    func usage(arguments: [String]) async throws {
        let outcome = try await conform(arguments)
        #expect(outcome.status == 2)
        #expect(!outcome.errors.isEmpty)
    }

    @Test("khugepaged is put back to its work afterwards, even if the run is killed")
    func restoration() async throws {
        let before = try await Self.pauseWhileNobodyPlays()
        _ = try await conform(
            ["--sequences", "100000", "--against-itself", "--without", "hugetlb"],
            limit: .seconds(3))
        #expect(try await Self.pauseWhileNobodyPlays() == before)
    }

    /// What stands there while this process holds the lock that runs hold until all is put back.
    private static func pauseWhileNobodyPlays() async throws -> String {
        let lock = unsafe open("/run/ptreclaim-conform.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        try #require(lock >= 0)
        defer { close(lock) }
        let deadline = ContinuousClock.now + .seconds(120)
        while flock(lock, LOCK_EX | LOCK_NB) != 0 {
            try #require(ContinuousClock.now < deadline)
            try await Task.sleep(for: .milliseconds(20))
        }
        return try String(
            contentsOfFile:
                "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs",
            encoding: .utf8)
    }
}
