// SPDX-License-Identifier: Apache-2.0

import Foundation
import Markup
import Mustache

/// The page: what the template shows, each text as it is; the template escapes it.
struct Page {
    struct FactView {
        let name: String
        let value: String
    }

    let isQuick: Bool
    let isUnfinished: Bool
    let date: String
    let minutes: String
    let command: String
    let schema: String
    let overview: Overview
    let churns: [ChurnView]
    let speed: SpeedView
    let waits: [WaitView]
    let hasNoWaits: Bool
    let facts: [FactView]
    let commands: [String]
    let waitsAllowed = decimal(Waits.microsecondsAllowed, 0)

    init(_ document: ReportDocument) {
        isQuick = document.isQuick
        isUnfinished = !document.isComplete
        date = document.date
        minutes = decimal(document.seconds / 60, 1)
        command = document.command
        schema = document.schema
        overview = Overview(document.churns.compactMap(\.value))
        churns = document.churns.enumerated().map { ChurnView($1, number: $0 + 1) }
        speed = SpeedView(document)
        waits = document.waits.enumerated().map { WaitView($1, number: $0 + 1) }
        hasNoWaits = waits.isEmpty
        facts =
            document.facts.map { FactView(name: $0.name, value: $0.value) } + [
                FactView(
                    name: "settings",
                    value:
                        "watermark \(document.watermarkKB) kB (the library's own is 256); at most "
                        + "\(document.pairs) pairs of windows")
            ]
        commands =
            (document.churns.compactMap(\.value).flatMap(\.processes).map(\.command)
            + document.comparisons.compactMap(\.value).flatMap(\.commands)
            + document.speeds.compactMap(\.value).map(\.command)
            + document.waits.compactMap(\.value).flatMap { $0.map(\.command) }).withoutRepeats
    }

    func html() throws -> String {
        Markup.register()
        return try MustacheTemplate(string: PageTemplate.text).render(self)
    }
}

extension Verdict.Status {
    /// In the middle of a sentence.
    var word: String {
        switch self {
        case .passed: "passed"
        case .failed: "failed"
        case .notResolved: "not resolved"
        case .notCounted: "not counted"
        case .skipped: "skipped"
        }
    }
}

/// In kB, as /proc and the tables have it.
func kilobytes(_ bytes: UInt) -> String { "\(bytes / 1024)" }

/// What is left of the page tables at the end, all programs on one table.
struct Overview {
    struct Row {
        let program: String
        let allocator: String
        let cells: [Cell]
    }

    struct Cell {
        let text: String
        let isPlain: Bool
    }

    let titles: [String]
    let rows: [Row]
    let isEmpty: Bool

    init(_ outcomes: [ChurnOutcome]) {
        let modes: [Mode?] = [nil, .hooks, .madvise, .scan, .hooksAndScan, .auto]
        let played = modes.filter { mode in
            outcomes.contains { $0.processes.contains { $0.mode == mode } }
        }
        // A line may end behind the +.
        titles = played.map { ($0?.rawValue ?? "plain").replacing("+", with: "+\u{200B}") }
        rows = outcomes.map { outcome in
            Row(
                program: outcome.program, allocator: outcome.allocator.rawValue,
                cells: played.map { mode in
                    let process = outcome.processes.first { $0.mode == mode }
                    let text = process.map { process in
                        process.row.map { "\(kilobytes($0.waste)) of \(kilobytes($0.vmPTE))" }
                            ?? "failed"
                    }
                    return Cell(text: text ?? "–", isPlain: mode == nil)
                })
        }
        isEmpty = rows.isEmpty
    }
}
