// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

@Suite struct HelpTests {
    /// As `--experimental-dump-help` has it.
    private struct Tool: Decodable {
        let command: Command
    }

    private struct Command: Decodable {
        let commandName: String
        let abstract: String?
        let discussion: String?
        let arguments: [Argument]?
        let subcommands: [Command]?

        /// The command lines under the title.
        var examples: [String] {
            guard let text = discussion?.components(separatedBy: "Examples:\n").dropFirst().last
            else { return [] }
            return text.split(separator: "\n").map { $0.trimmingCharacters(in: .whitespaces) }
        }
    }

    private struct Argument: Decodable {
        struct Name: Decodable { let name: String }

        let kind: String
        let names: [Name]?
        let isOptional: Bool
        let isRepeating: Bool
        let parsingStrategy: String
        let allValues: [String]?
    }

    private func ptreclaim(_ arguments: [String]) async throws -> Victim.Outcome {
        try await Victim.run([PackageFiles.executable("ptreclaim")] + arguments)
    }

    private func root() async throws -> Command {
        let dump = try await ptreclaim(["--experimental-dump-help"])
        return try JSONDecoder().decode(Tool.self, from: Data(dump.output.utf8)).command
    }

    /// All but `help`, which ArgumentParser adds.
    private func subcommands() async throws -> [Command] {
        let commands = try #require(try await root().subcommands)
            .filter { $0.commandName != "help" }
        try #require(commands.count >= 9)
        return commands
    }

    // MARK: Examples

    /// The calls of ptreclaim in a line for a shell, as words: without pipes, variables and
    /// redirections.
    private func calls(in line: String) -> [[String]] {
        let line = line.replacing(/\$\([^)]*\)/, with: "\(noProcess)")
            .replacing(/\ >.*/, with: "").replacing("''", with: "EMPTY")
        return line.split(separator: /\ *(\||&&)\ */).map { part in
            Array(
                part.split(separator: " ").map(String.init)
                    .drop { $0.contains(/^[A-Z_]+=/) })
        }.filter { $0.first == "ptreclaim" }
    }

    /// The highest PID that a number of this type can be; Linux ends at 4194304.
    private let noProcess = Int32.max

    /// What is wrong with `words` for `command`; nil where nothing is.
    private func complaint(of words: [String], for command: Command) -> String? {
        let arguments = command.arguments ?? []
        var positionals = 0
        var rest = words[...]
        while let word = rest.popFirst() {
            if word == "--" {
                let takes = arguments.contains { $0.parsingStrategy == "postTerminator" }
                return takes && !rest.isEmpty ? nil : "nothing takes what is behind --"
            }
            guard word.hasPrefix("--") else {
                positionals += 1
                continue
            }
            let name = String(word.dropFirst(2))
            guard
                let argument = arguments.first(where: {
                    $0.names?.contains { $0.name == name } ?? false
                })
            else { return "no option is called \(word)" }
            guard argument.kind == "option" else { continue }
            guard let value = rest.popFirst() else { return "\(word) has no value" }
            if let values = argument.allValues, !values.contains(value) {
                return "\(word) does not take \(value)"
            }
        }
        let places = arguments.filter { $0.kind == "positional" }
        let least = places.filter { !$0.isOptional }.count
        let most = places.contains { $0.isRepeating } ? Int.max : places.count
        return (least...most).contains(positionals) ? nil : "\(positionals) arguments"
    }

    @Test("each command has examples, of itself, that parse")
    func examples() async throws {
        for command in try await subcommands() {
            let name = command.commandName
            let lines = command.examples
            #expect(command.abstract?.hasSuffix(".") == true, "\(name)")
            #expect(!lines.isEmpty, "ptreclaim \(name) --help has no examples")
            var own = 0
            for words in lines.flatMap(calls) {
                let all = try await subcommands()
                let target = try #require(
                    all.first { $0.commandName == words[1] }, "\(name): \(words)")
                if target.commandName == name { own += 1 }
                #expect(complaint(of: Array(words.dropFirst(2)), for: target) == nil, "\(words)")
            }
            #expect(own > 0, "no example of \(name) calls it")
        }
    }

    @Test(
        "the check of the examples finds what is wrong",
        arguments: [
            ["--jsn", "1"], ["1", "2", "3"], [], ["1", "--svg"], ["1", "--", "true"],
        ])
    func check(words: [String]) async throws {
        let inspect = try #require(try await subcommands().first { $0.commandName == "inspect" })
        #expect(complaint(of: words, for: inspect) != nil)
        #expect(complaint(of: ["1", "--json"], for: inspect) == nil)
    }

    @Test("examples that look at a process are no usage errors where there is none")
    func examplesRun() async throws {
        for command in try await subcommands()
        where ["inspect", "stats", "ctl"].contains(command.commandName) {
            for words in command.examples.flatMap(calls) {
                let arguments = words.dropFirst().map {
                    $0.contains(/^[0-9]+$/) ? "\(noProcess)" : $0
                }
                let outcome = try await ptreclaim(arguments)
                #expect(outcome.status < 2, "\(arguments): \(outcome)")
            }
        }
    }

    // MARK: Help

    @Test("help fits 80 columns, goes to stdout, and names the exit statuses")
    func help() async throws {
        for name in [""] + (try await subcommands().map(\.commandName)) {
            let outcome = try await ptreclaim(name.isEmpty ? ["--help"] : [name, "--help"])
            #expect(outcome.status == 0 && outcome.errors.isEmpty)
            for line in outcome.output.split(separator: "\n") {
                #expect(line.count <= 80, "\(name): \(line)")
            }
            if name.isEmpty {
                #expect(outcome.output.contains("Exit status: 0 done, 1 failed, 2 usage."))
            }
        }
    }

    @Test("the version is that of the C library's pkg-config file")
    func version() async throws {
        let outcome = try await ptreclaim(["--version"])
        let file = PackageFiles.root.appending(path: "Shim/Library/ptreclaim.pc.in")
        let line = try String(contentsOf: file, encoding: .utf8).split(separator: "\n")
            .first { $0.hasPrefix("Version: ") }
        let version = try #require(line).dropFirst("Version: ".count)
        #expect(outcome.output == "ptreclaim \(version)\n" && outcome.status == 0)
    }

    @Test(
        "output that cannot be written is an error, said in one line",
        arguments: [
            ["--help"], ["inspect", "--help"], ["--version"], ["simulate", "--list"],
            ["inspect", "1"], ["stats", "--format", "prometheus", "--all-processes"],
            ["--generate-completion-script", "zsh"], ["top", "--once"], ["watch", "\(getpid())"],
        ])
    func fullDisk(arguments: [String]) async throws {
        let outcome = try await Victim.run(
            ["/bin/sh", "-c", "exec \"$@\" >/dev/full", "sh", PackageFiles.executable("ptreclaim")]
                + arguments)
        #expect(outcome.status == 1, "\(outcome)")
        let last = outcome.errors.split(separator: "\n").last
        #expect(last?.hasPrefix("ptreclaim") == true, "\(outcome)")
    }
}
