// SPDX-License-Identifier: Apache-2.0

internal import Foundation

/// What ArgumentParser says of a command line (`--experimental-dump-help`), as far as the manual
/// needs it. Its own types for this are in no product.
struct ToolInfo: Decodable {
    let command: Command

    struct Command: Decodable {
        let commandName: String
        let abstract: String?
        let discussion: String?
        let shouldDisplay: Bool
        let arguments: [Argument]?
        let subcommands: [Command]?
    }

    struct Argument: Decodable {
        struct Name: Decodable {
            let kind: String
            let name: String
        }

        let kind: Kind
        let abstract: String?
        let defaultValue: String?
        let allValues: [String]?
        let isOptional: Bool
        let isRepeating: Bool
        let names: [Name]?
        let parsingStrategy: String
        let shouldDisplay: Bool
        let valueName: String?
    }

    enum Kind: String, Decodable {
        case positional, option, flag
    }

    init(json: String) throws {
        self = try JSONDecoder().decode(ToolInfo.self, from: Data(json.utf8))
    }
}

extension ToolInfo.Command {
    /// The paragraphs of the discussion, without the examples.
    var paragraphs: [String] { blocks.filter { !$0.hasPrefix(Self.examplesTitle) } }

    /// Command lines.
    var examples: [String] {
        blocks.filter { $0.hasPrefix(Self.examplesTitle) }.flatMap { block in
            block.split(separator: "\n").dropFirst().map {
                $0.trimmingCharacters(in: .whitespaces)
            }
        }
    }

    /// Without what every command has.
    var ownArguments: [ToolInfo.Argument] {
        (arguments ?? []).filter {
            $0.shouldDisplay && $0.valueName != "help" && $0.valueName != "version"
        }
    }

    private static let examplesTitle = "Examples:"

    private var blocks: [String] {
        (discussion ?? "").components(separatedBy: "\n\n").filter { !$0.isEmpty }
    }
}
