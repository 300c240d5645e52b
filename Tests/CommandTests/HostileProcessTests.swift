// SPDX-License-Identifier: Apache-2.0

import Foundation
import FoundationXML
import ProcFS
import TestSupport
import Testing

private func ptreclaim(
    _ arguments: String..., environment: [String: String] = ["LANG": "C.UTF-8"]
) async throws -> Victim.Outcome {
    try await Victim.run(
        [PackageFiles.executable("ptreclaim")] + arguments, environment: environment)
}

@Suite(.enabled(if: Masquerader.isPossible, "needs python3"))
struct HostileProcessTests {
    // MARK: Pages

    @Test("a page full of the largest number is shown as it is")
    func largestNumbers() async throws {
        try await Masquerader.withPage { pid in
            let human = try await ptreclaim("stats", "\(pid)", "--all")
            #expect(human.status == 0, "\(human)")
            #expect(
                human.output.contains(/262144 us or more +18446744073709551615 +#{40}\n/),
                "\(human)")
            let metrics = try await ptreclaim("stats", "--format", "prometheus", "\(pid)")
            #expect(metrics.status == 0, "\(metrics)")
            // Buckets never sink.
            let count = metrics.output.firstMatch(
                of: /ptreclaim_fence_met_seconds_count\{[^}]*\} ([0-9]+)/)
            #expect(count?.1 == "18446744073709551615", "\(metrics)")
            for arguments in [["stats", "\(pid)", "--json"], ["doctor", "\(pid)", "--json"]] {
                let json = try await Victim.run(
                    [PackageFiles.executable("ptreclaim")] + arguments)
                #expect(throws: Never.self) {
                    try JSONSerialization.jsonObject(with: Data(json.output.utf8))
                }
            }
        }
    }

    @Test("a page in a mode that there is not, or of another version, is said to be one")
    func strangePages() async throws {
        try await Masquerader.withPage(mode: 77) { pid in
            let outcome = try await ptreclaim("ctl", "\(pid)", "now")
            #expect(outcome.output.contains("nothing is deferred in mode unknown"), "\(outcome)")
        }
        try await Masquerader.withPage(version: 9) { pid in
            let outcome = try await ptreclaim("stats", "\(pid)")
            #expect(outcome.status == 1, "\(outcome)")
            #expect(outcome.errors.contains("use the ptreclaim that came with the library"))
        }
    }

    // MARK: Threads

    @Test("a process whose first thread has left is listed under the ID of one that is there")
    func firstThreadLeft() async throws {
        let code = """
            import ctypes, threading, time
            threading.Thread(target=time.sleep, args=(60,)).start()
            ctypes.CDLL(None).syscall(60, 0)  # exit, of this thread
            """
        let process = try Victim.start(["/usr/bin/env", "python3", "-c", code])
        let pid = process.pid
        var status = ""
        for _ in 0..<1000 where !status.contains("State:\tZ") {
            try await Task.sleep(for: .milliseconds(5))
            status = try String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)
        }
        let inspected = try await ptreclaim("inspect", "\(pid)")
        #expect(inspected.errors.contains("name another one (ps -L)"), "\(inspected)")
        let thread = try #require(ProcessList.threadWithMemory(of: pid))
        #expect(thread != pid)
        let listed = try await ptreclaim("top", "--once", "--lines", "10000")
        #expect(listed.status == 0, "\(listed)")
        #expect(listed.output.contains(try Regex("(?m)^ *\(thread) ")), "\(listed)")
        let other = try await ptreclaim("inspect", "\(thread)")
        #expect(other.status == 0, "\(other)")
        _ = try await process.end(within: .zero)
    }

    // MARK: Names

    /// Whether nothing but line breaks would be obeyed by a terminal.
    private func isHarmless(_ text: String) -> Bool {
        text.unicodeScalars.allSatisfy {
            $0 == "\n" || $0.properties.generalCategory != .control
        }
    }

    @Test(
        "no command shows a name that a terminal would obey",
        arguments: [
            ["inspect"], ["inspect", "--map"], ["inspect", "--json"], ["doctor"],
            ["doctor", "--json"], ["stats", "--format", "prometheus"],
            ["watch", "--count", "1", "--json"],
        ])
    func names(arguments: [String]) async throws {
        try await Masquerader.withNames { pid in
            let outcome = try await Victim.run(
                [PackageFiles.executable("ptreclaim")] + arguments + ["\(pid)"],
                environment: ["LANG": "C.UTF-8", "COLUMNS": "200"])
            #expect(outcome.output.contains("evil"), "\(outcome)")
            #expect(isHarmless(outcome.output) && isHarmless(outcome.errors), "\(outcome)")
            if arguments.contains("prometheus") {
                let lines = outcome.output.split(separator: "\n")
                #expect(lines.allSatisfy { $0.hasPrefix("# ") || $0.hasPrefix("ptreclaim_") })
            }
            // The line behind the name is another one.
            #expect(!outcome.output.contains("Umask"), "\(outcome)")
        }
    }

    @Test("a picture of a process with such a name is well formed")
    func picture() async throws {
        try await Masquerader.withNames { pid in
            let outcome = try await ptreclaim("inspect", "\(pid)", "--svg", "-")
            let reader = XMLParser(data: Data(outcome.output.utf8))
            #expect(reader.parse(), "\(String(describing: reader.parserError))")
            #expect(outcome.output.contains("\u{fffd}]0;evil"), "\(outcome)")
        }
    }
}

@Suite struct HostileMachineTests {
    private static let unshare = PackageFiles.installed("unshare")
    private static let isPossible = getuid() == 0 && unshare != nil

    private func ptreclaim(_ arguments: String, after script: String) async throws -> Victim.Outcome
    {
        let program = PackageFiles.executable("ptreclaim")
        return try await Victim.run([
            Self.unshare ?? "", "--mount", "/bin/sh", "-c",
            "\(script) && exec $PREFIX \(program) \(arguments)",
        ])
    }

    @Test(
        "without procfs every command fails, and says what is missing",
        .enabled(if: isPossible, "needs root and unshare"),
        arguments: ["top", "inspect 1", "--help"])
    func withoutProcfs(arguments: String) async throws {
        let outcome = try await ptreclaim(arguments, after: "umount -l /proc")
        #expect(outcome.status == 1 && outcome.output.isEmpty, "\(outcome)")
        #expect(
            outcome.errors == "ptreclaim: there is no procfs at /proc: mount -t proc proc /proc\n")
    }

    @Test(
        "where procfs hides processes, that is said", .enabled(if: isPossible && Nobody.isPossible),
        arguments: ["top --once", "top --json", "stats --format prometheus --all-processes"])
    func hidden(arguments: String) async throws {
        let mount = "umount -l /proc && mount -t proc -o hidepid=2 proc /proc"
        let nobody = "PREFIX='\(Nobody.command.joined(separator: " "))'"
        let outcome = try await ptreclaim(arguments, after: "\(mount) && \(nobody)")
        #expect(outcome.status == 0, "\(outcome)")
        #expect(outcome.errors.contains("procfs hides the processes of others (hidepid)"))
        let root = try await ptreclaim(arguments, after: mount)
        #expect(!root.errors.contains("hidepid"), "\(root)")
    }
}
