// SPDX-License-Identifier: Apache-2.0

import Foundation
import ReclaimCore
import TestSupport
import Testing

/// Somebody without any privilege, and without vm.unprivileged_userfaultfd.
enum Nobody {
    private static let setpriv = PackageFiles.installed("setpriv")

    static let isPossible =
        getuid() == 0 && setpriv != nil
        && (try? String(
            contentsOfFile: "/proc/sys/vm/unprivileged_userfaultfd", encoding: .utf8)) == "0\n"

    static var command: [String] {
        [
            setpriv ?? "", "--reuid", "65534", "--regid", "65534", "--clear-groups",
            "--bounding-set", "-all", "--no-new-privs",
        ]
    }

    static func ptreclaim(
        _ arguments: [String], environment: [String: String] = [:]
    ) async throws -> Victim.Outcome {
        try await Victim.run(
            command + [PackageFiles.executable("ptreclaim")] + arguments, environment: environment)
    }
}

@Suite struct DoctorTests {
    private struct Report: Decodable {
        let schema: String
        let machine: [Finding]
        let process: Process?
        let modes: [Finding]
        let auto: Auto
        let isAnyModePossible: Bool

        private enum CodingKeys: String, CodingKey {
            case schema, machine, process, modes, auto
            case isAnyModePossible = "any_mode_possible"
        }

        func finding(_ name: String) throws -> Finding {
            let all = modes + machine + (process?.findings ?? [])
            return try #require(all.last { $0.name == name })
        }
    }

    private struct Finding: Decodable {
        let name: String
        let status: String
        let text: String
        let remedy: String?
    }

    private struct Process: Decodable {
        let pid: Int32
        let command: String
        let findings: [Finding]
    }

    private struct Auto: Decodable {
        let mode: String
        let reason: String
    }

    private func report(_ outcome: Victim.Outcome) throws -> Report {
        try JSONDecoder().decode(Report.self, from: Data(outcome.output.utf8))
    }

    private func doctor(_ arguments: [String] = []) async throws -> Victim.Outcome {
        try await Victim.run([PackageFiles.executable("ptreclaim"), "doctor"] + arguments)
    }

    @Test("the JSON names every line, and says what was measured")
    func json() async throws {
        let outcome = try await doctor(["--json"])
        let report = try report(outcome)
        #expect(report.schema == "ptreclaim.doctor/1")
        #expect(
            report.machine.map(\.name) == [
                "kernel", "machine", "freeing of tables", "empty-table query", "fence",
                "vm.overcommit_memory", "vm.max_map_count", "transparent huge pages", "jemalloc",
                "glibc malloc",
            ])
        #expect(report.modes.map(\.name) == ["hooks", "madvise", "scan"])
        #expect(report.process == nil)
        #expect(report.isAnyModePossible == (outcome.status == 0))
        let frees = try report.finding("freeing of tables")
        #expect((frees.status == "ok") == KernelAbilities.backends.contains(.dontneed))
        #expect((try report.finding("scan").status == "ok") == KernelAbilities.canFence)
        let hooks = try report.finding("hooks").status == "ok"
        #expect(report.auto.mode == (hooks ? "hooks" : "off"))
    }

    @Test("the lines say ok, limited or no in words, in 80 columns, without colours")
    func human() async throws {
        let outcome = try await doctor()
        for line in outcome.output.split(separator: "\n") {
            #expect(line.count <= 80 && !line.contains("\u{1b}"), "\(line)")
            let isHeading = line.hasSuffix(":")
            let hasStatus = ["ok       ", "limited  ", "no       ", "         "].contains {
                line.hasPrefix($0)
            }
            #expect(isHeading || hasStatus, "\(line)")
        }
        #expect(outcome.output.contains("unseen: its memory stays"))
    }

    @Test(
        "without a permission for userfaultfd the fence is limited, with what is missing and why",
        .enabled(if: Nobody.isPossible, "needs root and setpriv"))
    func withoutFence() async throws {
        let report = try report(try await Nobody.ptreclaim(["doctor", "--json"]))
        let fence = try report.finding("fence")
        #expect(fence.status == "limited" && fence.text.contains("no CAP_SYS_PTRACE"))
        #expect(fence.text.contains("vm.unprivileged_userfaultfd is 0"))
        #expect(try #require(fence.remedy).contains("sysctl vm.unprivileged_userfaultfd=1"))
        #expect(try report.finding("scan").status == "no")
        #expect(try report.finding("freeing of tables").status == "ok")
    }

    @Test(
        "under a filter that may forbid a fence, the modes that need one are in doubt",
        .enabled(
            if: Filtered.isPossible && KernelAbilities.canFence, "needs python3 and a fence"))
    func filter() async throws {
        let running = try await Filtered.start()
        let outcome = try await doctor(["\(running.pid)"])
        let words = outcome.output.split(whereSeparator: \.isWhitespace).joined(separator: " ")
        for mode in ["madvise", "scan"] {
            #expect(words.contains("limited \(mode): if the seccomp filter permits"), "\(outcome)")
        }
        _ = try await running.terminate()
    }

    @Test("a process with glibc's malloc is told that hooks are not for it")
    func glibcProcess() async throws {
        try await withSleep { pid in
            let outcome = try await doctor(["\(pid)", "--json"])
            let report = try report(outcome)
            #expect(report.process?.pid == pid && report.process?.command == "sleep")
            #expect(try report.finding("allocator").text.hasPrefix("glibc's malloc"))
            #expect(try report.finding("library").text.hasPrefix("not loaded"))
            let hooks = try report.finding("hooks")
            #expect(hooks.status == "no" && hooks.text.contains("no jemalloc"))
            #expect(report.auto.mode == "off")
            #expect((outcome.status == 0) == KernelAbilities.canFence)
        }
    }

    @Test(
        "where no mode is possible the exit status is 1",
        .enabled(if: Nobody.isPossible, "needs root and setpriv"))
    func nothingPossible() async throws {
        let sleeper = try Victim.start(Nobody.command + ["/usr/bin/env", "sleep", "600"])
        // Until setpriv has become it.
        for _ in 0..<1000 {
            let name = try String(contentsOfFile: "/proc/\(sleeper.pid)/comm", encoding: .utf8)
            if name == "sleep\n" { break }
            try await Task.sleep(for: .milliseconds(5))
        }
        let outcome = try await doctor(["\(sleeper.pid)", "--json"])
        _ = try await sleeper.end(within: .zero)
        let report = try report(outcome)
        #expect(outcome.status == 1 && !report.isAnyModePossible, "\(outcome)")
        #expect(try report.finding("fence").text.contains("no CAP_SYS_PTRACE"))
        #expect(try report.finding("no_new_privs").text.hasPrefix("set"))
        #expect(report.modes.allSatisfy { $0.status == "no" })
    }
}
