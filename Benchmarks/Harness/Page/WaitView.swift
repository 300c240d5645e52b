// SPDX-License-Identifier: Apache-2.0

import Foundation

/// What threads wait in one scenario.
struct WaitView {
    struct Row {
        let name: String
        let count: String
        let p50: String
        let p99: String
        let p999: String
        let longest: String

        init(_ name: String, _ times: Times) {
            func time(_ value: UInt64) -> String {
                times.count > 0 ? WaitHistogram.duration(Double(value)) : "–"
            }
            self.name = name
            count = "\(times.count)"
            p50 = time(times.p50)
            p99 = time(times.p99)
            p999 = time(times.p999)
            longest = time(times.longest)
        }
    }

    let name: String
    let summary: String
    let drawing: String?
    let rows: [Row]
    let hasRows: Bool
    let verdicts: [String]
    let failure: String?

    init(_ attempt: Attempt<[WaitRow]>, number: Int) {
        name = attempt.name
        guard let found = attempt.value, let scan = found.first(where: \.hasShim) else {
            summary = ""
            drawing = nil
            rows = []
            hasRows = false
            verdicts = []
            failure =
                "Not measured: "
                + (attempt.value == nil ? attempt.reasonText : "no figures with the library") + "."
            return
        }
        failure = nil
        rows = found.flatMap { row in
            let kind = row.hasShim ? "scan" : "plain"
            return [
                Row("\(kind), all", row.touches),
                Row("\(kind), slept", row.waits),
            ]
        }
        hasRows = true
        verdicts = scan.verdicts.map(\.line)
        guard scan.waits.count > 0 else {
            summary = "With scan no write slept, of \(scan.touches.count)."
            drawing = nil
            return
        }
        func time(_ value: UInt64) -> String { WaitHistogram.duration(Double(value)) }
        summary =
            "With scan \(scan.waits.count) of \(scan.touches.count) writes slept: half of them "
            + "\(time(scan.waits.p50)) or less, "
            + (scan.waits.count < 1000
                ? "too few for a p99.9, " : "99.9 % \(time(scan.waits.p999)) or less, ")
            + "the longest \(time(scan.waits.longest))."
        drawing = WaitHistogram(
            id: "wait-\(number)", title: "Waits", description: summary, times: scan.waits
        ).svg()
    }
}
