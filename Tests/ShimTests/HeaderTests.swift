// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// The C headers that programs of others include: strict C and C++, and every name explained.
@Suite(.enabled(if: CHeader.canBeChecked, "needs clang of the Swift toolchain in PATH"))
struct HeaderTests {
    static let headers = [
        "Sources/CReclaim/include/ptreclaim.h", "Sources/CStatsPage/include/stats_page.h",
    ]

    @Test("No compiler has anything to say", arguments: headers, CHeader.Language.allCases)
    func warnings(header: String, language: CHeader.Language) async throws {
        let outcome = try await CHeader(header).check(language)
        #expect(outcome.status == 0 && outcome.errors.isEmpty, "\(outcome)")
    }

    @Test("A program may include both", arguments: CHeader.Language.allCases)
    func together(language: CHeader.Language) async throws {
        let includes = Self.headers.map {
            "#include \"\(PackageFiles.root.appending(path: $0).path())\"\n"
        }
        for order in [includes, includes.reversed()] {
            let outcome = try await CHeader(text: order.joined()).check(language)
            #expect(outcome.status == 0 && outcome.errors.isEmpty, "\(outcome)")
        }
    }

    @Test("Every function, struct, field and enum value is explained", arguments: headers)
    func explained(header: String) async throws {
        let declarations = try await CHeader(header).declarations()
        #expect(declarations.count > 25, "the reading itself works")
        #expect(declarations.filter { !$0.isExplained }.map(\.name).isEmpty)
    }

    @Test("What is not explained, or wrongly, is found")
    func mistakes() async throws {
        let header = try CHeader(
            text: """
                #include <stdint.h>
                /// A box.
                struct ptreclaim_box {
                    /// In mm.
                    uint32_t height;
                    uint64_t weight;
                };
                /// Opens it.
                /// \\param lid the lid.
                int ptreclaim_open(struct ptreclaim_box *box);
                enum { PTRECLAIM_BOX = 1 };
                """)
        #expect(
            try await header.declarations().filter { !$0.isExplained }.map(\.name)
                == ["weight", "an enum", "PTRECLAIM_BOX"])
        let outcome = try await header.check(.c17)
        #expect(outcome.status != 0)
        #expect(outcome.errors.contains("parameter 'lid' not found"))
    }
}

/// A header, and what clang makes of it.
struct CHeader {
    enum Language: String, CaseIterable {
        case c17, cxx17

        var options: [String] {
            switch self {
            case .c17: ["-x", "c", "-std=c17"]
            case .cxx17: ["-x", "c++", "-std=c++17"]
            }
        }
    }

    struct Declaration {
        let name: String
        let isExplained: Bool
    }

    static let canBeChecked =
        (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":").contains {
            FileManager.default.isExecutableFile(atPath: "\($0)/clang")
        }

    private let url: URL
    private let directory: TemporaryDirectory?

    init(_ path: String) {
        url = PackageFiles.root.appending(path: path)
        directory = nil
    }

    init(text: String) throws {
        let directory = try TemporaryDirectory()
        url = directory.url.appending(path: "header.h")
        self.directory = directory
        try Data(text.utf8).write(to: url)
    }

    /// Compiles it alone.
    func check(_ language: Language) async throws -> Victim.Outcome {
        try await clang(
            language.options + [
                "-Wall", "-Wextra", "-pedantic", "-Wdocumentation", "-Werror",
            ])
    }

    /// What the header declares. Fields that a list of names and meanings expands to count as
    /// explained.
    func declarations() async throws -> [Declaration] {
        let outcome = try await clang(["-x", "c", "-std=c17", "-Xclang", "-ast-dump=json"])
        try #require(outcome.status == 0, "\(outcome)")
        return try JSONDecoder().decode(Node.self, from: Data(outcome.output.utf8))
            .children.filter(\.isOurs).flatMap { [$0] + $0.children }
            .compactMap(\.declaration)
    }

    private func clang(_ options: [String]) async throws -> Victim.Outcome {
        var environment = ProcessInfo.processInfo.environment
        environment["LD_PRELOAD"] = nil
        return try await Victim.run(
            ["/usr/bin/env", "clang"] + options + ["-fsyntax-only", url.path()],
            environment: environment)
    }

    /// A node of clang's syntax tree.
    private struct Node: Decodable {
        struct Place: Decodable {
            struct Expansion: Decodable {}
            let expansionLoc: Expansion?
        }

        let kind: String
        let name: String?
        let loc: Place?
        let inner: [Node]?

        var children: [Node] { inner ?? [] }

        /// Not of a header of the system.
        var isOurs: Bool {
            ([self] + children).contains {
                $0.declaration != nil && $0.name?.lowercased().hasPrefix("ptreclaim") == true
            }
        }

        var declaration: Declaration? {
            switch kind {
            case "FunctionDecl", "EnumDecl", "EnumConstantDecl", "RecordDecl", "FieldDecl",
                "VarDecl":
                Declaration(
                    name: name ?? "an enum",
                    isExplained: loc?.expansionLoc != nil
                        || children.contains { $0.kind == "FullComment" })
            default: nil
            }
        }
    }
}
