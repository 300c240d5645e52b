// SPDX-License-Identifier: Apache-2.0

import Foundation
import ProcFS
import TestSupport
import Testing

private let canSeeTables =
    (try? PageTableCensus.take(pid: getpid()))?.tables.live != nil

private func top(
    _ arguments: String..., environment: [String: String] = [:]
) async throws -> Victim.Outcome {
    try await Victim.run(
        [PackageFiles.executable("ptreclaim"), "top"] + arguments, environment: environment)
}

private func parsed(_ outcome: Victim.Outcome) throws -> [String: Any] {
    try #require(
        try JSONSerialization.jsonObject(with: Data(outcome.output.utf8)) as? [String: Any],
        "\(outcome)")
}

@Suite struct TopTests {
    // MARK: One look

    @Test("the JSON has exactly the promised keys")
    func keys() async throws {
        try await withSleep { pid in
            let outcome = try await top("--json")
            #expect(outcome.status == 0)
            let object = try parsed(outcome)
            #expect(
                Set(object.keys) == [
                    "schema", "processes", "process_count", "vm_pte_bytes", "waste_bytes",
                    "pass_seconds", "not_looked_at", "unknown",
                ])
            #expect(object["schema"] as? String == "ptreclaim.top/1")
            let processes = try #require(object["processes"] as? [[String: Any]])
            #expect(object["process_count"] as? Int == processes.count)
            let process = try #require(processes.first { $0["pid"] as? Int == Int(pid) })
            #expect(
                Set(process.keys) == [
                    "pid", "command", "command_line", "vm_pte_bytes", "needed_bytes", "waste_bytes",
                    "waste_percent", "empty_tables", "rss_bytes", "virtual_bytes",
                ])
            #expect(process["command"] as? String == "sleep")
            #expect(process["command_line"] as? String == "sleep 600")
            // The second oracle: what inspect says of it.
            let inspect = try await Victim.run(
                [PackageFiles.executable("ptreclaim"), "inspect", "\(pid)", "--json"])
            let census = try parsed(inspect)
            for key in ["vm_pte_bytes", "needed_bytes", "waste_bytes"] {
                #expect(process[key] as? Int == census[key] as? Int, "\(key)")
            }
            // No kernel thread is shown.
            #expect(
                !processes.contains {
                    $0["pid"] as? Int == 2 && $0["command"] as? String == "kthreadd"
                })
        }
    }

    @Test(
        "who wastes comes first, with a sign",
        .enabled(if: canSeeTables && Waster.isPossible, "needs PAGEMAP_SCAN and python3"))
    func waster() async throws {
        try await Waster.with { waster in
            try await withSleep { sleeper in
                let processes = try #require(
                    try parsed(try await top("--json"))["processes"] as? [[String: Any]])
                let pids = processes.compactMap { $0["pid"] as? Int }
                let first = try #require(pids.firstIndex(of: Int(waster)))
                #expect(try #require(pids.firstIndex(of: Int(sleeper))) > first)
                let row = processes[first]
                let empty = try #require(row["empty_tables"] as? Int)
                #expect(empty >= Waster.emptyTableCount)
                #expect(try #require(row["waste_bytes"] as? Int) >= empty * 4096)
                let wastes = processes.compactMap { $0["waste_bytes"] as? Int }
                #expect(wastes == wastes.sorted(by: >))

                let lines = try await top("--once").output.split(separator: "\n")
                let line = try #require(lines.first { $0.contains(" \(waster) ") })
                #expect(line.contains(" ! "), "\(line)")
                let other = try #require(lines.first { $0.contains(" \(sleeper) ") })
                #expect(!other.contains("!"), "\(other)")
            }
        }
    }

    @Test("each order is the one asked for, and --lines is obeyed")
    func orders() async throws {
        for (order, key) in [
            ("vmpte", "vm_pte_bytes"), ("rss", "rss_bytes"), ("virt", "virtual_bytes"),
        ] {
            let object = try parsed(try await top("--json", "--sort", order))
            let processes = try #require(object["processes"] as? [[String: Any]])
            let values = processes.compactMap { $0[key] as? Int }
            #expect(values == values.sorted(by: >) && values.count == processes.count, "\(order)")
        }
        let byPID = try parsed(try await top("--json", "--sort", "pid", "--lines", "3"))
        let processes = try #require(byPID["processes"] as? [[String: Any]])
        let pids = processes.compactMap { $0["pid"] as? Int }
        #expect(pids == pids.sorted() && pids.count <= 3)
        let lines = try await top("--lines", "3").output.split(separator: "\n")
        #expect(lines.count <= 5, "a title, the columns' names, and 3: \(lines)")
    }

    @Test(
        "into a pipe it is one look without control sequences, as wide as COLUMNS",
        arguments: [80, 200])
    func pipe(columns: Int) async throws {
        try await withSleep { pid in
            let outcome = try await top(
                environment: ["COLUMNS": "\(columns)", "TERM": "xterm", "LANG": "C.UTF-8"])
            #expect(outcome.status == 0 && !outcome.output.contains("\u{1b}"))
            let lines = outcome.output.split(separator: "\n")
            for line in lines { #expect(line.count <= columns, "\(line)") }
            let line = try #require(lines.first { $0.contains(" \(pid) ") })
            #expect(line.contains("sleep 600") == (columns == 200), "\(line)")
        }
    }

    @Test("a name and arguments that a terminal would obey are shown as question marks")
    func hostileName() async throws {
        let victim = try Victim.start(
            ["/bin/bash", "-c", "exec -a $'\\e[31mevil\\e]0;title\\a' sleep 600"])
        for _ in 0..<1000 {
            if ProcessList.commandLine(pid: victim.pid).contains("evil\u{1b}") { break }
            try await Task.sleep(for: .milliseconds(5))
        }
        let outcome = try await top(environment: ["COLUMNS": "200"])
        _ = try await victim.end(within: .zero)
        let line = try #require(
            outcome.output.split(separator: "\n").first { $0.contains(" \(victim.pid) ") })
        #expect(line.contains("?[31mevil?]0;title? 600"), "\(line)")
        #expect(!outcome.output.unicodeScalars.contains { $0.value < 0x20 && $0 != "\n" })
    }

    @Test(
        "who lacks a privilege is told how many processes that hides, and what helps",
        .enabled(if: Nobody.isPossible, "needs root and setpriv"), arguments: [false, true])
    func nobody(asJSON: Bool) async throws {
        try await withSleep { pid in
            let outcome = try await Nobody.ptreclaim(asJSON ? ["top", "--json"] : ["top"])
            #expect(outcome.status == 0, "\(outcome)")
            #expect(
                outcome.errors.contains(
                    /ptreclaim top: [0-9]+ could not be looked at: EACCES \(needs CAP_SYS_PTRACE: run as/
                ),
                "\(outcome)")
            guard asJSON else {
                #expect(!outcome.output.contains(" \(pid) "))
                return
            }
            let object = try parsed(outcome)
            let refusals = try #require(object["not_looked_at"] as? [[String: Any]])
            #expect(refusals.contains { $0["count"] as? Int ?? 0 > 0 && $0["reason"] is String })
        }
    }

    @Test(
        "bad options are usage errors",
        arguments: [
            (["--interval", "0"], "--interval"), (["--interval", "nan"], "--interval"),
            (["--lines", "0"], "--lines"), (["--sort", "beauty"], "beauty"),
        ])
    func usage(arguments: [String], words: String) async throws {
        let outcome = try await Victim.run(
            [PackageFiles.executable("ptreclaim"), "top"] + arguments)
        #expect(outcome.status == 2 && outcome.errors.contains(words), "\(outcome)")
    }

    // MARK: On a terminal

    private func terminal(
        _ arguments: [String] = [], columns: Int = 80, rows: Int = 24,
        environment: [String: String] = [:]
    ) throws -> PseudoTerminal {
        try PseudoTerminal(
            [PackageFiles.executable("ptreclaim"), "top"] + arguments, columns: columns, rows: rows,
            environment: environment)
    }

    private func hasFrame(_ output: String) -> Bool { !PseudoTerminal.frames(output).isEmpty }

    @Test("no line is longer than the terminal is wide, and q gives it back", arguments: [80, 200])
    func screen(columns: Int) async throws {
        let terminal = try terminal(["--interval", "0.2"], columns: columns)
        let before = terminal.settingsBefore
        try await terminal.output(where: hasFrame)
        // Both arrows, and a key that means nothing here.
        terminal.type("\u{1b}[B\u{1b}OA\u{1b}[15~")
        let output = try await terminal.output { PseudoTerminal.frames($0).count >= 3 }
        #expect(output.contains("\u{1b}[?1049h") && terminal.settings != before)
        // Erasing behind a full line takes its last character.
        #expect(!output.contains("\u{1b}[K") && !output.contains("\u{1b}[J"))
        for frame in PseudoTerminal.frames(output) {
            #expect(frame.count == 24)
            for line in frame { #expect(line.count <= columns, "\(line)") }
            #expect(try #require(frame.last).hasPrefix("q quits"))
        }
        terminal.type("q")
        #expect(try await terminal.end() == 0)
        #expect(terminal.output.hasSuffix("\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l"))
        #expect(terminal.settings == before)
    }

    @Test(
        "a signal ends it as it ends any program, with the terminal as it was",
        arguments: [SIGINT, SIGTERM, SIGHUP, SIGQUIT])
    func signals(number: Int32) async throws {
        let terminal = try terminal()
        let before = terminal.settingsBefore
        try await terminal.output(where: hasFrame)
        // The one that a key sends, by its key.
        if number == SIGINT { terminal.type("\u{3}") } else { kill(terminal.pid, number) }
        let status = try await terminal.end()
        #expect(status & 0x7f == number || status == 128 + number, "\(status)")
        #expect(terminal.output.contains("\u{1b}[?1049l") && terminal.settings == before)
    }

    @Test("a key behind one that means nothing here is not lost")
    func keyBehindUnknown() async throws {
        let terminal = try terminal(["--interval", "60"])
        try await terminal.output(where: hasFrame)
        terminal.type("\u{1b}[15;2~\u{1b}OPq")
        #expect(try await terminal.end(within: .seconds(5)) == 0)
    }

    @Test("a queue of keys is drawn once")
    func manyKeys() async throws {
        let terminal = try terminal(["--interval", "60"])
        try await terminal.output(where: hasFrame)
        // Less than the terminal holds; frames of them all would be 2 MB.
        terminal.type(String(repeating: "\u{1b}[B", count: 1000) + "\u{1b}[15~")
        terminal.clear()
        try await terminal.output(where: hasFrame)
        terminal.type("q")
        #expect(try await terminal.end() == 0)
        #expect(PseudoTerminal.frames(terminal.output).count < 100)
    }

    @Test("a terminal that nobody reads does not hold up a signal")
    func unread() async throws {
        let terminal = try terminal(["--interval", "0.1"], columns: 500, rows: 200)
        try await Task.sleep(for: .seconds(2))
        kill(terminal.pid, SIGTERM)
        let killed = ContinuousClock.now
        while !isZombie(terminal.pid),
            ContinuousClock.now - killed < .seconds(5)
        {
            try await Task.sleep(for: .milliseconds(10))
        }
        #expect(isZombie(terminal.pid))
        #expect(try await terminal.end() == 128 + SIGTERM)
        #expect(terminal.settings == terminal.settingsBefore)
    }

    private func isZombie(_ pid: Int32) -> Bool {
        let stat = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8)
        return stat?.contains(") Z ") == true
    }

    @Test("lines beyond --lines are not scrolled to")
    func scrollingWithinLimit() async throws {
        let terminal = try terminal(["--lines", "3", "--interval", "60"])
        try await terminal.output(where: hasFrame)
        terminal.clear()
        terminal.type("\u{1b}[6~")
        let output = try await terminal.output(where: hasFrame)
        let last = try #require(PseudoTerminal.frames(output).last?.last)
        #expect(last.contains(/1-[123] of/), "\(last)")
        terminal.type("q")
        #expect(try await terminal.end() == 0)
    }

    @Test("the space key pauses it, and a window that is dragged is filled anew")
    func pauseAndResize() async throws {
        let terminal = try terminal(["--interval", "0.1"])
        try await terminal.output(where: hasFrame)
        terminal.type(" ")
        try await terminal.output { $0.contains("paused: space goes on") }
        terminal.clear()
        try await Task.sleep(for: .seconds(1))
        #expect(!hasFrame(terminal.output))
        terminal.resize(columns: 120, rows: 10)
        let output = try await terminal.output(where: hasFrame)
        #expect(try #require(PseudoTerminal.frames(output).last).count == 10)
        terminal.type("q")
        #expect(try await terminal.end() == 0)
    }

    @Test("NO_COLOR leaves no colours, and without it there are some", arguments: [false, true])
    func noColor(isSet: Bool) async throws {
        let terminal = try terminal(environment: isSet ? ["NO_COLOR": "1"] : [:])
        let output = try await terminal.output(where: hasFrame)
        #expect(output.contains(/\u{1b}\[[0-9;]*m/) == !isSet)
        terminal.type("q")
        #expect(try await terminal.end() == 0)
    }

    @Test("on a terminal that is dumb it looks once, in plain text")
    func dumb() async throws {
        let terminal = try terminal(environment: ["TERM": "dumb"])
        #expect(try await terminal.end() == 0)
        #expect(terminal.output.contains("ptreclaim top") && !terminal.output.contains("\u{1b}"))
    }

    @Test("Ctrl-Z stops it with the terminal as it was, and fg goes on")
    func stopAndGoOn() async throws {
        let program = PackageFiles.executable("ptreclaim")
        let terminal = try PseudoTerminal([
            "/bin/bash", "--norc", "-c",
            "set -m; \(program) top; echo has-stopped; read x; fg; echo is-over $?",
        ])
        let before = terminal.settingsBefore
        try await terminal.output(where: hasFrame)
        terminal.type("\u{1a}")
        try await terminal.output { $0.contains("has-stopped") }
        #expect(terminal.settings == before)
        #expect(terminal.output.contains("\u{1b}[?1049l"))
        terminal.clear()
        terminal.type("\n")
        try await terminal.output { $0.contains("\u{1b}[?1049h") && hasFrame($0) }
        #expect(terminal.settings != before)
        terminal.type("q")
        #expect(try await terminal.end() == 0)
        #expect(terminal.output.contains("is-over 0") && terminal.settings == before)
    }
}
