// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import ProcFS
import TextTable

struct Allocators: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Waste that is left after a churn: each program, allocator and mode.",
        discussion: """
            Each program is filled and emptied plain and with the library, side by side. What a mode \
            may not touch is asked of the service thread: a pass over everything, made after the \
            figures were taken, gives a reason for each table that it keeps.
            """)

    @OptionGroup var options: TableOptions

    @Option(help: "Only this program: redis-server, allocator-churn, memcached or node.")
    var only: String?

    @Option(help: "Only this allocator.")
    var allocator: Allocator?

    @Option(help: "PTRECLAIM_WATERMARK_KB of the scan mode. The library's own is 256.")
    var watermarkKB = Int(Self.wasteByteCountAllowed >> 10)

    static let wastePercentAllowed = 2.0
    static let wasteByteCountAllowed: UInt = 32 << 10
    static let plainWastePercentWanted = 20.0

    /// All that there are.
    static func groups(shim: Shim, scale: ChurnScale) -> [any ProgramUnderChurn] {
        var groups: [any ProgramUnderChurn] = [RedisChurn(shim: shim, scale: scale)]
        for allocator in Allocator.allCases {
            groups.append(AllocatorChurn(allocator: allocator, shim: shim, scale: scale))
        }
        for allocator in [Allocator.tcmalloc, .mimalloc] {
            groups.append(MemcachedChurn(allocator: allocator, shim: shim, scale: scale))
        }
        for allocator in [Allocator.glibc, .jemalloc] {
            groups.append(NodeChurn(allocator: allocator, shim: shim, scale: scale))
        }
        return groups
    }

    func run() throws {
        let shim = try Shim.prepare()
        let machine = Machine.current()
        let scale = ChurnScale(
            isQuick: options.quick, watermarkKB: watermarkKB, isRecording: false)
        let groups = Self.groups(shim: shim, scale: scale).filter { group in
            only.map { group.program.contains($0) } ?? true
                && allocator.map { group.allocator == $0 } ?? true
        }
        guard !groups.isEmpty else { throw ValidationError("nothing is left to run") }
        var rows: [WasteRow] = []
        var commands: [String] = []
        var verdicts: [Verdict] = []
        for (index, group) in groups.enumerated() {
            let name = "\(group.program), \(group.allocator.rawValue)"
            Progress.show(index, of: groups.count, name)
            do {
                let outcome = try group.play()
                let found = try outcome.rows()
                rows += found
                commands += outcome.processes.map(\.command)
                verdicts += Self.verdicts(found)
            } catch let reason as NotInstalled {
                verdicts.append(
                    Verdict(target: name, status: .skipped, measured: reason.description))
            }
        }
        Progress.end()
        let report = TableReport(
            "allocators", machine: machine, commands: commands, rows: rows, verdicts: verdicts)
        try report.finish(
            options,
            note: "kB. Served: waste in spans that the mode may serve; the rest it may not touch."
                + " The watermark is \(watermarkKB) kB; the library's own is 256."
        ) { rows in
            TextTable<WasteRow> { $0.columns }.print(rows)
        }
    }

    static func verdicts(_ rows: [WasteRow]) -> [Verdict] {
        guard let plain = rows.first(where: { $0.mode == nil }) else { return [] }
        return rows.filter { $0.mode != nil }.map { row in
            let isMet =
                row.servedWaste <= wasteByteCountAllowed
                || row.servedPercent <= wastePercentAllowed
            let counts = plain.wastePercent >= plainWastePercentWanted && row.isServed
            let measured =
                "\(row.servedWaste / 1024) kB of \(row.vmPTE / 1024) "
                + "(\(decimal(row.servedPercent, 1)) %), not to be touched "
                + "\(row.untouchable.values.reduce(0, +) / 1024) kB; "
                + "plain wastes \(decimal(plain.wastePercent, 1)) %"
            return Verdict(
                target: "\(row.program), \(row.allocator.rawValue), \(row.modeName): waste at most "
                    + "2 % of VmPTE or 32 kB"
                    + (counts ? "" : row.isServed ? " (correctness only)" : " (does nothing)"),
                status: !counts ? .notCounted : isMet ? .passed : .failed, measured: measured)
        }
    }
}

/// What one process looks like after its churn.
struct WasteRow: Codable {
    let program: String
    let allocator: Allocator
    /// nil: plain.
    let mode: Mode?
    /// What `auto` has chosen, or what is left of `hooks+scan` without a fence.
    let chosenMode: String?
    let vmPTE: UInt
    let needed: UInt
    let waste: UInt
    /// Waste in spans that the mode may not touch, in bytes, by the reason; `upperTables` are PMD
    /// and PUD tables, which only unmapping frees.
    let untouchable: [String: UInt]
    let tablesFreed: UInt64

