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

/// Values of an axis that are marked.
struct Scale {
    let low: Double
    let high: Double
    let ticks: [Double]
    let digits: Int

    /// Covers `low ... high` with about `count` steps of a round length.
    init(from low: Double, to high: Double, count: Double = 5) {
        let length = high - low
        let raw = (length.isFinite && length > 0 ? length : 1) / count
        let power = pow(10, floor(log10(raw)))
        let step = ([1, 2, 2.5, 5].first { $0 * power >= raw * 0.999 } ?? 10) * power
        let first = (low / step + 1e-9).rounded(.down)
        let last = max(first + 1, (high / step - 1e-9).rounded(.up))
        self.low = first * step
        self.high = last * step
        ticks = stride(from: first, through: last, by: 1).map { $0 * step }
        let places = Int(max(0, -floor(log10(step))))
        digits = places + (step * pow(10, Double(places)) == 2.5 ? 1 : 0)
    }

    func fraction(_ value: Double) -> Double { (value - low) / (high - low) }

    /// Without zeros at its end.
    func label(_ tick: Double) -> String {
        var text = decimal(tick, digits)
        guard text.contains(".") else { return text }
        while text.hasSuffix("0") { text.removeLast() }
        if text.hasSuffix(".") { text.removeLast() }
        return text
    }
}

/// Names of places on the x axis, above the plot, in as many rows as it takes.
struct MarkRows {
    private(set) var rowCount = 0
    private var placed: [(name: String, x: Double, start: Double, row: Int)] = []

    static let rowHeight = 14.0

    init(_ marks: [(name: String, x: Double)], from left: Double, to right: Double) {
        var ends: [Double] = []
        for mark in marks {
            let width = Drawing.width(mark.name)
            let start = max(left, min(mark.x - 3, right - width))
            let row = ends.firstIndex { $0 <= start } ?? ends.count
            if row == ends.count { ends.append(0) }
            ends[row] = start + width + 8
            placed.append((mark.name, mark.x, start, row))
        }
        rowCount = ends.count
    }

    /// - Parameters:
    ///   - top: of the rows; `bottom`: of the plot.
    func drawing(top: Double, bottom: Double) -> [String] {
        placed.flatMap { mark in
            let y = top + Double(mark.row + 1) * Self.rowHeight
            return [
                Drawing.line(mark.x, y + 3, mark.x, bottom, "mark"),
                Drawing.text(mark.name, mark.start, y, "small"),
            ]
        }
    }
}
