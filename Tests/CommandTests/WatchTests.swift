// SPDX-License-Identifier: Apache-2.0

import Foundation
import ProcFS
import TestSupport
import Testing

@Suite struct WatchTests {
    private let program = PackageFiles.executable("ptreclaim")

    private func watch(_ arguments: String...) async throws -> Victim.Outcome {
        try await Victim.run([program, "watch"] + arguments)
    }

    /// The objects of lines of JSON.
    private func objects(_ outcome: Victim.Outcome) throws -> [[String: Any]] {
        try outcome.output.split(separator: "\n").map {
            try #require(
                try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any],
                "\(outcome)"
            )
        }
    }

    private func events(_ objects: [[String: Any]]) -> [[String: Any]] {
        objects.flatMap { $0["events"] as? [[String: Any]] ?? [] }
    }

    // MARK: Into a pipe

    @Test("a line for each look, in columns under a heading, without control sequences")
    func lines() async throws {
        try await withSleep { pid in
            let outcome = try await watch("\(pid)", "--count", "3", "--interval", "0.1")
            #expect(outcome.status == 0 && !outcome.output.contains("\u{1b}"), "\(outcome)")
            let lines = outcome.output.split(separator: "\n").map { $0.split(separator: " ") }
            #expect(lines.count == 4)
            let heading = try #require(lines.first)
            #expect(
                heading == [
                    "time", "vm_pte_kb", "needed_kb", "waste_kb", "waste_percent", "rss_kb",
                    "waste_age_s", "mode", "tables_freed", "spans_zapped",
                ])
            let census = try PageTableCensus.take(pid: pid)
            for line in lines.dropFirst() {
                #expect(line.count == heading.count)
                #expect(line[1] == "\(census.vmPTEByteCount / 1024)")
                #expect(line[7] == "-", "no library: \(line)")
            }
        }
    }

    @Test("the JSON has exactly the promised keys, a line each")
    func keys() async throws {
        try await withSleep { pid in
            let outcome = try await watch("\(pid)", "--count", "2", "--interval", "0.1", "--json")
            let objects = try objects(outcome)
            #expect(outcome.status == 0 && objects.count == 2)
            for object in objects {
                #expect(
                    Set(object.keys) == [
                        "schema", "pid", "time", "command", "library", "events", "vm_pte_bytes",
                        "needed_bytes", "waste_bytes", "waste_percent", "waste_age_seconds",
                        "rss_bytes",
                    ])
                #expect(object["schema"] as? String == "ptreclaim.watch/1")
                #expect(object["pid"] as? Int == Int(pid))
                #expect(object["library"] is NSNull)
            }
        }
    }

    @Test(
        "a process that ends is told in words, and the exit status is 0", arguments: [false, true])
    func ends(asJSON: Bool) async throws {
        let sleeper = try Victim.start(["/bin/sleep", "600"])
        let watcher = try Victim.start(
            [program, "watch", "\(sleeper.pid)", "--interval", "0.1"] + (asJSON ? ["--json"] : []))
        _ = try await watcher.line(startingWith: asJSON ? "{" : " ", within: .seconds(20))
        _ = try await sleeper.end(within: .zero)
        let outcome = try await watcher.end(within: .seconds(20))
        #expect(outcome.status == 0, "\(outcome)")
        #expect(outcome.errors.contains("process \(sleeper.pid) has ended"), "\(outcome)")
        guard asJSON else { return }
        let last = try #require(try objects(outcome).last)
        #expect(last["vm_pte_bytes"] is NSNull && last["command"] is NSNull)
        #expect(events([last]).map { $0["kind"] as? String } == ["ended"])
    }

    @Test("a process that nobody waits for has ended, too")
    func zombie() async throws {
        let sleeper = try Victim.start(["/bin/sleep", "600"])
        let watcher = try Victim.start([program, "watch", "\(sleeper.pid)", "--interval", "0.1"])
        _ = try await watcher.line(startingWith: " ", within: .seconds(20))
        kill(sleeper.pid, SIGKILL)
        let outcome = try await watcher.end(within: .seconds(20))
        _ = try await sleeper.end(within: .zero)
        #expect(outcome.status == 0 && outcome.errors.contains("has ended"), "\(outcome)")
    }

    @Test("a fork and an exec are told, and the watch goes on")
    func forkAndExec() async throws {
        let directory = try TemporaryDirectory()
        let gate = directory.url.appending(path: "gate").path()
        #expect(unsafe mkfifo(gate, 0o600) == 0)
        let shell = try Victim.start(
            ["/bin/sh", "-c", "read x <\(gate); sleep 600 & exec sleep 601"])
        let watcher = try Victim.start(
            [program, "watch", "\(shell.pid)", "--interval", "0.1", "--json"])
        _ = try await watcher.line(startingWith: "{", within: .seconds(20))
        try "go\n".write(toFile: gate, atomically: false, encoding: .utf8)
        // Until it has been told, and then some.
        var child: Int32 = 0
        for _ in 0..<1000 where child == 0 {
            child = ProcessList.children(of: shell.pid)?.first ?? 0
            try await Task.sleep(for: .milliseconds(10))
        }
        try await Task.sleep(for: .seconds(1))
        _ = try await shell.end(within: .zero)
        let outcome = try await watcher.end(within: .seconds(20))
        kill(child, SIGKILL)
        let objects = try objects(outcome)
        #expect(outcome.status == 0)
        let events = events(objects)
        let fork = try #require(events.first { $0["kind"] as? String == "forked" })
        #expect(fork["pid"] as? Int == Int(child))
        let exec = try #require(events.first { $0["kind"] as? String == "executed" })
        #expect(try #require(exec["program"] as? String).hasSuffix("/sleep"))
        #expect(outcome.errors.contains("forked \(child)"), "\(outcome)")
        #expect(outcome.errors.contains(/executed .*\/sleep/), "\(outcome)")
        #expect(objects.contains { $0["command"] as? String == "sleep" })
    }

    @Test("an exec of the same program is an exec")
    func sameProgram() async throws {
        let directory = try TemporaryDirectory()
        let gate = directory.url.appending(path: "gate").path()
        #expect(unsafe mkfifo(gate, 0o600) == 0)
        let shell = try Victim.start(
            ["/bin/sh", "-c", "read x <\(gate); exec /bin/sh -c 'read x <\(gate)'"])
        let watcher = try Victim.start([program, "watch", "\(shell.pid)", "--interval", "0.1"])
        _ = try await watcher.line(startingWith: " ", within: .seconds(20))
        try "go\n".write(toFile: gate, atomically: false, encoding: .utf8)
        try await Task.sleep(for: .seconds(1))
        _ = try await shell.end(within: .zero)
        let outcome = try await watcher.end(within: .seconds(20))
        #expect(outcome.errors.contains(/executed .*sh/), "\(outcome)")
    }

    @Test(
        "what cannot be watched is an error with a remedy",
        arguments: [("2147483647", "no such process"), ("2", "a kernel thread")])
    func refusals(pid: String, words: String) async throws {
        let outcome = try await watch(pid)
        #expect(outcome.status == 1 && outcome.output.isEmpty, "\(outcome)")
        #expect(outcome.errors.contains(words), "\(outcome)")
    }

    @Test(
        "a process of somebody else is refused, with the remedy",
        .enabled(if: Nobody.isPossible, "needs root and setpriv"))
    func nobody() async throws {
        try await withSleep { pid in
            let outcome = try await Nobody.ptreclaim(["watch", "\(pid)"])
            #expect(outcome.status == 1 && outcome.errors.contains("CAP_SYS_PTRACE"), "\(outcome)")
        }
    }

    @Test(
        "bad options are usage errors",
        arguments: [["0"], ["1", "--interval", "0"], ["1", "--count", "0"], []])
    func usage(arguments: [String]) async throws {
        let outcome = try await Victim.run([program, "watch"] + arguments)
        #expect(outcome.status == 2 && outcome.errors.contains("Usage:"), "\(outcome)")
    }

    // MARK: On a terminal

    private func terminal(
        _ pid: Int32, _ arguments: [String] = [], columns: Int = 80, rows: Int = 24,
        environment: [String: String] = [:]
    ) throws -> PseudoTerminal {
        try PseudoTerminal(
            [program, "watch", "\(pid)", "--interval", "0.2"] + arguments, columns: columns,
            rows: rows, environment: environment)
    }

    @Test(
        "no line is longer than the terminal is wide, and q gives it back",
        arguments: [(80, 24), (200, 50), (40, 8)])
    func screen(columns: Int, rows: Int) async throws {
        try await withSleep { pid in
            let terminal = try terminal(pid, columns: columns, rows: rows)
            let before = terminal.settingsBefore
            let output = try await terminal.output { PseudoTerminal.frames($0).count >= 4 }
            for frame in PseudoTerminal.frames(output) {
                #expect(frame.count == rows)
                for line in frame { #expect(line.count <= columns, "\(line)") }
            }
            for word in ["VmPTE", "needed", "waste", "RSS", "not loaded"] {
                #expect(output.contains(word), "\(word)")
            }
            terminal.type("q")
            #expect(try await terminal.end() == 0)
            #expect(terminal.output.hasSuffix("\u{1b}[?1049l") && terminal.settings == before)
        }
    }

    @Test("charts are of blocks where they can be shown, and of ASCII elsewhere")
    func charts() async throws {
        try await withSleep { pid in
            for (language, isASCII) in [("C.UTF-8", false), ("C", true)] {
                let terminal = try terminal(pid, environment: ["LANG": language])
                let output = try await terminal.output { PseudoTerminal.frames($0).count >= 3 }
                #expect(output.contains("█") == !isASCII)
                #expect(output.utf8.allSatisfy { $0 < 0x80 } == isASCII)
                #expect(output.contains("##") == isASCII)
                terminal.type("q")
                #expect(try await terminal.end() == 0)
            }
        }
    }

    @Test("n says why there is nothing to free without the library, and the watch goes on")
    func nowWithoutLibrary() async throws {
        try await withSleep { pid in
            let terminal = try terminal(pid, columns: 120)
            try await terminal.output { $0.contains("n frees now") }
            terminal.type("n")
            try await terminal.output { $0.contains("libptreclaim-preload.so is not loaded there") }
            terminal.clear()
            try await terminal.output { PseudoTerminal.frames($0).count >= 2 }
            terminal.type("q")
            #expect(try await terminal.end() == 0)
        }
    }

    @Test("when the process ends, the last figures stay, and the terminal is as it was")
    func endsOnTerminal() async throws {
        let sleeper = try Victim.start(["/bin/sleep", "600"])
        let terminal = try terminal(sleeper.pid)
        let before = terminal.settingsBefore
        try await terminal.output { PseudoTerminal.frames($0).count >= 2 }
        _ = try await sleeper.end(within: .zero)
        #expect(try await terminal.end() == 0)
        #expect(terminal.settings == before)
        let left = try #require(
            terminal.output.components(separatedBy: "\u{1b}[?1049l").last)
        let text = PseudoTerminal.plain(left)
        #expect(text.contains(/VmPTE +[0-9]+ kB/) && text.contains("has ended"), "\(text)")
    }

    @Test(
        "--count ends it on a terminal, too, with the last figures", arguments: ["xterm", "dumb"])
    func counted(terminalType: String) async throws {
        try await withSleep { pid in
            let terminal = try terminal(pid, ["--count", "2"], environment: ["TERM": terminalType])
            #expect(try await terminal.end() == 0)
            let isDumb = terminalType == "dumb"
            #expect(terminal.output.contains("\u{1b}") == !isDumb)
            #expect(terminal.output.contains("vm_pte_kb") == isDumb)
        }
    }

    @Test("a signal ends it, with the terminal as it was", arguments: [SIGINT, SIGTERM, SIGHUP])
    func signals(number: Int32) async throws {
        try await withSleep { pid in
            let terminal = try terminal(pid)
            let before = terminal.settingsBefore
            try await terminal.output { !PseudoTerminal.frames($0).isEmpty }
            kill(terminal.pid, number)
            #expect(try await terminal.end() == 128 + number)
            #expect(terminal.output.contains("\u{1b}[?1049l") && terminal.settings == before)
        }
    }

    @Test(
        "waste is shown in figures and with a sign",
        .enabled(if: Waster.isPossible, "needs python3"))
    func waste() async throws {
        try await Waster.with { pid in
            let census = try PageTableCensus.take(pid: pid)
            guard let waste = census.wasteByteCount else { return }
            let terminal = try terminal(pid, environment: ["NO_COLOR": "1"])
            let output = try await terminal.output { !PseudoTerminal.frames($0).isEmpty }
            let line = try #require(
                PseudoTerminal.frames(output).first?.first { $0.hasPrefix("waste") })
            #expect(line.contains("\(waste / 1024) kB") && line.contains(" % !"), "\(line)")
            terminal.type("q")
            #expect(try await terminal.end() == 0)
        }
    }
}