    /// Looks at `pid`, in which the library runs in `mode`.
    init(program: String, allocator: Allocator, mode: Mode?, pid: Int32) throws {
        self.program = program
        self.allocator = allocator
        self.mode = mode
        let census = try PageTableCensus.take(pid: pid)
        guard let waste = census.wasteByteCount, let needed = census.neededByteCount,
            let empty = census.tables.empty
        else { throw HarnessError("this kernel does not tell empty tables (PAGEMAP_SCAN)") }
        vmPTE = census.vmPTEByteCount
        self.needed = needed
        self.waste = waste
        var untouchable: [String: UInt] = [:]
        let page = try mode.flatMap { try Self.page(of: pid, mode: $0) }
        chosenMode = mode.map { _ in page?.mode ?? "off" }
        tablesFreed = page?["tables_freed"] ?? 0
        if let page, page.mode != "off", page.mode != "hooks" {
            for (reason, count) in try PassNow.ask(pid: pid).kept {
                untouchable[reason] = UInt(count) * 4096
            }
        }
        if untouchable.isEmpty, let reclaimable = census.tables.reclaimable, empty > reclaimable {
            // Nobody was asked, or said nothing: at least this can be seen from outside.
            untouchable["crossesVMA"] = UInt(empty - reclaimable) * 4096
        }
        let upper = waste > UInt(empty) * 4096 ? waste - UInt(empty) * 4096 : 0
        if upper > 0 { untouchable["upperTables"] = upper }
        self.untouchable = untouchable
    }

    /// nil where `auto` found nothing to do, and has left no page.
    private static func page(of pid: Int32, mode: Mode) throws -> StatsPage? {
        do {
            let page = try StatsPage.read(pid: pid)
            guard page.mode != "off" || mode == .auto else {
                throw HarnessError("process \(pid): off: \(page.refusal)")
            }
            return page
        } catch let error as ProcFSError {
            guard mode == .auto, error.code == .noStatsPage else { throw error }
            return nil
        }
    }

    /// Whether the library does anything there.
    var isServed: Bool { mode != nil && chosenMode != "off" }

    var modeName: String {
        guard let mode else { return "plain" }
        let chosen = chosenMode ?? "?"
        return chosen == mode.rawValue ? mode.rawValue : "\(mode.rawValue) (\(chosen))"
    }

    var servedWaste: UInt {
        let kept = untouchable.values.reduce(0, +)
        return waste > kept ? waste - kept : 0
    }

    var servedPercent: Double { vmPTE > 0 ? 100 * Double(servedWaste) / Double(vmPTE) : 0 }
    var wastePercent: Double { vmPTE > 0 ? 100 * Double(waste) / Double(vmPTE) : 0 }

    var columns: [Column] {
        func number(_ title: String, _ value: String) -> Column {
            Column(title: title, value: value, align: .right)
        }
        let reasons = untouchable.sorted { $0.key < $1.key }
            .map { "\($0.key) \($0.value / 1024)" }.joined(separator: ", ")
        return [
            Column(title: "program", value: program),
            Column(title: "allocator", value: allocator.rawValue),
            Column(title: "mode", value: modeName),
            number("VmPTE", "\(vmPTE / 1024)"),
            number("needed", "\(needed / 1024)"),
            number("waste", "\(waste / 1024)"),
            number("%", decimal(wastePercent, 1)),
            number("served", !isServed ? "-" : "\(servedWaste / 1024)"),
            number("%", !isServed ? "-" : decimal(servedPercent, 1)),
            number("freed", mode == nil ? "-" : "\(tablesFreed)"),
            Column(title: "not to be touched", value: mode == nil ? "-" : reasons),
        ]
    }
}

/// How much, and how long.
struct ChurnScale {
    let isQuick: Bool
    let watermarkKB: Int
    /// Whether page tables are looked at all the while, not only at the end.
    let isRecording: Bool

    /// Behind the last deletion. A scan that finds nothing pauses up to 16 times the delay.
    var settleSeconds: Double { isQuick ? 6 : 40 }
    /// Between two rounds of deletion.
    var roundSeconds: Double { isQuick ? 0.25 : 0.5 }
    /// Of the library: the default ones but for the watermark, or a tenth of every time.
    var settings: [String: String] {
        var settings = ["PTRECLAIM_WATERMARK_KB": "\(watermarkKB)"]
        if isQuick {
            settings["PTRECLAIM_DELAY_MS"] = "100"
            settings["PTRECLAIM_BUDGET_PERCENT"] = "10"
        }
        return settings
    }
}
