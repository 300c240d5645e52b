// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport

/// The documentation as `Documentation/build-docc` writes it.
struct DocumentationSite {
    let directory: TemporaryDirectory

    /// Builds the site of the package at `root`, from the modules that these tests are built with.
    init(of root: URL = PackageFiles.root) async throws {
        directory = try TemporaryDirectory()
        let outcome = try await Self.script(in: root, [directory.url.path()])
        guard outcome.status == 0 else { throw Failure(description: "\(outcome)") }
    }

    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// Runs the script in the environment of a build from a shell.
    static func script(
        in root: URL = PackageFiles.root, _ arguments: [String],
        build: String = PackageFiles.executable("")
    ) async throws -> Victim.Outcome {
        var environment = ProcessInfo.processInfo.environment
        environment["LD_PRELOAD"] = nil
        environment["BUILD"] = build
        // By bash: a child that another test is just forking may still hold a copy open for writing,
        // and the kernel would not execute it (ETXTBSY).
        return try await Victim.run(
            ["/usr/bin/env", "bash", root.appending(path: "Documentation/build-docc").path()]
                + arguments,
            environment: environment, limit: .seconds(300))
    }

    /// What the script needs of this package, copied so that a test may spoil it.
    static func copyOfSources() throws -> TemporaryDirectory {
        let copy = try TemporaryDirectory()
        for path in ["Documentation", "Sources/PTReclaim/PTReclaim.docc"] {
            let target = copy.url.appending(path: path)
            try FileManager.default.createDirectory(
                at: target.deletingLastPathComponent(), withIntermediateDirectories: true)
            try FileManager.default.copyItem(
                at: PackageFiles.root.appending(path: path), to: target)
        }
        return copy
    }

    static let canBeBuilt =
        (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":").contains {
            FileManager.default.isExecutableFile(atPath: "\($0)/docc")
        }

    /// What a client of the product sees.
    func symbols() throws -> [SymbolGraph.Symbol] {
        try SymbolGraph(
            Data(contentsOf: directory.url.appending(path: "PTReclaim.symbols.json"))
        ).symbols
    }

    func pages() throws -> [DocumentationPage] {
        let data = directory.url.appending(path: "data/documentation")
        let paths = try FileManager.default.subpathsOfDirectory(atPath: data.path())
        return try paths.filter { $0.hasSuffix(".json") }.map {
            try DocumentationPage(Data(contentsOf: data.appending(path: $0)))
        }
    }
}

/// The compiler's list of public symbols.
struct SymbolGraph: Decodable {
    struct Symbol: Decodable {
        struct Identifier: Decodable { let precise: String }
        struct Fragment: Decodable { let spelling: String }
        struct Comment: Decodable {
            struct Line: Decodable { let text: String }
            let lines: [Line]
        }
        struct Location: Decodable { let uri: String }

        let identifier: Identifier
        let pathComponents: [String]
        let declarationFragments: [Fragment]
        let docComment: Comment?
        /// Nil for what the compiler makes, such as `init(rawValue:)`.
        let location: Location?

        var name: String { pathComponents.joined(separator: ".") }
    }

    let symbols: [Symbol]

    init(_ json: Data) throws { self = try JSONDecoder().decode(Self.self, from: json) }
}

extension [SymbolGraph.Symbol] {
    /// Names of symbols that stand in a source file without a word about them.
    var undocumented: [String] {
        filter { symbol in
            symbol.location != nil
                && !(symbol.docComment?.lines.contains { !$0.text.isEmpty } ?? false)
        }.map(\.name)
    }

    /// Names of functions that throw and do not say what.
    var throwingSilently: [String] {
        filter { symbol in
            symbol.declarationFragments.contains { $0.spelling == "throws" }
                && !(symbol.docComment?.lines.contains { $0.text.hasPrefix("- Throws: ") } ?? false)
        }.map(\.name)
    }

    /// Names of symbols that no page lists under a heading of ours.
    func uncurated(in pages: [DocumentationPage]) -> [String] {
        let listed = Set(pages.flatMap(\.listed))
        let curated = Set(
            pages.filter { listed.contains($0.identifier.url) }.compactMap(\.metadata.externalID))
        return filter { !curated.contains($0.identifier.precise) }.map(\.name)
    }
}

/// A page of the site, as docc renders it for its reader.
struct DocumentationPage: Decodable {
    struct Identifier: Decodable { let url: String }
    struct Metadata: Decodable {
        let title: String
        /// The symbol's name in the symbol graph; nil for articles.
        let externalID: String?
    }
    struct Inline: Decodable { let type: String }
    struct TopicSection: Decodable {
        let identifiers: [String]
        /// True where docc has grouped by kind what nobody has put anywhere.
        let generated: Bool?
    }

    let identifier: Identifier
    let metadata: Metadata
    let abstract: [Inline]?
    private let topicSections: [TopicSection]?

    init(_ json: Data) throws { self = try JSONDecoder().decode(Self.self, from: json) }

    /// Pages that this one lists under a heading of ours.
    var listed: [String] {
        (topicSections ?? []).filter { $0.generated != true }.flatMap(\.identifiers)
    }
}
