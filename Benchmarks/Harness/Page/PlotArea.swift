// SPDX-License-Identifier: Apache-2.0

import Foundation

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

/// The plot of a drawing: from `left` to `right`, down to `bottom`, where the x axis is.
struct PlotArea {
    let left: Double
    let right: Double
    let bottom: Double
    /// The picture's, which no label leaves.
    let width: Double

    /// The lines of the y axis, and what they stand for.
    func grid(_ scale: Scale, at height: (Double) -> Double) -> [String] {
        scale.ticks.flatMap { tick in
            [
                Drawing.line(left, height(tick), right, height(tick), "grid"),
                Drawing.text(scale.label(tick), left - 5, height(tick) + 4, anchor: "end"),
            ]
        }
    }

    /// The x axis.
    func axis(_ title: String, ticks: [(label: String, x: Double)]) -> [String] {
        let marks = ticks.flatMap { tick in
            let isCut = tick.x + Drawing.width(tick.label) / 2 > width
            return [
                Drawing.line(tick.x, bottom, tick.x, bottom + 4, "axis"),
                Drawing.text(tick.label, tick.x, bottom + 17, anchor: isCut ? "end" : "middle"),
            ]
        }
        return marks + [
            Drawing.line(left, bottom, right, bottom, "axis"),
            Drawing.text(title, (left + right) / 2, bottom + 33, "small", anchor: "middle"),
        ]
    }

    /// Of the picture, with the axis and its title.
    var height: Double { bottom + 42 }
}
