// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import TextTable

struct Scan: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "What a pass of the scan mode costs beside the system calls that it makes.",
        discussion: """
            The sources of the preload library's core run on a service thread of their own. Bare is \
            every system call of the same pass, in the same process and in turns with it. Looks \
            find 512 tables; frees find runs of empty tables with a populated one behind each.
            """)

    @OptionGroup var options: TableOptions

    @Option(help: "Processes, one after the other.")
    var processes = 3

    static let ratioAllowed = 1.1
    static let sparseMillisecondsAllowed = 5.0

    func run() throws {
        guard processes >= 1 else { throw ValidationError("--processes must be 1 or more") }
        let program = try Shim.build(product: "scan-cost", what: "scan-cost")
            .appending(path: "scan-cost")
        let machine = Machine.current()
        let arguments = [options.quick ? "20" : "200"]
        var results = CostResults()
        for round in 0..<(options.quick ? 1 : processes) {
            Progress.show(round, of: processes, "scan-cost")
            try results.add(Tool.run(program.path, arguments), of: "scan-cost", "scan")
        }
        Progress.end()
        let rows = results.rows.map(ScanRow.init)
        let skipped = results.skipped.map { name, reason in
            Verdict(target: name, status: .skipped, measured: reason)
        }
        let report = TableReport(
            "scan", machine: machine,
            commands: [([program.path] + arguments).joined(separator: " ")],
            rows: rows, verdicts: skipped + rows.map(\.verdict))
        try report.finish(
            options, note: "Microseconds a pass; ratio: pass / bare, pair by pair, 95 %."
        ) { rows in
            TextTable<ScanRow> { $0.columns }.print(rows)
        }
    }
}

private struct ScanRow: Encodable {
    let name: String
    let parameter: String
    let passMedian: Double
    let passP99: Double
    let bareMedian: Double?
    let ratio: RatioEstimate?

    init(_ row: CostRow) {
        name = row.name
        parameter = row.parameter
        ratio = row.ratio
        let series = ratio == nil ? "pass" : "call"
        passMedian = row.microseconds(series, 0.5)
        passP99 = row.microseconds(series, 0.99)
        bareMedian = ratio == nil ? nil : row.microseconds("bare", 0.5)
    }

    var columns: [Column] {
        [
            Column(title: "", value: name),
            Column(title: "tables", value: parameter),
            Column(
                title: "bare p50", value: bareMedian.map { decimal($0, 0) } ?? "-", align: .right),
            Column(title: "pass p50", value: decimal(passMedian, 0), align: .right),
            Column(title: "p99", value: decimal(passP99, 0), align: .right),
            Column(title: "ratio", value: ratio?.text ?? "-", align: .right),
        ]
    }

    var verdict: Verdict {
        guard let ratio else {
            return Verdict(
                target: "10 TB reserved, 1 GB used, in \(parameter): a pass in at most "
                    + "\(decimal(Scan.sparseMillisecondsAllowed, 0)) ms",
                status: passMedian <= 1000 * Scan.sparseMillisecondsAllowed ? .passed : .failed,
                measured: "median \(decimal(passMedian / 1000, 2)) ms, "
                    + "p99 \(decimal(passP99 / 1000, 2))")
        }
        return Verdict(
            target: "\(name), \(parameter): at most \(Scan.ratioAllowed) x the bare system calls",
            status: ratio.high <= Scan.ratioAllowed
                ? .passed : ratio.low > Scan.ratioAllowed ? .failed : .notResolved,
            measured: ratio.text)
    }
}
