// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// The pages of Documentation/howto, run as they are written.
///
/// All blocks of a page are one script of bash, under `set -eu`, on a copy of this machine that is
/// thrown away (`Tests/Lab/throw-away`). It starts in a directory that looks like a clone after
/// README's build: links to all that is in this one, and `.build/release` with the library and the
/// tool.
extension ShimTests {
    struct HowToTests {
        @Test("What a page says, comes out", arguments: HowToPage.names)
        func page(name: String) async throws {
            let page = try HowToPage(named: name)
            if page.blocks.isEmpty { return }
            let missing = page.needs.filter { !Self.has($0) }
            // Of one case that is cancelled nothing is said, so this says it.
            if !missing.isEmpty {
                print("skipped: \(name) needs \(missing.joined(separator: " "))")
                try Test.cancel("needs \(missing)")
            }
            try await Self.run(page)
        }

        @Test("There are pages") func pages() { #expect(HowToPage.names.contains("redis.md")) }

        /// What a page needs: a command, a file, or `fence`, the modes that free behind one.
        private static func has(_ need: String) -> Bool {
            switch need {
            case "fence": KernelAbilities.canFence
            case let path where path.hasPrefix("/"): FileManager.default.fileExists(atPath: path)
            default: PackageFiles.installed(need) != nil
            }
        }

        /// Runs the page; throws a `ShimBuild.Failure` with what came out where that is not what is
        /// expected.
        private static func run(_ page: HowToPage, limit: Duration = .seconds(240)) async throws {
            let mark = "== \(UUID().uuidString)"
            // Copies: who is not root on the page must be able to read them.
            let start = """
                set -eu
                exec 2>&1
                mkdir -p /srv/ptreclaim/.build/release
                cd /srv/ptreclaim
                ln -s '\(PackageFiles.root.path())'/* .
                cp '\(try await ShimBuild.release().path())' \
                    '\(PackageFiles.executable("ptreclaim"))' .build/release
                echo '\(mark)'

                """
            let outcome = try await Victim.run(
                [
                    PackageFiles.root.appending(path: "Tests/Lab/throw-away").path(), "bash", "-c",
                    page.blocks.reduce(start) { "\($0)\($1.commands)echo '\(mark)'\n" },
                ], environment: ["HOME": "/root", "LANG": "C.UTF-8"], limit: limit)
            if outcome.status == 77, outcome.output.hasPrefix("skipped: ") {
                print("\(page.name): \(outcome.output)")
                try Test.cancel("\(outcome.output)")
            }
            let parts = outcome.output.components(separatedBy: mark + "\n").dropFirst()
            let isAsked = ProcessInfo.processInfo.environment["PTRECLAIM_SHOW_PAGES"] != nil
            for (block, output) in zip(page.blocks, parts) {
                if isAsked { print("\(page.name):\(block.line):\n\(output)") }
                if let missing = try HowToPage.firstMissing(block.expectations, in: output) {
                    throw ShimBuild.Failure(
                        description: "\(page.name):\(block.line): /\(missing)/ is not in\n\(output)"
                    )
                }
            }
            guard outcome.status == 0, parts.count == page.blocks.count + 1 else {
                let line = page.blocks.dropFirst(parts.count - 1).first?.line ?? 0
                throw ShimBuild.Failure(description: "\(page.name):\(line): \(outcome)")
            }
        }

        // What is wrong must be found: pages that are wrong on purpose.

        private static let tried = "<!-- try -->\n```sh\necho one\necho two; N=3\n```\n"

        @Test("A page with a block that is not marked, or with a wrong mark, is refused")
        func wrongPages() throws {
            let wrong = [
                "": "wrong.md:1: nothing is tried",
                "```sh\ntrue\n```\n": "wrong.md:2: commands without a mark",
                "<!-- try -->\n```sh\ntrue\n": "wrong.md:3: a block has no end",
                "<!-- try -->\n": "a mark without a block",
                "<!-- try it -->\n": "no mark that is known",
                "<!-- try -->\n```\ntext\n```\n": "a mark before a block that is not sh",
                "<!-- not tried: -->\n```sh\ntrue\n```\n": "no reason",
                "<!-- expect\none\n-->\n": "expect without a block",
                Self.tried: "nothing is expected",
                Self.tried + "<!-- expect\n^two$\n-->\n```\none\n```\n": "lacks /^two$/",
                Self.tried + "<!-- expect\ntwo\none\n-->\n```\none\ntwo\n```\n": "lacks /one/",
            ]
            for (text, reason) in wrong {
                let failure = #expect(throws: ShimBuild.Failure.self) {
                    try HowToPage("wrong.md", text: text)
                }
                #expect(
                    failure?.description.contains(reason) == true,
                    "\(String(describing: failure)), of \(text)")
            }
        }

        @Test("A page that does not do what it says is found")
        func liars() async throws {
            let checked = Self.tried + "<!-- expect\none\ntwo\n-->\n"
            // Blocks are one script, and later blocks know the variables of the first.
            let second = "<!-- try -->\n```sh\necho $((N + 1))\n```\n"
            try await Self.run(
                HowToPage("true.md", text: checked + second + "<!-- expect\n^4$\n-->\n"))
            let liars = [
                checked + second + "<!-- expect\n^5$\n-->\n": "liar.md:12: /^5$/ is not in",
                checked + second.replacing("echo", with: "false"): "liar.md:12: status 1",
                checked + second.replacing("N", with: "UNSET"): "liar.md:12: status 1",
            ]
            for (text, reason) in liars {
                let page = try HowToPage("liar.md", text: text)
                let failure = await #expect(throws: ShimBuild.Failure.self) {
                    try await Self.run(page)
                }
                #expect(
                    failure?.description.contains(reason) == true,
                    "\(String(describing: failure)), of \(text)")
            }
        }
    }
}
