// SPDX-License-Identifier: Apache-2.0

/// Text and arguments as mdoc wants them written.
enum Roff {
    /// A paragraph: each sentence begins on a line of its own, no line is long, and no word is taken
    /// for a macro.
    static func prose(_ text: String) -> String {
        var lines = [""]
        for word in text.split(whereSeparator: \.isWhitespace) {
            var line = lines.removeLast()
            if !line.isEmpty, line.count + 1 + word.count > width {
                lines.append(line)
                line = ""
            }
            lines.append(line.isEmpty ? String(word) : "\(line) \(word)")
            if word.hasSuffix(".") { lines.append("") }
        }
        return lines.filter { !$0.isEmpty }.map { line in
            guarded(line.split(separator: " ").map(escaped).joined(separator: " "))
        }.joined(separator: "\n")
    }

    private static let width = 76

    private static func escaped(_ word: Substring) -> String {
        let text = word.replacing("\\", with: "\\e").replacing("`", with: "\\(ga")
        // A name is not to be broken over two lines, and an option to be copied from the page.
        let isName = word.contains { "_/=".contains($0) } || word.dropLast().contains(".")
        guard isName || word.contains("--") || word.hasPrefix("-") else { return String(text) }
        let whole = text.replacing("-", with: "\\-")
        return isName ? "\\%\(whole)" : String(whole)
    }

    /// A line that looks as it is, in a literal display: what a shell would take.
    static func literal(_ line: String) -> String {
        let signs: [Character: String] = [
            "\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti",
        ]
        return guarded(line.map { signs[$0] ?? String($0) }.joined())
    }

    /// In a synopsis, as `Op Fl -json`.
    static func synopsis(_ argument: ToolInfo.Argument) -> String {
        let macros = macros(argument)
        let dots = argument.isRepeating && !macros.hasSuffix("...") ? " ..." : ""
        return (argument.isOptional ? "Op " : "") + macros + dots
    }

    /// The names and the value, as `Fl h , -help` or `Fl -mode Ar mode`.
    static func macros(_ argument: ToolInfo.Argument) -> String {
        let value = "Ar \(argument.valueName ?? "value")"
        let names = (argument.names ?? []).map { $0.kind == "long" ? "-\($0.name)" : $0.name }
        let flags = "Fl " + names.joined(separator: " , ")
        return switch argument.kind {
        case .flag: flags
        case .option: "\(flags) \(value)"
        case .positional where argument.parsingStrategy == "postTerminator": "Fl - \(value) ..."
        case .positional: value
        }
    }

    /// A line that starts with a dot or a quote would be a request.
    private static func guarded(_ line: String) -> String {
        line.hasPrefix(".") || line.hasPrefix("'") ? "\\&\(line)" : line
    }
}
