// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// Completions in the shells themselves.
@Suite struct CompletionTests {
    private static let bash = PackageFiles.installed("bash")
    private static let zsh = PackageFiles.installed("zsh")
    private static let fish = PackageFiles.installed("fish")
    private static let python = PackageFiles.installed("python3")

    /// The scripts as packages get them.
    private func scripts() async throws -> TemporaryDirectory {
        let directory = try TemporaryDirectory()
        let made = try await Victim.run([
            PackageFiles.root.appending(path: "Packaging/generate-completions").path(),
            PackageFiles.executable("ptreclaim"), directory.url.path(),
        ])
        try #require(made.status == 0, "\(made)")
        let names = try FileManager.default.contentsOfDirectory(atPath: directory.url.path())
        #expect(Set(names) == ["ptreclaim.bash", "_ptreclaim", "ptreclaim.fish"])
        return directory
    }

    /// With ptreclaim in PATH: the scripts call it for processes.
    private func environment(home: TemporaryDirectory) -> [String: String] {
        let bin = URL(filePath: PackageFiles.executable("ptreclaim")).deletingLastPathComponent()
        return [
            "PATH": "\(bin.path()):/usr/local/bin:/usr/bin:/bin", "TERM": "xterm",
            "HOME": home.url.path(), "ZDOTDIR": home.url.path(), "LC_ALL": "C.UTF-8",
        ]
    }

    /// What is typed, and one of the words that are offered.
    private static let words: [(line: String, offer: String)] = [
        ("ptreclaim ins", "inspect"), ("ptreclaim run --mode s", "scan"),
        ("ptreclaim ctl 1 n", "now"), ("ptreclaim stats --format p", "prometheus"),
        ("ptreclaim simulate ser", "server"), ("ptreclaim simulate --policy ho", "hooks"),
        ("ptreclaim simulate --trace /etc/passw", "/etc/passwd"),
        ("ptreclaim inspect 1 --js", "--json"),
    ]

    // MARK: bash

    /// What bash would offer at the end of `line`.
    private func offersOfBash(_ line: String) async throws -> [String] {
        let home = try await scripts()
        let script = """
            source \(home.url.path())/ptreclaim.bash
            COMP_LINE=$1 COMP_POINT=${#1}
            read -ra COMP_WORDS <<<"$1"
            [[ $1 = *' ' ]] && COMP_WORDS+=('')
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            function=$(complete -p ptreclaim | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
            $function ptreclaim "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\\n' "${COMPREPLY[@]}"
            """
        let outcome = try await Victim.run(
            [try #require(Self.bash), "--norc", "-c", script, "bash", line],
            environment: environment(home: home))
        #expect(outcome.status == 0 && outcome.errors.isEmpty, "\(line): \(outcome)")
        return outcome.output.split(separator: "\n").map(String.init)
    }

    @Test("bash", .enabled(if: bash != nil, "needs bash"), arguments: words)
    func offersInBash(line: String, offer: String) async throws {
        #expect(try await offersOfBash(line).contains(offer))
    }

    @Test("bash offers processes, and no kernel threads", .enabled(if: bash != nil, "needs bash"))
    func bashProcesses() async throws {
        try await withSleep { pid in
            for line in ["inspect", "doctor", "ctl", "stats", "stats 1 --json", "stats 1 2"] {
                let offers = try await offersOfBash("ptreclaim \(line) ")
                #expect(offers.contains("\(pid)"), "\(line): \(offers)")
                #expect(!offers.contains("2"), "\(line)")
            }
        }
    }

    // MARK: zsh

    private static let zshSettings = """
        PS1='ready> '
        fpath=($ZDOTDIR $fpath)
        autoload -Uz compinit
        compinit -u -D
        LISTMAX=100000
        bindkey '^I' list-choices
        """

    /// Types `line` and the tabulator into a shell, until `pattern` is on the terminal.
    private func type(
        _ line: String, until pattern: String, in shell: [String], home: TemporaryDirectory
    ) async throws -> Victim.Outcome {
        let fixture = PackageFiles.root.appending(path: "Tests/Fixtures/Terminal/type-keys")
        return try await Victim.run(
            [try #require(Self.python), fixture.path(), pattern, line] + shell,
            environment: environment(home: home))
    }

    private func typeIntoZsh(_ line: String, until pattern: String) async throws -> Victim.Outcome {
        let home = try await scripts()
        try Self.zshSettings.write(
            to: home.url.appending(path: ".zshrc"), atomically: true, encoding: .utf8)
        return try await type(
            line, until: pattern, in: [try #require(Self.zsh), "-i", "-d"], home: home)
    }

    @Test(
        "zsh", .enabled(if: zsh != nil && python != nil, "needs zsh and python3"),
        arguments: words.filter { !$0.line.contains("/") })
    func offersInZsh(line: String, offer: String) async throws {
        let outcome = try await typeIntoZsh(line, until: "\n *\(offer)\\b")
        #expect(outcome.status == 0, "\(outcome)")
    }

    @Test(
        "zsh offers processes with their names, and files",
        .enabled(if: zsh != nil && python != nil, "needs zsh and python3"))
    func zshProcesses() async throws {
        try await withSleep { pid in
            let outcome = try await typeIntoZsh(
                "ptreclaim inspect ", until: "\\b\(pid)\\b[ 0-9]* -- sleep")
            #expect(outcome.status == 0, "\(outcome)")
        }
        let outcome = try await typeIntoZsh(
            "ptreclaim simulate --trace /etc/passw", until: "\n *passwd\\b")
        #expect(outcome.status == 0, "\(outcome)")
    }

    // MARK: fish

    @Test("fish", .enabled(if: fish != nil, "needs fish"), arguments: words)
    func offersInFish(line: String, offer: String) async throws {
        let home = try await scripts()
        let outcome = try await Victim.run(
            [
                try #require(Self.fish), "--no-config", "-c",
                "source $HOME/ptreclaim.fish; complete -C '\(line)'",
            ], environment: environment(home: home))
        let offers = outcome.output.split(separator: "\n").map { $0.prefix { $0 != "\t" } }
        #expect(outcome.status == 0 && offers.contains(Substring(offer)), "\(outcome)")
    }

    // `complete -C` has no command line of its own, which the question for processes needs.
    @Test(
        "fish offers processes with their names",
        .enabled(if: fish != nil && python != nil, "needs fish and python3"))
    func fishProcesses() async throws {
        let home = try await scripts()
        try await withSleep { pid in
            let outcome = try await type(
                "ptreclaim inspect ", until: "\\b\(pid) +\\(sleep\\)",
                in: [
                    try #require(Self.fish), "--no-config", "-C",
                    "function fish_prompt; echo 'ready> '; end; source $HOME/ptreclaim.fish",
                ], home: home)
            #expect(outcome.status == 0, "\(outcome)")
        }
    }
}
