// SPDX-License-Identifier: Apache-2.0

import Foundation
import Markup

extension Markup {
    static func element(
        _ name: String, _ attributes: KeyValuePairs<String, String> = [:], _ content: String = ""
    ) -> String {
        let written = attributes.map { " \($0.key)=\"\(escaped($0.value))\"" }.joined()
        return content.isEmpty ? "<\(name)\(written)/>" : "<\(name)\(written)>\(content)</\(name)>"
    }
}

/// What the drawings have in common. Lengths are in units of the view box; what has a colour has a
/// class, and the page's style gives the colour, by day, by night and on paper.
enum Drawing {
    static func text(
        _ words: String, _ x: Double, _ y: Double, _ kind: String = "label",
        anchor: String = "start"
    ) -> String {
        Markup.element(
            "text",
            ["x": number(x), "y": number(y), "class": kind, "text-anchor": anchor],
            Markup.escaped(words))
    }

    static func line(
        _ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, _ kind: String
    ) -> String {
        Markup.element(
            "line",
            [
                "x1": number(x1), "y1": number(y1), "x2": number(x2), "y2": number(y2),
                "class": kind,
            ])
    }

    static func box(
        _ x: Double, _ y: Double, _ width: Double, _ height: Double, _ kind: String
    ) -> String {
        Markup.element(
            "rect",
            [
                "x": number(x), "y": number(y), "width": number(max(0, width)),
                "height": number(max(0, height)), "class": kind,
            ])
    }

    /// - Parameter id: of the drawing, unique on the page.
    static func picture(
        _ id: String, width: Double, height: Double, title: String, description: String,
        _ parts: [String]
    ) -> String {
        let head = [
            Markup.element("title", ["id": id + "-title"], Markup.escaped(title)),
            Markup.element("desc", ["id": id + "-text"], Markup.escaped(description)),
        ]
        return Markup.element(
            "svg",
            [
                "viewBox": "0 0 \(number(width)) \(number(height))", "role": "img",
                "aria-labelledby": "\(id)-title \(id)-text",
            ], (head + parts).joined(separator: "\n"))
    }

    /// Two digits behind the point at most. What no coordinate can be is 0.
    static func number(_ value: Double) -> String {
        guard value.isFinite else { return "0" }
        var text = String(format: "%.2f", value)
        while text.hasSuffix("0") { text.removeLast() }
        if text.hasSuffix(".") { text.removeLast() }
        return text == "-0" ? "0" : text
    }

    /// How wide text of the drawings' size is, at most.
    static func width(_ words: String) -> Double { 6.7 * Double(words.count) }
}
