// SPDX-License-Identifier: Apache-2.0

/// Metrics in Prometheus's text format: each family once, with all its samples.
struct Exposition {
    enum Kind: String {
        case counter, gauge, histogram
    }

    struct Labels {
        /// In this order.
        let pairs: [(name: String, value: String)]

        func adding(_ name: String, _ value: String) -> Labels {
            Labels(pairs: pairs + [(name, value)])
        }
    }

    private struct Family {
        let help: String
        let kind: Kind
        var samples: [String] = []
    }

    private var families: [String: Family] = [:]
    private var order: [String] = []

    /// - Parameters:
    ///   - value: in base units, bytes or seconds.
    ///   - suffix: which of the samples of a histogram this is.
    mutating func add(
        _ name: String, _ kind: Kind, _ help: String, _ labels: Labels, _ value: String,
        suffix: String = ""
    ) {
        if families[name] == nil {
            families[name] = Family(help: help, kind: kind)
            order.append(name)
        }
        families[name]?.samples.append("\(name)\(suffix)\(Self.text(labels)) \(value)")
    }

    /// Ends with a newline unless it is empty.
    var text: String {
        order.compactMap { name in families[name].map { (name, $0) } }.map { name, family in
            let head = [
                "# HELP \(name) \(Self.escaped(family.help))", "# TYPE \(name) \(family.kind)",
            ]
            return (head + family.samples).map { "\($0)\n" }.joined()
        }.joined()
    }

    private static func text(_ labels: Labels) -> String {
        guard !labels.pairs.isEmpty else { return "" }
        let pairs = labels.pairs.map { name, value in
            "\(name)=\"\(escaped(value).replacing("\"", with: "\\\""))\""
        }
        return "{\(pairs.joined(separator: ","))}"
    }

    private static func escaped(_ text: String) -> String {
        // Who looks at it on a terminal must not obey a name.
        let harmless = text.unicodeScalars.map { scalar in
            scalar.properties.generalCategory == .control && scalar != "\n" ? "\u{fffd}" : scalar
        }
        return String(String.UnicodeScalarView(harmless))
            .replacing("\\", with: "\\\\").replacing("\n", with: "\\n")
    }
}
