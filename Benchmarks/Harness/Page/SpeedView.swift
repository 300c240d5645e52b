// SPDX-License-Identifier: Apache-2.0

import Foundation

/// Ratios library / plain: two drawings, a table, and what they say in words.
struct SpeedView {
    struct Row {
        let name: String
        let pairs: String
        let cpu: String
        let cpuWord: String
        let rate: String
        let rateWord: String
    }

    let summary: String
    let drawings: [String]
    let hasRows: Bool
    let rows: [Row]
    let failures: [String]

    init(_ document: ReportDocument) {
        var results: [(name: String, result: PairedRun.Result)] = []
        var failures: [String] = []
        for attempt in document.comparisons {
            if let row = attempt.value {
                results.append((row.name, row.result))
            } else {
                failures.append("\(attempt.name) was not measured: \(attempt.reasonText).")
            }
        }
        for attempt in document.speeds {
            if let speed = attempt.value {
                results.append((speed.name, speed.figures))
            } else {
                failures.append("\(attempt.name) was not measured: \(attempt.reasonText).")
            }
        }
        self.failures = failures
        // CPU first, then the rate.
        let verdicts = results.map { $0.result.verdicts($0.name) }
        rows = zip(results, verdicts).map { one, verdicts in
            Row(
                name: one.name, pairs: "\(one.result.cpu.pairCount)",
                cpu: ForestPlot.figures(one.result.cpu), cpuWord: verdicts[0].status.word,
                rate: ForestPlot.figures(one.result.rate), rateWord: verdicts[1].status.word)
        }
        hasRows = !rows.isEmpty
        summary = Self.summary(
            verdicts.flatMap { $0 }.map(\.status),
            results.flatMap { [$0.result.cpu, $0.result.rate] })
        guard hasRows else {
            drawings = []
            return
        }
        func drawing(
            _ id: String, _ title: String, _ index: Int,
            _ ratio: (PairedRun.Result) -> RatioEstimate
        ) -> String {
            ForestPlot(
                id: id, title: title,
                description: "\(title), library / plain, with intervals of 95 %. "
                    + Self.summary(
                        verdicts.map { $0[index].status }, results.map { ratio($0.result) }),
                rows: zip(results, verdicts).map { one, verdicts in
                    ForestPlot.Row(
                        name: one.name, ratio: ratio(one.result), word: verdicts[index].status.word)
                }
            ).svg()
        }
        drawings = [
            drawing("cpu", "CPU per operation, less is better", 0) { $0.cpu },
            drawing("rate", "Operations per second, more is better", 1) { $0.rate },
        ]
    }

    private static func summary(_ statuses: [Verdict.Status], _ ratios: [RatioEstimate]) -> String {
        guard !statuses.isEmpty else { return "No comparison has figures." }
        func count(_ status: Verdict.Status) -> Int { statuses.count { $0 == status } }
        let different = ratios.count { $0.low > 1 || $0.high < 1 }
        return "Of \(statuses.count) ratios \(count(.passed)) keep their target, \(count(.failed)) "
            + "miss it, and \(count(.notResolved)) are not resolved"
            + (count(.notResolved) > 0
                ? ": their intervals are wider than ± 1 %, and the ratio may be anywhere in them. "
                : ". ")
            + "\(different) of all intervals do not contain 1."
    }
}
