// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import ProcFS
import TextTable

struct RSS: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rss",
        abstract: "RSS with each mode, against the same allocator without the library.",
        discussion: """
            calloc: 64 MiB were freed and taken again with calloc, untouched (jemalloc-churn \
            --calloc). filled: allocator-churn with 200 MiB of blocks. emptied: most of them freed, \
            and what is free given back. Processes of each kind, in turns; medians.
            """)

    @OptionGroup var options: TableOptions

    @Option(help: "Processes of each kind.")
    var runs = 5

    static let ratioAllowed = 1.01

    struct Row: Encodable {
        let test: String
        let allocator: Allocator
        let mode: Mode
        /// What `auto` has chosen.
        let chosenMode: String
        let plainBytes: Double
        let shimBytes: Double
        /// Between the least and the most of either: what luck makes of it.
        let spreadBytes: Double

        var ratio: Double { shimBytes / plainBytes }

        /// The target is of modes that `auto` may choose where a fence is permitted.
        var verdict: Verdict {
            Verdict(
                target: "\(test), \(allocator.rawValue), \(modeName): RSS at most "
                    + "\(decimal(RSS.ratioAllowed, 2)) x plain",
                status: ratio <= RSS.ratioAllowed
                    ? .passed
                    : shimBytes - plainBytes <= spreadBytes
                        ? .notResolved : mode.hasHooks ? .notCounted : .failed,
                measured: "\(decimal(ratio, 3)); \(decimal((shimBytes - plainBytes) / 1024, 0)) "
                    + "KiB more than \(decimal(plainBytes / 1024, 0)), spread "
                    + "\(decimal(spreadBytes / 1024, 0))")
        }

        var modeName: String { mode == .auto ? "auto (\(chosenMode))" : mode.rawValue }
    }

    /// In one process, or in many of one kind: bytes by the name of the test.
    private struct Figures {
        var bytes: [String: [Double]] = [:]
        var mode = "off"
    }

    func run() throws {
        guard runs >= 1 else { throw ValidationError("--runs must be 1 or more") }
        let shim = try Shim.prepare()
        let calloc = try Shim.buildEmbeddedChurn().path
        let churn = try Shim.build(product: "allocator-churn", what: "allocator-churn")
            .appending(path: "allocator-churn").path
        let machine = Machine.current()
        var rows: [Row] = []
        var skipped: [Verdict] = []
        var commands = ["\(calloc) --calloc", "\(churn) --driven --threads 1"]
        for allocator in Allocator.allCases {
            do {
                commands.append(
                    RedisServer.line(
                        try allocator.environment(shim: shim, mode: .scan), ["…"]))
                rows += try compare(allocator, calloc: calloc, churn: churn, shim: shim)
            } catch let reason as NotInstalled {
                skipped.append(
                    Verdict(
                        target: allocator.rawValue, status: .skipped, measured: reason.description))
            }
        }
        Progress.end()
        let report = TableReport(
            "rss", machine: machine, commands: commands, rows: rows,
            verdicts: skipped + rows.map(\.verdict))
        try report.finish(options, note: "MiB, medians.") { rows in
            TextTable<Row> { row in
                [
                    Column(title: "test", value: row.test),
                    Column(title: "allocator", value: row.allocator.rawValue),
                    Column(title: "mode", value: row.modeName),
                    Column(
                        title: "plain", value: decimal(row.plainBytes / 1_048_576, 2), align: .right
                    ),
                    Column(
                        title: "with", value: decimal(row.shimBytes / 1_048_576, 2), align: .right),
                    Column(title: "ratio", value: decimal(row.ratio, 3), align: .right),
                ]
            }.print(rows)
        }
    }

    private func compare(
        _ allocator: Allocator, calloc: String, churn: String, shim: Shim
    ) throws -> [Row] {
        let modes = [nil] + (AllocatorChurn.modes(allocator) + [.auto]).map(Optional.init)
        var figures = modes.map { _ in Figures() }
        let runs = options.quick ? 2 : self.runs
        for round in 0..<runs {
            for (index, mode) in modes.enumerated() {
                Progress.show(
                    round * modes.count + index, of: runs * modes.count, allocator.rawValue)
                let environment = try allocator.environment(
                    shim: mode == nil ? nil : shim, mode: mode)
                // jemalloc-churn is linked with jemalloc: of the others it would measure two.
                if allocator == .jemalloc {
                    let process = try DrivenProcess(
                        [calloc, "--calloc"], environment: environment)
                    try Self.sample(process, "calloc", into: &figures[index])
                    process.stop()
                }
                let process = try DrivenProcess(
                    [churn, "--driven", "--threads", "1"], environment: environment)
                defer { process.stop() }
                try AllocatorChurn.fill(process, mebibytes: 100)
                try Self.sample(process, "filled", into: &figures[index])
                for percent in [50, 75, 75, 75] {
                    try process.work("delete \(percent)")
                    try process.work("release")
                    Thread.sleep(forTimeInterval: 0.1)
                }
                Thread.sleep(forTimeInterval: options.quick ? 1 : 4)
                try Self.sample(process, "emptied", into: &figures[index])
            }
        }
        let plain = figures[0]
        return zip(modes, figures).dropFirst().flatMap { mode, figures in
            ["calloc", "filled", "emptied"].compactMap { test in
                guard let mode, let with = figures.bytes[test], let without = plain.bytes[test]
                else { return nil }
                return Row(
                    test: test, allocator: allocator, mode: mode, chosenMode: figures.mode,
                    plainBytes: median(without), shimBytes: median(with),
                    spreadBytes: max(Self.spread(with), Self.spread(without)))
            }
        }
    }

    private static func spread(_ values: [Double]) -> Double {
        (values.max() ?? 0) - (values.min() ?? 0)
    }

    private static func sample(
        _ process: DrivenProcess, _ test: String, into figures: inout Figures
    ) throws {
        let status = try ProcessStatus.read(pid: process.pid)
        figures.bytes[test, default: []].append(Double(status.rssByteCount))
        if let page = try? StatsPage.read(pid: process.pid) { figures.mode = page.mode }
    }
}
