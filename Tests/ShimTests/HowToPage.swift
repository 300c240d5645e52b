// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport

/// A page of Documentation/howto: commands that a reader copies, and what they print.
///
/// Comments that no reader sees mark what is tried, each before its block:
///
///     <!-- needs: redis-server fence -->     nothing is tried where one of these is missing
///     <!-- try -->                           the next block of sh is run
///     <!-- expect                            lines that come out of it, in this order, each a
///     ^waste +[0-9]+ kB                      regular expression that is found in a whole line
///     -->                                    (or one of them: <!-- expect: ^OK$ -->)
///     <!-- not tried: why -->                the next block of sh is not run
///     <!-- file: name -->                    the next block, of any language, is a file, which
///                                            another test tries
///
/// A block without a language that follows `expect` is shown as what came out, and must satisfy the
/// same expressions. Every block of sh has a mark.
struct HowToPage: Sendable {
    /// One block that is run, with what is expected of it.
    struct Block: Sendable {
        /// Of its first line in the page, from 1.
        let line: Int
        var commands = ""
        var expectations: [String] = []
        /// What the page shows as its output, or nil.
        var shown: String?
    }

    let name: String
    private(set) var needs: [String] = []
    private(set) var blocks: [Block] = []
    private(set) var reasonsNotToTry: [String] = []

    static let folder = PackageFiles.root.appending(path: "Documentation/howto")

    /// The pages, by name.
    static let names: [String] =
        ((try? FileManager.default.contentsOfDirectory(atPath: folder.path())) ?? [])
        .filter { $0.hasSuffix(".md") }.sorted()

    init(named name: String) throws {
        try self.init(
            name, text: String(contentsOf: Self.folder.appending(path: name), encoding: .utf8))
    }

    /// Throws a `ShimBuild.Failure` that names the line which breaks the rules above.
    init(_ name: String, text: String) throws {
        self.name = name
        var lines = Lines(text)
        var mark: Mark?
        var expectsShown = false
        while let line = lines.next() {
            switch line.trimmingCharacters(in: .whitespaces) {
            case let text where text.hasPrefix("```"):
                let start = lines.number + 1
                let block = lines.upTo { $0.hasPrefix("```") }
                guard let block else { throw failure(start, "a block has no end") }
                let isCommands = ["```sh", "```bash", "```shell", "```console"].contains(text)
                switch (mark, isCommands) {
                case (.tried, true): blocks.append(Block(line: start, commands: block))
                case (.notTried, true), (.file, _): break
                case (nil, true): throw failure(start, "commands without a mark")
                case (.some, false): throw failure(start, "a mark before a block that is not sh")
                case (nil, false) where expectsShown && text == "```":
                    blocks[blocks.count - 1].shown = block
                case (nil, false): break
                }
                (mark, expectsShown) = (nil, false)
            case "<!-- try -->":
                mark = .tried
            case let text where text.hasPrefix("<!-- not tried:"):
                guard let reason = Self.inside(text, after: "<!-- not tried:"), !reason.isEmpty
                else { throw failure(lines.number, "no reason") }
                reasonsNotToTry.append(reason)
                mark = .notTried
            case let text where text.hasPrefix("<!-- file:"):
                mark = .file
            case let text where text.hasPrefix("<!-- needs:"):
                needs += (Self.inside(text, after: "<!-- needs:") ?? "").split(separator: " ")
                    .map(String.init)
            case let first where first == "<!-- expect" || first.hasPrefix("<!-- expect:"):
                let start = lines.number
                let text =
                    first == "<!-- expect"
                    ? lines.upTo { $0 == "-->" } : Self.inside(first, after: "<!-- expect:")
                guard let text, !blocks.isEmpty else {
                    throw failure(start, "expect without a block, or without an end")
                }
                blocks[blocks.count - 1].expectations += text.split(separator: "\n").map(
                    String.init)
                expectsShown = true
            case let text where text.hasPrefix("<!-- try") || text.hasPrefix("<!-- expect"):
                throw failure(lines.number, "no mark that is known: \(text)")
            default: break
            }
        }
        if mark == .tried { throw failure(lines.number, "a mark without a block") }
        if blocks.isEmpty && reasonsNotToTry.isEmpty {
            throw failure(1, "nothing is tried, and no reason is given")
        }
        if !blocks.isEmpty && blocks.allSatisfy({ $0.expectations.isEmpty }) {
            throw failure(1, "nothing is expected of what is tried")
        }
        for block in blocks {
            guard let shown = block.shown else { continue }
            if let missing = try Self.firstMissing(block.expectations, in: shown) {
                throw failure(block.line, "the output that is shown lacks /\(missing)/")
            }
        }
    }

    /// What a comment of one line says; nil where it has no end.
    private static func inside(_ comment: String, after start: String) -> String? {
        guard comment.hasSuffix("-->") else { return nil }
        return comment.dropFirst(start.count).dropLast(3).trimmingCharacters(in: .whitespaces)
    }

    private enum Mark { case tried, notTried, file }

    private func failure(_ line: Int, _ text: String) -> ShimBuild.Failure {
        ShimBuild.Failure(description: "\(name):\(line): \(text)")
    }

    /// The first of `expectations` that no line matches behind the line of the one before it.
    static func firstMissing(_ expectations: [String], in output: String) throws -> String? {
        var rest = output.split(separator: "\n")[...]
        for expectation in expectations {
            let expression = try Regex(expectation)
            guard let index = rest.firstIndex(where: { $0.contains(expression) }) else {
                return expectation
            }
            rest = rest[(index + 1)...]
        }
        return nil
    }
}

/// The lines of a text, one after the other.
private struct Lines {
    private let lines: [Substring]
    /// Of the line that was read last, from 1.
    private(set) var number = 0

    init(_ text: String) { lines = text.split(separator: "\n", omittingEmptySubsequences: false) }

    mutating func next() -> Substring? {
        guard number < lines.count else { return nil }
        number += 1
        return lines[number - 1]
    }

    /// What stands before the line that is an end, which is read, too; nil if there is none.
    mutating func upTo(isEnd: (String) -> Bool) -> String? {
        var text = ""
        while let line = next() {
            if isEnd(line.trimmingCharacters(in: .whitespaces)) { return text }
            text += line + "\n"
        }
        return nil
    }
}
