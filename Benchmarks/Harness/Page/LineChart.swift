// SPDX-License-Identifier: Apache-2.0

import Foundation
import Markup

/// A mode's line: its colour is the class's, its dashes tell it from the others without one.
struct LineStyle {
    let kind: String
    let dashes: String

    init(_ mode: Mode?) {
        switch mode {
        case nil: (kind, dashes) = ("plain", "")
        case .hooks: (kind, dashes) = ("hooks", "8 4")
        case .madvise: (kind, dashes) = ("madvise", "2 3")
        case .scan: (kind, dashes) = ("scan", "10 3 2 3")
        case .hooksAndScan: (kind, dashes) = ("both", "16 4 4 4")
        case .auto: (kind, dashes) = ("auto", "4 4")
        }
    }
}

/// Kilobytes of page tables over seconds: a line for each mode, its name at its end.
struct LineChart {
    struct Line {
        let name: String
        let style: LineStyle
        /// In kB.
        let points: [(seconds: Double, value: Double)]
    }

    let id: String
    let title: String
    let description: String
    let lines: [Line]
    let marks: [(name: String, seconds: Double)]
    /// The same for drawings that are to be compared.
    let most: Double
    let longest: Double

    private static let width = 450.0
    private static let left = 42.0
    private static let right = 330.0
    private static let plotHeight = 180.0
    private static let labelHeight = 14.0

    func svg() -> String {
        let x = Scale(from: 0, to: longest, count: 5)
        let y = Scale(from: 0, to: most, count: 5)
        // The time ends where the lines end: there their names are.
        let end = longest > 0 ? longest : x.high
        func place(_ seconds: Double) -> Double {
            Self.left + seconds / end * (Self.right - Self.left)
        }
        let rows = MarkRows(
            marks.filter { $0.seconds <= end }.map { ($0.name, place($0.seconds)) },
            from: Self.left, to: Self.right)
        let top = 26 + Double(rows.rowCount) * MarkRows.rowHeight
        let bottom = top + Self.plotHeight
        func height(_ value: Double) -> Double { bottom - y.fraction(value) * Self.plotHeight }

        var parts = [Drawing.text("\(title), kB", 4, 15, "heading")]
        let area = PlotArea(left: Self.left, right: Self.right, bottom: bottom, width: Self.width)
        parts += area.grid(y, at: height)
        parts += area.axis(
            "seconds",
            ticks: x.ticks.filter { $0 <= end * 1.001 }.map { (x.label($0), place($0)) })
        parts += rows.drawing(top: 16, bottom: bottom)
        for line in lines where !line.points.isEmpty {
            let points = line.points.map {
                "\(Drawing.number(place($0.seconds))),\(Drawing.number(height($0.value)))"
            }
            parts.append(
                Markup.element(
                    "polyline",
                    [
                        "class": "line \(line.style.kind)",
                        "stroke-dasharray": line.style.dashes.isEmpty ? "none" : line.style.dashes,
                        // One point would draw nothing but for the cap.
                        "points": (points.count == 1 ? points + points : points)
                            .joined(separator: " "),
                    ]))
        }
        for label in labels(bottom: bottom, place, height) {
            let points = [
                (label.endX, label.endY), (Self.right + 1, label.endY), (Self.right + 14, label.y),
            ].map { "\(Drawing.number($0.0)),\(Drawing.number($0.1))" }
            parts.append(
                Markup.element(
                    "polyline",
                    ["class": "leader \(label.kind)", "points": points.joined(separator: " ")]))
            parts.append(Drawing.text(label.text, Self.right + 17, label.y + 4, label.kind))
        }
        return Drawing.picture(
            id, width: Self.width, height: area.height, title: title, description: description,
            parts)
    }

    /// A line's name and its last value.
    private struct Label {
        let text: String
        let kind: String
        /// Where the line ends.
        let endX: Double
        let endY: Double
        var y: Double
    }

    /// Moved apart.
    private func labels(
        bottom: Double, _ place: (Double) -> Double, _ height: (Double) -> Double
    ) -> [Label] {
        var labels = lines.compactMap { line in
            line.points.last.map { last in
                Label(
                    text: "\(line.name) \(decimal(last.value, 0))", kind: line.style.kind,
                    endX: place(last.seconds), endY: height(last.value), y: height(last.value))
            }
        }.sorted { $0.endY < $1.endY }
        for index in labels.indices.dropFirst() {
            labels[index].y = max(labels[index].y, labels[index - 1].y + Self.labelHeight)
        }
        var limit = bottom
        for index in labels.indices.reversed() {
            labels[index].y = min(labels[index].y, limit)
            limit = labels[index].y - Self.labelHeight
        }
        return labels
    }
}
