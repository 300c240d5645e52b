// SPDX-License-Identifier: Apache-2.0

import Foundation

/// How long threads slept: the share of the waits in each tenth of a decade.
struct WaitHistogram {
    let id: String
    let title: String
    let description: String
    let times: Times

    private static let width = 450.0
    private static let left = 42.0
    private static let right = 438.0
    private static let plotHeight = 170.0
    private static let binsPerDecade = 10.0

    /// Shares by the number of the bin, which begins at 10^(number / 10) ns.
    private var shares: [Int: Double] {
        var shares: [Int: Double] = [:]
        for (nanoseconds, count) in times.pairs {
            let bin = Int(log10(Double(max(nanoseconds, 1))) * Self.binsPerDecade)
            shares[bin, default: 0] += Double(count) / Double(times.count)
        }
        return shares
    }

    func svg() -> String {
        let shares = shares
        let first = (shares.keys.min() ?? 0) / 10 * 10
        let last = ((shares.keys.max() ?? 0) / 10 + 1) * 10
        let y = Scale(from: 0, to: 100 * (shares.values.max() ?? 1), count: 4)
        func place(_ nanoseconds: Double) -> Double {
            let bin = log10(max(nanoseconds, 1)) * Self.binsPerDecade
            return Self.left
                + (bin - Double(first)) / Double(last - first) * (Self.right - Self.left)
        }
        let rows = MarkRows(
            quantiles.map {
                ("\($0.name) \(Self.duration(Double($0.value)))", place(Double($0.value)))
            },
            from: Self.left, to: Self.right)
        let top = 26 + Double(rows.rowCount) * MarkRows.rowHeight
        let bottom = top + Self.plotHeight
        func height(_ percent: Double) -> Double { bottom - y.fraction(percent) * Self.plotHeight }

        var parts = [Drawing.text("\(title), % of the waits", 4, 15, "heading")]
        let area = PlotArea(left: Self.left, right: Self.right, bottom: bottom, width: Self.width)
        parts += area.grid(y, at: height)
        let width = (Self.right - Self.left) / Double(last - first)
        for (bin, share) in shares.sorted(by: { $0.key < $1.key }) {
            // One wait among many thousands is to be seen, too.
            let tall = max(1.5, bottom - height(100 * share))
            parts.append(
                Drawing.box(
                    Self.left + Double(bin - first) * width + 0.5, bottom - tall, width - 1, tall,
                    "bar"))
        }
        parts += area.axis(
            "length of a wait, logarithmic",
            ticks: stride(from: first, through: last, by: 10).map { decade in
                let nanoseconds = pow(10, Double(decade) / 10)
                return (Self.duration(nanoseconds), place(nanoseconds))
            })
        parts += rows.drawing(top: 16, bottom: bottom)
        return Drawing.picture(
            id, width: Self.width, height: area.height, title: title, description: description,
            parts)
    }

    private var quantiles: [(name: String, value: UInt64)] {
        [
            ("p50", times.p50), ("p99", times.p99), ("p99.9", times.p999), ("max", times.longest),
        ]
    }

    /// With its unit, and three digits at most.
    static func duration(_ nanoseconds: Double) -> String {
        let units = [("s", 1e9), ("ms", 1e6), ("µs", 1e3)]
        for (name, factor) in units where nanoseconds >= factor * 0.9995 {
            let scaled = nanoseconds / factor
            return "\(decimal(scaled, scaled < 9.95 && scaled != scaled.rounded() ? 1 : 0)) \(name)"
        }
        return "\(decimal(nanoseconds, 0)) ns"
    }
}
