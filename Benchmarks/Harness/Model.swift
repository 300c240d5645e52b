// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import TextTable

struct Model: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "How fast the model of the page tables is, on one core.",
        discussion: """
            Touches: runs of pages of 4 GiB in random order, every other run purged, touched again. \
            Random operations: write, read, dontneed and mprotect of 1 to 8 pages, mmap and munmap \
            of 64 KiB, in an address space of 10,000 VMAs.
            """)

    @Option(help: "Repetitions, each in a new address space.")
    var repetitions = 11

    private static let targets: [String: Double] = [
        "touch in runs of 16 pages": 20e6, "random operations": 1e6,
    ]

    func run() throws {
        guard repetitions >= 1 else { throw ValidationError("--repetitions must be 1 or more") }
        let program = try Shim.build(product: "model-speed", what: "model-speed")
            .appending(path: "model-speed")
        let result = try Tool.run(program.path, ["\(repetitions)"])
        guard result.status == 0 else {
            throw HarnessError("model-speed failed (\(result.status)): \(result.output)")
        }
        let rows = result.output.split(separator: "\n").compactMap { ModelRow(String($0)) }
        print(Machine.current().line)
        print("millions a second, one core, \(repetitions) repetitions")
        Self.printTable(rows)
        let verdicts = rows.compactMap(Self.verdict)
        guard verdicts.count == Self.targets.count else {
            throw HarnessError("model-speed has not measured everything: \(result.output)")
        }
        for verdict in verdicts { print(verdict.line) }
        if verdicts.contains(where: { $0.status == .failed }) { throw ExitCode.failure }
    }

    private static func printTable(_ rows: [ModelRow]) {
        let table = TextTable<ModelRow> { row in
            [
                Column(title: "", value: row.name),
                Column(title: "least", value: row.millions(row.rates.min()), align: .right),
                Column(title: "median", value: row.millions(median(row.rates)), align: .right),
                Column(title: "most", value: row.millions(row.rates.max()), align: .right),
                Column(title: "in each repetition", value: row.space),
            ]
        }
        table.print(rows)
    }

    private static func verdict(_ row: ModelRow) -> Verdict? {
        guard let target = targets[row.name] else { return nil }
        return Verdict(
            target: "\(row.name): \(decimal(target / 1e6, 0)) million a second or more",
            status: median(row.rates) >= target ? .passed : .failed,
            measured: "median \(row.millions(median(row.rates))) million")
    }
}

/// A line that model-speed printed.
private struct ModelRow {
    let name: String
    let rates: [Double]
    let space: String

    init?(_ line: String) {
        let fields = line.split(separator: "\t").map(String.init)
        guard fields.count == 3 else { return nil }
        name = fields[0]
        rates = fields[1].split(separator: " ").compactMap { Double($0) }
        space = fields[2]
    }

    func millions(_ rate: Double?) -> String { rate.map { decimal($0 / 1e6, 2) } ?? "-" }
}
