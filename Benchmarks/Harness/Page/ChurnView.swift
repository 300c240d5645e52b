// SPDX-License-Identifier: Apache-2.0

import Foundation

/// One program under churn: two drawings, and what they come to.
struct ChurnView {
    struct Row {
        let mode: String
        let vmPTE: String
        let waste: String
        let percent: String
        let untouchable: String
        let word: String
    }

    struct TimeRow {
        let seconds: String
        let cells: [String]
    }

    let name: String
    let summary: String
    let drawings: [String]
    let hasDrawings: Bool
    let rows: [Row]
    let hasRows: Bool
    let failures: [String]
    let titles: [String]
    let times: [TimeRow]

    init(_ attempt: Attempt<ChurnOutcome>, number: Int) {
        name = attempt.name
        guard let outcome = attempt.value else {
            summary = ""
            drawings = []
            hasDrawings = false
            rows = []
            hasRows = false
            failures = ["Not measured: \(attempt.reasonText)."]
            titles = []
            times = []
            return
        }
        let found = outcome.processes.compactMap(\.row)
        summary = Self.summary(found)
        var failures = outcome.processes.filter { $0.row == nil }.map {
            "\($0.mode?.rawValue ?? "plain") has no figures: \($0.failure ?? "no reason is recorded")."
        }
        let lines = outcome.processes.filter { !$0.points.isEmpty }
        if lines.isEmpty {
            failures.append("Nothing was seen over time, so there is no drawing.")
            drawings = []
        } else {
            drawings = Self.drawings(outcome, lines, number: number, summary: summary)
            if drawings.count == 1 {
                failures.append(
                    "This kernel does not tell empty tables (PAGEMAP_SCAN, Linux 6.7), so waste over "
                        + "time is not known.")
            }
        }
        hasDrawings = !drawings.isEmpty
        self.failures = failures
        rows = Self.rows(found)
        hasRows = !rows.isEmpty
        titles = lines.map { $0.mode?.rawValue ?? "plain" }
        times = Self.times(lines)
    }

    private static func summary(_ rows: [WasteRow]) -> String {
        guard let plain = rows.first(where: { $0.mode == nil }) else { return "" }
        let others = rows.filter { $0.mode != nil }.map {
            "with \($0.modeName) \(kilobytes($0.waste)) of \(kilobytes($0.vmPTE)) kB"
        }
        return "At the end plain wastes \(kilobytes(plain.waste)) of \(kilobytes(plain.vmPTE)) kB "
            + "(\(decimal(plain.wastePercent, 0)) %)"
            + (others.isEmpty ? "." : "; \(others.joined(separator: ", ")).")
    }

    private static func drawings(
        _ outcome: ChurnOutcome, _ lines: [ChurnOutcome.Process], number: Int, summary: String
    ) -> [String] {
        let points = lines.flatMap(\.points)
        let most = Double(points.map(\.vmPTE).max() ?? 0) / 1024
        let longest = points.map(\.seconds).max() ?? 0
        func drawing(_ title: String, _ value: (TablePoint) -> UInt?) -> String? {
            let drawn = lines.map { process in
                LineChart.Line(
                    // It may have been off: then this is not the mode's line.
                    name: process.row?.modeName ?? "\(process.mode?.rawValue ?? "plain") (failed)",
                    style: LineStyle(process.mode),
                    points: process.points.compactMap { point in
                        value(point).map { (point.seconds, Double($0) / 1024) }
                    })
            }
            guard drawn.contains(where: { !$0.points.isEmpty }) else { return nil }
            return LineChart(
                id: "churn-\(number)-\(title.lowercased())", title: title,
                description:
                    "\(title) of \(outcome.program) with \(outcome.allocator.rawValue) in kB "
                    + "over time, a line for each mode. \(summary)",
                lines: drawn, marks: outcome.marks.map { ($0.name, $0.seconds) }, most: most,
                longest: longest
            ).svg()
        }
        return [drawing("VmPTE") { $0.vmPTE }, drawing("Waste") { $0.waste }].compactMap { $0 }
    }

    private static func rows(_ rows: [WasteRow]) -> [Row] {
        // One for each mode, in their order.
        var words = Allocators.verdicts(rows).map(\.status.word)
        return rows.map { row in
            Row(
                mode: row.modeName, vmPTE: kilobytes(row.vmPTE), waste: kilobytes(row.waste),
                percent: decimal(row.wastePercent, 1),
                untouchable: row.untouchable.sorted { $0.key < $1.key }
                    .map { "\($0.key) \(kilobytes($0.value))" }.joined(separator: ", "),
                word: row.mode == nil || words.isEmpty ? "" : words.removeFirst())
        }
    }

    /// At about a dozen times what was seen last.
    private static func times(_ lines: [ChurnOutcome.Process]) -> [TimeRow] {
        let longest = lines.flatMap(\.points).map(\.seconds).max() ?? 0
        let scale = Scale(from: 0, to: longest, count: 12)
        return scale.ticks.filter { $0 <= longest }.map { tick in
            TimeRow(
                seconds: scale.label(tick),
                cells: lines.map { process in
                    guard let point = process.points.last(where: { $0.seconds <= tick }) else {
                        return "–"
                    }
                    return kilobytes(point.vmPTE)
                        + (point.waste.map { " (\(kilobytes($0)))" } ?? "")
                })
        }
    }
}
