// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

@Suite struct ManualTests {
    /// The page as packages make it, in a file.
    private func page(
        in directory: TemporaryDirectory, _ environment: [String: String] = [:]
    ) async throws -> (path: String, text: String) {
        let script = PackageFiles.root.appending(path: "Packaging/generate-man").path()
        let made = try await Victim.run(
            [script, PackageFiles.executable("ptreclaim")], environment: environment)
        try #require(made.status == 0 && made.errors.isEmpty, "\(made)")
        let file = directory.url.appending(path: "ptreclaim.1")
        try made.output.write(to: file, atomically: true, encoding: .utf8)
        return (file.path(), made.output)
    }

    /// Containers of Ubuntu have a script in its place that shows nothing.
    private static let man =
        PackageFiles.installed("man.REAL") ?? PackageFiles.installed("man")
    private static let groff = PackageFiles.installed("groff")
    private static let mandoc = PackageFiles.installed("mandoc")

    @Test("man has no warnings", .enabled(if: man != nil && groff != nil, "needs man-db"))
    func manWarnings() async throws {
        let directory = try TemporaryDirectory()
        let outcome = try await Victim.run(
            [
                try #require(Self.man), "-l", "--warnings", "-E", "UTF-8",
                try await page(in: directory).path,
            ],
            environment: ["MANWIDTH": "80", "MANPAGER": "cat", "LC_ALL": "C.UTF-8"])
        #expect(outcome.status == 0 && outcome.errors.isEmpty, "\(outcome)")
        // With overstruck and coloured letters taken out.
        let text = outcome.output.replacing(/.\u{8}/, with: "")
            .replacing(/\u{1b}\[[0-9;]*m/, with: "")
        for line in text.split(separator: "\n") { #expect(line.count <= 80, "\(line)") }
        for title in [
            "NAME", "SYNOPSIS", "DESCRIPTION", "ENVIRONMENT", "EXIT STATUS", "EXAMPLES", "SEE ALSO",
        ] {
            #expect(text.contains("\n\(title)\n"), "\(title)")
        }
    }

    @Test("mandoc has no warnings", .enabled(if: mandoc != nil, "needs mandoc"))
    func mandocWarnings() async throws {
        let directory = try TemporaryDirectory()
        let path = try await page(in: directory).path
        // Not of style: it wants the pages under SEE ALSO to be installed.
        let outcome = try await Victim.run(
            [try #require(Self.mandoc), "-T", "lint", "-W", "warning", path])
        #expect(outcome.status == 0 && outcome.output.isEmpty, "\(outcome)")
        // And it does look.
        let broken = try await page(in: directory).text.replacing(".Sh EXAMPLES", with: ".Zz")
        try broken.write(toFile: path, atomically: true, encoding: .utf8)
        let lint = try await Victim.run(
            [try #require(Self.mandoc), "-T", "lint", "-W", "warning", path])
        #expect(lint.status != 0)
    }

    @Test("the page has every command, every example, and every option of the library")
    func contents() async throws {
        let text = try await page(in: TemporaryDirectory()).text
        let help = try await Victim.run([PackageFiles.executable("ptreclaim"), "--help"]).output
        let commands =
            help.components(separatedBy: "SUBCOMMANDS:\n").last?
            .split(separator: "\n").compactMap { line in
                line.firstMatch(of: /^\ \ ([a-z]+)\ /).map { String($0.1) }
            } ?? []
        try #require(commands.count >= 8)
        for command in commands { #expect(text.contains("\n.Ss \(command)\n"), "\(command)") }
        let header = PackageFiles.root.appending(path: "Shim/Preload/options.h")
        let options = try String(contentsOf: header, encoding: .utf8)
            .matches(of: /X\([a-z_]+,\ "(PTRECLAIM_[A-Z_]+)"/).map { String($0.1) }
        try #require(options.count >= 13)
        for option in options { #expect(text.contains("\n.It Ev \(option)\n"), "\(option)") }
        #expect(text.contains("\nptreclaim inspect $(pidof redis\\-server)\n"))
        #expect(text.contains("Values: 1 to 4096.\nDefault: 64.\n"))
        #expect(text.contains("redis\\-server \\-\\-save \\(aq\\(aq\n"))
    }

    @Test("a package that is built again gets the same page")
    func date() async throws {
        let text = try await page(in: TemporaryDirectory(), ["SOURCE_DATE_EPOCH": "86400"]).text
        #expect(text.contains("\n.Dd January 2, 1970\n"))
    }

    @Test(
        "the scripts for packages say how they are called",
        arguments: [
            "generate-man", "generate-completions",
        ])
    func usage(script: String) async throws {
        let path = PackageFiles.root.appending(path: "Packaging/\(script)").path()
        let outcome = try await Victim.run([path])
        #expect(outcome.status == 2 && outcome.errors.hasPrefix("usage: \(script) "))
        let failed = try await Victim.run(
            [path, "/nonexistent", "/tmp"].dropLast(
                script == "generate-man" ? 1 : 0))
        #expect(failed.status != 0 && failed.output.isEmpty)
    }
}
