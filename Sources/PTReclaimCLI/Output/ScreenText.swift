// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import Rainbow

/// Text for a screen: what it may hold, and how wide it is.
enum ScreenText {
    /// Whether what is not ASCII may be written: the first of the three variables that is set decides.
    static let isUTF8: Bool = {
        let environment = ProcessInfo.processInfo.environment
        let name = ["LC_ALL", "LC_CTYPE", "LANG"].lazy.compactMap { environment[$0] }
            .first { !$0.isEmpty }
        let codeset = name?.lowercased().filter { $0 != "-" } ?? ""
        return codeset.contains("utf8")
    }()

    /// `text` without anything that a terminal would obey, or could not show: a question mark stands
    /// for each. A process names itself as it likes.
    static func printable(_ text: String) -> String {
        var result = String.UnicodeScalarView()
        for scalar in text.unicodeScalars {
            result.append(isPrintable(scalar) ? scalar : "?")
        }
        return String(result)
    }

    private static func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
        if scalar.isASCII { return scalar.value >= 0x20 && scalar.value < 0x7f }
        guard isUTF8 else { return false }
        return switch scalar.properties.generalCategory {
        case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator,
            .paragraphSeparator:
            false
        default: true
        }
    }

    /// Columns that `character` takes, or more: two wherever a terminal might take two.
    static func columns(of character: Character) -> Int {
        guard let first = character.unicodeScalars.first else { return 0 }
        let isNarrow =
            first.value < 0x1100 || (0x2010...0x2044).contains(first.value)
            || (0x2500...0x259f).contains(first.value)
        return isNarrow && character.unicodeScalars.count == 1 ? 1 : 2
    }

    static func columns(of text: String) -> Int { text.reduce(0) { $0 + columns(of: $1) } }

    /// `text` in at most `limit` columns. What is cut off leaves a sign.
    static func clipped(_ text: String, to limit: Int) -> String {
        guard columns(of: text) > limit else { return text }
        guard limit > 0 else { return "" }
        var result = ""
        var left = limit - 1
        for character in text {
            left -= columns(of: character)
            guard left >= 0 else { break }
            result.append(character)
        }
        return result + (isUTF8 ? "…" : ">")
    }

    /// As many of `parts`, from the first on, as fit `limit` columns with two spaces between.
    static func joined(_ parts: [String], to limit: Int) -> String {
        var result = ""
        for part in parts {
            let longer = result.isEmpty ? part : "\(result)  \(part)"
            guard columns(of: longer) <= limit else { break }
            result = longer
        }
        return result
    }

    /// `text` in lines of at most `limit` columns, broken between words.
    static func wrapped(_ text: String, to limit: Int) -> [String] {
        var lines: [String] = []
        for word in text.split(separator: " ") {
            if let last = lines.last, columns(of: last) + 1 + columns(of: String(word)) <= limit {
                lines[lines.count - 1] = "\(last) \(word)"
            } else {
                lines.append(clipped(String(word), to: limit))
            }
        }
        return lines
    }
}

/// One line of a screen, in pieces that look alike.
struct ScreenLine: ExpressibleByStringInterpolation {
    /// A colour never says anything by itself: what is a warning also has a sign or a word.
    enum Style {
        case plain, heading, faint, chart, warning
    }

    private var pieces: [(text: String, style: Style)]

    init(_ text: String, _ style: Style = .plain) { pieces = [(text, style)] }

    init(stringLiteral text: String) { self.init(text) }

    static func + (left: ScreenLine, right: ScreenLine) -> ScreenLine {
        var line = left
        line.pieces += right.pieces
        return line
    }

    /// The line, at most `columns` wide.
    func text(columns: Int, isColored: Bool) -> String {
        var left = columns
        var result = ""
        for (text, style) in pieces where left > 0 {
            let clipped = ScreenText.clipped(text, to: left)
            left -= ScreenText.columns(of: clipped)
            result += isColored ? Self.colored(clipped, style) : clipped
        }
        return result
    }

    private static func colored(_ text: String, _ style: Style) -> String {
        switch style {
        case .plain: text
        case .heading: text.bold
        case .faint: text.dim
        case .chart: text.cyan
        case .warning: text.yellow
        }
    }
}
