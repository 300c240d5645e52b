// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// The documentation of the product: whole, in order, and built without a warning.
@Suite(.enabled(if: DocumentationSite.canBeBuilt, "needs docc of the Swift toolchain in PATH"))
struct DocumentationTests {
    private static let built = Task { try await DocumentationSite() }

    @Test("Every public symbol has a docstring, and what throws says what")
    func docstrings() async throws {
        let symbols = try await Self.built.value.symbols()
        #expect(symbols.count > 150, "the product and what it exports of ReclaimCore")
        #expect(symbols.undocumented.isEmpty)
        #expect(symbols.throwingSilently.isEmpty)
    }

    @Test("Every public symbol stands under a heading of ours, and every page has a summary")
    func curation() async throws {
        let site = try await Self.built.value
        let pages = try site.pages()
        #expect(try site.symbols().uncurated(in: pages).isEmpty)
        let withoutSummary = pages.filter { ($0.abstract ?? []).isEmpty }.map(\.metadata.title)
        #expect(withoutSummary.isEmpty)
        let articles = ["What waste is", "Freeing tables that are not yours"]
        #expect(Set(pages.map(\.metadata.title)).isSuperset(of: articles))
    }

    @Test("A symbol without a docstring is found, and one that throws without a word about it")
    func silence() throws {
        let graph = try SymbolGraph(
            Data(
                """
                {"symbols": [
                  {"identifier": {"precise": "s:1"}, "pathComponents": ["Box", "open()"],
                   "declarationFragments": [{"spelling": "func"}, {"spelling": "throws"}],
                   "docComment": {"lines": [{"text": "Opens the box."}]},
                   "location": {"uri": "file:///Box.swift"}},
                  {"identifier": {"precise": "s:2"}, "pathComponents": ["Box", "lid"],
                   "declarationFragments": [{"spelling": "var"}],
                   "location": {"uri": "file:///Box.swift"}},
                  {"identifier": {"precise": "s:3"}, "pathComponents": ["Box", "key"],
                   "declarationFragments": [{"spelling": "var"}],
                   "docComment": {"lines": [{"text": ""}]},
                   "location": {"uri": "file:///Box.swift"}},
                  {"identifier": {"precise": "s:4"}, "pathComponents": ["Box", "init(rawValue:)"],
                   "declarationFragments": [{"spelling": "init"}]}
                ]}
                """.utf8))
        #expect(graph.symbols.undocumented == ["Box.lid", "Box.key"])
        #expect(graph.symbols.throwingSilently == ["Box.open()"])
    }

    @Test("A symbol that is taken out of its page's topics is found")
    func missingTopic() async throws {
        let copy = try DocumentationSite.copyOfSources()
        try edit("Call/KeptReason.md", of: copy, replacing: "- ``forking``\n", with: "")
        let site = try await DocumentationSite(of: copy.url)
        #expect(try site.symbols().uncurated(in: site.pages()) == ["KeptReason.forking"])
    }

    @Test("A link that leads nowhere fails the build, and is named")
    func deadLink() async throws {
        let copy = try DocumentationSite.copyOfSources()
        try edit(
            "Articles/WhatWasteIs.md", of: copy, replacing: "``Span``", with: "``Spam``")
        let target = try TemporaryDirectory()
        let outcome = try await DocumentationSite.script(in: copy.url, [target.url.path()])
        #expect(outcome.status != 0)
        #expect(outcome.errors.contains("Spam"))
    }

    @Test("Wrong use of the script ends with a reason, and nothing is written over")
    func wrongUse() async throws {
        let none = try await DocumentationSite.script([])
        #expect(none.status == 2 && none.errors.contains("usage:"))

        let own = try TemporaryDirectory()
        let note = own.url.appending(path: "note")
        try Data("mine".utf8).write(to: note)
        let full = try await DocumentationSite.script([own.url.path()])
        #expect(full.status == 1 && full.errors.contains("name another directory"))
        #expect(try Data(contentsOf: note) == Data("mine".utf8))

        let empty = try TemporaryDirectory()
        let unbuilt = try await DocumentationSite.script(
            [empty.url.path()], build: empty.url.path())
        #expect(unbuilt.status == 1 && unbuilt.errors.contains("holds no build"))
    }

    private func edit(
        _ page: String, of copy: TemporaryDirectory, replacing original: String,
        with replacement: String
    ) throws {
        let file = copy.url.appending(path: "Sources/PTReclaim/PTReclaim.docc/\(page)")
        let text = try String(contentsOf: file, encoding: .utf8)
        try #require(text.components(separatedBy: original).count == 2)
        try text.replacing(original, with: replacement)
            .write(to: file, atomically: true, encoding: .utf8)
    }
}
