// SPDX-License-Identifier: Apache-2.0

import Foundation
import FoundationXML
import TestSupport
import Testing

private func inspect(
    _ arguments: [String], environment: [String: String] = [:]
) async throws -> Victim.Outcome {
    try await Victim.run(
        [PackageFiles.executable("ptreclaim"), "inspect"] + arguments, environment: environment)
}

/// The cells of the lines that begin with an address.
private func cells(_ output: String, columns: Int) -> String {
    let count = columns >= 142 ? 128 : 64
    return output.split(separator: "\n").filter { $0.prefixMatch(of: /[0-9a-f]{9,12} +/) != nil }
        .map { String($0.dropFirst(14).prefix(count)) }.joined()
}

@Suite struct MapTests {
    @Test(
        "in the terminal no line is too long, and each empty table is an x", arguments: [80, 200])
    func terminal(columns: Int) async {
        await #expect(processExitsWith: .success) { [columns] in
            let window = Window(spans: 8, advice: 15)
            window.touch(stride(from: 0, to: window.byteCount, by: Window.spanByteCount))
            window.purge([0, 5 * Window.spanByteCount])
            let result = try await inspect(
                ["\(getpid())", "--map"],
                environment: ["COLUMNS": "\(columns)", "LANG": "C.UTF-8"])
            #expect(result.status == 0, "\(result)")
            let lines = result.output.split(separator: "\n")
            #expect(lines.allSatisfy { $0.count <= columns }, "\(result)")
            #expect(!result.output.contains("\u{1b}"))
            #expect(result.output.contains("a cell is 2 MiB, one table"))
            let match = try #require(result.output.firstMatch(of: /live, ([0-9]+) empty/))
            let drawn = cells(result.output, columns: columns)
            #expect(drawn.count { $0 == "x" } == Int(match.1), "\(result)")
            // The legend explains every sign that is drawn.
            let legend = result.output.split(separator: "\n").suffix(4).joined()
            #expect(Set(drawn).allSatisfy { legend.contains($0) })
        }
    }

    @Test("without UTF-8 the picture is ASCII")
    func plain() async throws {
        try await withSleep { pid in
            let result = try await inspect(["\(pid)", "--map"], environment: ["LC_ALL": "C"])
            #expect(result.status == 0)
            #expect(result.output.utf8.allSatisfy { $0 < 128 }, "\(result)")
        }
    }

    @Test("the SVG is well formed whatever the process is called")
    func svg() async throws {
        let directory = FileManager.default.temporaryDirectory
            .appending(path: "ptreclaim-svg-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        // The last bracket is one character with what stands behind it.
        let program = directory.appending(path: "<b>&'\"<\u{301}")
        let path = program.path(percentEncoded: false)
        try FileManager.default.copyItem(atPath: "/bin/sleep", toPath: path)
        let sleeper = try Victim.start([path, "60"])
        let file = directory.appending(path: "map.svg")
        let result = try await inspect(["\(sleeper.pid)", "--svg", file.path()])
        #expect(result.status == 0, "\(result)")
        let reader = XMLParser(data: try Data(contentsOf: file))
        #expect(reader.parse(), "\(String(describing: reader.parserError))")
        let text = try String(contentsOf: file, encoding: .utf8)
        #expect(text.contains("&lt;b&gt;&amp;"))
        #expect(!text.contains("http") || text.ranges(of: "http").count == 1, "only its namespace")
        let printed = try await inspect(["\(sleeper.pid)", "--svg", "-"])
        #expect(printed.output.hasPrefix("<svg"))
        #expect(printed.output.hasSuffix("</svg>\n"))
        _ = try await sleeper.terminate()
    }

    @Test(
        "bad arguments and bad files are said",
        arguments: [
            (["1", "--map", "--json"], 2, "--map goes with"),
            (["1", "--map", "--svg", "x.svg"], 2, "--map goes with"),
            (["1", "--svg", "-", "--json"], 2, "--svg - leaves stdout"),
            (["self", "--svg", "/nonexistent/x.svg"], 1, "/nonexistent/x.svg: No such file"),
            (["self", "--svg", "/proc/x.svg"], 1, "/proc/x.svg: "),
            (["self", "--svg", "/dev/full"], 1, "/dev/full: No space left"),
            (["2", "--map"], 1, "kernel thread"), (["2147483647", "--svg", "-"], 1, "no such"),
        ] as [([String], Int32, String)])
    func errors(arguments: [String], status: Int32, words: String) async throws {
        let own = arguments.map { $0 == "self" ? "\(getpid())" : $0 }
        let result = try await inspect(own)
        #expect(result.status == status)
        #expect(result.errors.contains(words), "\(result)")
        #expect(result.output.isEmpty)
    }
}
