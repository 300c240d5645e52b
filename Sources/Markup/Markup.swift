// SPDX-License-Identifier: Apache-2.0

public import Mustache

/// Text in HTML that is XML, too. The template library's own escaping looks at characters, and so
/// misses a `<` with a combining mark behind it; and no XML document may have control characters.
public struct Markup: MustacheContentType {
    /// For templates that begin with {{% CONTENT_TYPE: MARKUP}}.
    public static func register() {
        MustacheContentTypes.register(Markup(), named: "MARKUP")
    }

    public func escapeText(_ text: String) -> String { Self.escaped(text) }

    public static func escaped(_ text: String) -> String {
        var result = ""
        result.reserveCapacity(text.utf8.count)
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            case "'": result += "&#39;"
            case "\t", "\n", "\r": result.unicodeScalars.append(scalar)
            case "\u{0}"..<" ", "\u{7F}"..."\u{9F}", "\u{FFFE}", "\u{FFFF}": result += "\u{FFFD}"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
