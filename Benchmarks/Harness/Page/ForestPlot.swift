// SPDX-License-Identifier: Apache-2.0

import Foundation
import Markup

/// Ratios library / plain with their intervals, below each other on one axis.
struct ForestPlot {
    struct Row {
        let name: String
        let ratio: RatioEstimate
        /// The verdict.
        let word: String
    }

    let id: String
    let title: String
    let description: String
    let rows: [Row]

    private static let width = 480.0
    private static let left = 14.0
    private static let right = 466.0
    private static let rowHeight = 36.0
    private static let top = 28.0
    /// What lies beyond is an arrow.
    private static let range = 0.25...4.0

    func svg() -> String {
        let values = rows.flatMap { [$0.ratio.low, $0.ratio.high] }.filter(\.isFinite)
        let low = max(Self.range.lowerBound, min(0.98, values.min() ?? 0.98))
        let high = min(Self.range.upperBound, max(1.02, values.max() ?? 1.02))
        let scale = Scale(from: low, to: high, count: 6)
        func place(_ ratio: Double) -> Double {
            let inside = min(max(ratio.isFinite ? ratio : scale.high, scale.low), scale.high)
            return Self.left + scale.fraction(inside) * (Self.right - Self.left)
        }
        let bottom = Self.top + Double(rows.count) * Self.rowHeight + 4
        var parts = [
            Drawing.text(title, 4, 15, "heading"),
            Drawing.box(
                place(0.99), Self.top, place(1.01) - place(0.99), bottom - Self.top, "band"),
        ]
        for tick in scale.ticks {
            parts.append(Drawing.line(place(tick), Self.top, place(tick), bottom, "grid"))
        }
        let area = PlotArea(left: Self.left, right: Self.right, bottom: bottom, width: Self.width)
        parts += area.axis(
            "ratio library / plain; 1 is no difference"
                + (scale.low > 0 ? ", and the axis does not begin at 0" : ""),
            ticks: scale.ticks.map { (scale.label($0), place($0)) })
        parts.append(Drawing.line(place(1), Self.top, place(1), bottom, "one"))
        for (index, row) in rows.enumerated() {
            let y = Self.top + Double(index) * Self.rowHeight
            parts.append(Drawing.text(row.name, Self.left, y + 14, "label halo"))
            parts.append(
                Drawing.text(
                    "\(Self.figures(row.ratio)) \(row.word)", Self.right, y + 14, "label halo",
                    anchor: "end"))
            parts += Self.interval(row.ratio, at: y + 25, place, in: scale)
        }
        return Drawing.picture(
            id, width: Self.width, height: area.height, title: title, description: description,
            parts)
    }

    static func figures(_ ratio: RatioEstimate) -> String {
        "\(decimal(ratio.mean, 3)) [\(decimal(ratio.low, 3)), \(decimal(ratio.high, 3))]"
    }

    /// The point is filled where the interval is narrow enough to say something.
    private static func interval(
        _ ratio: RatioEstimate, at y: Double, _ place: (Double) -> Double, in scale: Scale
    ) -> [String] {
        let (from, to) = (place(ratio.low), place(ratio.high))
        return [
            Drawing.line(from, y, to, y, "interval"),
            end(from, y, isBeyond: ratio.low < scale.low, towards: -1),
            end(to, y, isBeyond: ratio.high > scale.high, towards: 1),
            Drawing.box(
                place(ratio.mean) - 4, y - 4, 8, 8, ratio.isResolved ? "point" : "point open"),
        ]
    }

    private static func end(_ x: Double, _ y: Double, isBeyond: Bool, towards side: Double)
        -> String
    {
        guard isBeyond else { return Drawing.line(x, y - 4, x, y + 4, "interval") }
        let points = [(x, y), (x - 7 * side, y - 4), (x - 7 * side, y + 4)]
            .map { "\(Drawing.number($0.0)),\(Drawing.number($0.1))" }
        return Markup.element(
            "polygon", ["points": points.joined(separator: " "), "class": "arrow"])
    }
}
