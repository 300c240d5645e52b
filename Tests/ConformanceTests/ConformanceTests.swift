// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// One at a time: they wait for each other anyway, because they change settings of the machine.
@Suite(.serialized, .enabled(if: Playground.isOpen, Playground.why))
struct ConformanceTests {
    /// Without hugetlb: the machine may have no memory to give to the pool while others test.
    @Test("the model and this kernel agree after every operation of 150 sequences")
    func sequences() async throws {
        let outcome = try await conform(
            [
                "--sequences", "150", "--seed", "20000", "--without", "hugetlb", "--seconds", "60",
            ], limit: .seconds(180))
        #expect(outcome.status == 0, "\(outcome)")
    }

    @Test("two processes that play the same agree: what is seen is the operations' doing")
    func agreement() async throws {
        let outcome = try await conform([
            "--against-itself", "--sequences", "20", "--seed", "500", "--no-shrink",
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

    @Test("khugepaged is put back to its work afterwards, whatever ends the run")
    func restoration() async throws {
        let path = "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs"
        guard let before = try? String(contentsOfFile: path, encoding: .utf8) else { return }
        // Killed in the middle.
        _ = try await conform(["--sequences", "100000", "--against-itself"], limit: .seconds(2))
        for _ in 0..<50 {
            if try String(contentsOfFile: path, encoding: .utf8) == before { return }
            try await Task.sleep(for: .milliseconds(20))
        }
        Issue.record("still \(try String(contentsOfFile: path, encoding: .utf8)), was \(before)")
    }
}
