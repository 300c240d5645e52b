// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import Mustache

/// ptreclaim(1) in mdoc, from what the commands say of themselves and the library of its options.
struct ManualPage {
    private let page: Page

    init(_ tool: ToolInfo, version: String, date: Date) {
        let root = tool.command
        let commands = (root.subcommands ?? []).filter {
            $0.shouldDisplay && $0.commandName != "help"
        }
        page = Page(
            date: Self.day(date), name: root.commandName, version: version,
            abstract: root.abstract.map { $0.trimmingCharacters(in: ["."]) } ?? "",
            paragraphs: root.paragraphs.filter { !$0.hasPrefix("Exit status:") }.map(
                Paragraph.init),
            commands: commands.map(Command.init),
            statuses: ExitStatus.allCases.map {
                Item(title: "\($0.rawValue)", text: Roff.prose($0.meaning))
            },
            options: LibraryOption.all.map { Item($0) },
            examples: ([root] + commands).filter { !$0.examples.isEmpty }.map(Example.init))
    }

    func text() throws -> String { try MustacheTemplate(string: Self.template).render(page) }

    /// As mdoc wants it; a package that is built again gets the same page by SOURCE_DATE_EPOCH.
    private static func day(_ date: Date) -> String {
        let format = DateFormatter()
        format.locale = Locale(identifier: "en_US_POSIX")
        format.timeZone = .gmt
        format.dateFormat = "MMMM d, yyyy"
        return format.string(from: date)
    }

    // MARK: What the template names

    private struct Page {
        let date: String
        let name: String
        let version: String
        let abstract: String
        let paragraphs: [Paragraph]
        let commands: [Command]
        let statuses: [Item]
        let options: [Item]
        let examples: [Example]
    }

    private struct Paragraph {
        let text: String

        init(_ text: String) { self.text = Roff.prose(text) }
    }

    private struct Command {
        let name: String
        let synopsis: [String]
        let abstract: String
        let paragraphs: [Paragraph]
        let arguments: [Item]

        init(_ command: ToolInfo.Command) {
            name = command.commandName
            synopsis = command.ownArguments.map(Roff.synopsis)
            abstract = Roff.prose(command.abstract ?? "")
            paragraphs = command.paragraphs.map(Paragraph.init)
            arguments = command.ownArguments.map { Item($0) }
        }
    }

    private struct Item {
        let title: String
        let text: String

        init(title: String, text: String) {
            self.title = title
            self.text = text
        }

        init(_ argument: ToolInfo.Argument) {
            var sentences = [argument.abstract ?? ""]
            // ArgumentParser shows these behind the text, too.
            if let values = argument.allValues {
                sentences.append("Values: \(values.joined(separator: ", ")).")
            }
            if let value = argument.defaultValue { sentences.append("Default: \(value).") }
            self.init(
                title: Roff.macros(argument), text: Roff.prose(sentences.joined(separator: " ")))
        }

        init(_ option: LibraryOption) {
            var sentences = ["\(option.meaning)."]
            if let values = option.values { sentences.append("Values: \(values).") }
            if let value = option.fallback { sentences.append("Default: \(value).") }
            self.init(title: option.variable, text: Roff.prose(sentences.joined(separator: " ")))
        }
    }

    private struct Example {
        let title: String
        let lines: [String]

        init(_ command: ToolInfo.Command) {
            title = Roff.prose(command.abstract ?? "")
            lines = command.examples.map(Roff.literal)
        }
    }
}
