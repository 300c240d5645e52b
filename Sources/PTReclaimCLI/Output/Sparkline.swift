// SPDX-License-Identifier: Apache-2.0

/// A chart of a few rows, one column for each value, the newest last.
struct Sparkline {
    /// What the top of the chart stands for.
    let top: Double
    let columns: Int
    let rows: Int
    let isUTF8: Bool

    /// From the lowest to the full cell; none of them is an empty one.
    private static let blocks: [Character] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"]
    private static let marks: [Character] = [".", ":", "#"]

    /// The rows, the highest first, at most `columns` wide. Nil is a value that is unknown, and leaves a
    /// gap; zero is a line at the bottom; whatever is not zero is more than that.
    func lines(_ values: [Double?]) -> [String] {
        let steps = isUTF8 ? Self.blocks : Self.marks
        let shown = values.suffix(columns)
        return (0..<rows).reversed().map { row in String(shown.map { cell($0, row: row, steps) }) }
    }

    private func cell(_ value: Double?, row: Int, _ steps: [Character]) -> Character {
        guard let value else { return " " }
        guard value > 0, top > 0 else { return row == 0 ? "_" : " " }
        let height = max(min(value / top, 1) * Double(rows * steps.count), 1).rounded()
        let filled = Int(height) - row * steps.count
        return filled <= 0 ? " " : steps[min(filled, steps.count) - 1]
    }
}
