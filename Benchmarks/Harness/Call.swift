// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import TextTable

struct Call: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "What ptReclaim costs beside the system calls that it makes.",
        discussion: """
            Bare is the very system calls of ptReclaim, in the same process and in turns with it: \
            VmPTE, VMA, look, free, look, VmPTE; behind a fence on the service thread too. Free is \
            only what frees: the fence and the free in it, or the free alone.
            """)

    @Option(help: "Calls for one span in each process; fewer for longer runs.")
    var samples = 400

    @Option(help: "Processes of each kind, in turns.")
    var processes = 3

    static let ratioAllowed = 1.1
    static let handOverAllowed = 3.0
    static let sparseMillisecondsAllowed = 5.0

    func run() throws {
        guard samples >= 1, processes >= 1 else {
            throw ValidationError("--samples and --processes must be 1 or more")
        }
        let program = try Shim.build(product: "call-cost", what: "call-cost")
            .appending(path: "call-cost")
        var results = CostResults()
        let modes = ["fenced", "dontneed", "remap", "one-cpu", "any-cpu"]
        for round in 0..<processes {
            for (index, mode) in modes.enumerated() {
                Progress.show(round * modes.count + index, of: processes * modes.count, mode)
                try results.add(
                    Tool.run(program.path, [mode, "\(samples)"]), of: "call-cost", mode)
            }
        }
        Progress.end()
        print(Machine.current().line)
        print("microseconds, \(processes) processes each; ratio: ptReclaim / bare, pair by pair")
        Self.printTable(results.rows)
        let verdicts = Self.verdicts(results)
        for verdict in verdicts { print(verdict.line) }
        if verdicts.contains(where: { $0.status == .failed }) { throw ExitCode.failure }
    }

    private static func printTable(_ rows: [CostRow]) {
        let table = TextTable<CostRow> { row in
            [
                Column(title: "", value: row.name),
                Column(title: "spans", value: row.parameter, align: .right),
                Column(title: "free p50", value: row.quantile("free", 0.5), align: .right),
                Column(title: "bare p50", value: row.quantile("bare", 0.5), align: .right),
                Column(title: "p99", value: row.quantile("bare", 0.99), align: .right),
                Column(title: "ptReclaim p50", value: row.quantile("call", 0.5), align: .right),
                Column(title: "p99", value: row.quantile("call", 0.99), align: .right),
                Column(title: "ratio", value: row.ratio?.text ?? "-", align: .right),
            ]
        }
        table.print(rows.filter { $0.ratio != nil })
    }

    private static func verdicts(_ results: CostResults) -> [Verdict] {
        var verdicts = results.skipped.map { mode, reason in
            Verdict(target: mode, status: .skipped, measured: reason)
        }
        for row in results.rows {
            if let ratio = row.ratio {
                verdicts.append(
                    Verdict(
                        target: "\(row.name), \(row.parameter) spans: at most \(ratioAllowed) x "
                            + "its bare system calls",
                        status: ratio.high <= ratioAllowed
                            ? .passed : ratio.low > ratioAllowed ? .failed : .notResolved,
                        measured: ratio.text))
            } else if row.name == "hand-over" {
                verdicts.append(handOver(row))
            } else if row.name == "sparse" {
                verdicts.append(sparse(row))
            }
        }
        return verdicts
    }

    private static func handOver(_ row: CostRow) -> Verdict {
        let (futex, service) = (row.median("futex"), row.median("service"))
        // Where the scheduler puts each thread decides the rest, and it puts them differently.
        let isComparable = row.parameter == "one CPU"
        return Verdict(
            target: "hand-over to the service thread, \(row.parameter): at most "
                + "\(decimal(handOverAllowed, 0)) x a futex round trip",
            status: !isComparable
                ? .notCounted : service <= handOverAllowed * futex ? .passed : .failed,
            measured: "\(decimal(service / futex, 2)) x; p50 / p99 "
                + "\(row.quantile("service", 0.5)) / \(row.quantile("service", 0.99)) us, futex "
                + "\(row.quantile("futex", 0.5)) / \(row.quantile("futex", 0.99)) us")
    }

    private static func sparse(_ row: CostRow) -> Verdict {
        let beyond = (row.median("call") - row.median("free")) / 1e6
        return Verdict(
            target: "10 TB with 1 GB touched (\(row.parameter)): at most "
                + "\(decimal(sparseMillisecondsAllowed, 0)) ms beyond the frees",
            status: beyond <= sparseMillisecondsAllowed ? .passed : .failed,
            measured: "\(decimal(beyond, 2)) ms; the call \(decimal(row.median("call") / 1e6, 2)) "
                + "ms, the frees alone \(decimal(row.median("free") / 1e6, 2)) ms")
    }
}
