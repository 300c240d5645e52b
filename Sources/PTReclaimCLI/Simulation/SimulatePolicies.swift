// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import Glibc
internal import PageTableSimulator
internal import TextTable

/// A workload under one policy after the other, as a command shows it.
struct SimulatePolicies {
    let workload: Workload
    let policies: [Policy]
    let costsPath: String?
    let csvPath: String?
    let svgPath: String?

    /// An outcome, and what it took to get it.
    private struct Row {
        let outcome: Outcome
        let cpuSeconds: Double
        let wallSeconds: Double
        let peakByteCount: UInt
    }

    static func list(_ knobs: Policy.Knobs) -> String {
        let workloads = Workload.names.map { line($0.name, $0.meaning) }
        let policies = Policy.all(knobs).map { line($0.name, $0.meaning) }
        return (["workloads:"] + workloads + ["policies:"] + policies).joined(separator: "\n")
    }

    private static func line(_ name: String, _ meaning: String) -> String {
        "  \(name)".explained(by: meaning, from: 36)
    }

    func run() throws {
        let costs = readCosts()
        print("\(workload.name):".explained(by: workload.meaning, from: 2))
        for (name, value) in workload.parameters { print(Self.line(name, value)) }
        print("costs in ns, measured on \(costs.measuredOn):")
        for cost in Cost.allCases { print(Self.line("\(cost) \(costs[cost])", cost.meaning)) }
        print()
        var comparison = Comparison(workload, costs: costs)
        var rows: [Row] = []
        for policy in policies {
            let clock = ContinuousClock()
            let start = clock.now
            let outcome = try comparison.run(policy)
            let elapsed = (clock.now - start) / .seconds(1)
            rows.append(
                Row(
                    outcome: outcome, cpuSeconds: outcome.work.seconds(costs),
                    wallSeconds: elapsed, peakByteCount: Self.peakByteCount()))
        }
        Self.show(rows)
        for (path, text) in [(csvPath, comparison.csv), (svgPath, comparison.svg)] {
            if let path { OutputFile(path: path, command: "simulate").write(text) }
        }
    }

    private func readCosts() -> Costs {
        guard let costsPath else { return .default }
        do {
            return try Costs.read(from: Data(contentsOf: URL(fileURLWithPath: costsPath)))
        } catch let error as CostsError {
            PTReclaimCommand.fail("\(costsPath): \(error)", command: "simulate", status: 2)
        } catch {
            PTReclaimCommand.fail(
                "\(costsPath): \(FileError.reason(error))", command: "simulate", status: 2)
        }
    }

    /// One table, or where the terminal is too narrow for it one below the other.
    private static func show(_ rows: [Row]) {
        let whole = TextTable<Row> { [policy($0)] + memory($0) + work($0) }
        let text = whole.string(for: rows) ?? ""
        if text.split(separator: "\n").allSatisfy({ $0.count <= Terminal.columns }) {
            return print(text)
        }
        TextTable<Row> { [policy($0)] + memory($0) }.print(rows)
        TextTable<Row> { [policy($0)] + work($0) }.print(rows)
    }

    private static func policy(_ row: Row) -> Column {
        Column(title: "policy", value: row.outcome.policy.name)
    }

    /// At the end.
    private static func memory(_ row: Row) -> [Column] {
        let end = row.outcome.end
        return [
            Column(title: "VIRT", value: bytes(end.virtualByteCount), align: .right),
            Column(title: "RES", value: bytes(end.residentByteCount), align: .right),
            Column(title: "VmPTE", value: bytes(end.vmPTEByteCount), align: .right),
            Column(title: "waste", value: bytes(end.wasteByteCount), align: .right),
            Column(title: "PMD+PUD", value: bytes(end.upperByteCount), align: .right),
            Column(title: "idle", value: bytes(row.outcome.idleUpperByteCount), align: .right),
        ]
    }

    private static func work(_ row: Row) -> [Column] {
        let outcome = row.outcome
        return [
            Column(title: "scanned", value: outcome.work.tablesScanned, align: .right),
            Column(title: "entries", value: outcome.work.entriesRead, align: .right),
            Column(title: "freed", value: outcome.tablesFreed, align: .right),
            Column(title: "rebuilt", value: outcome.tablesRebuilt, align: .right),
            Column(title: "CPU s", value: short(row.cpuSeconds), align: .right),
            Column(title: "run s", value: short(row.wallSeconds), align: .right),
            Column(title: "peak", value: bytes(row.peakByteCount), align: .right),
        ]
    }

    private static func bytes(_ byteCount: UInt) -> String {
        let value = Double(byteCount)
        for (unit, name) in [(0x1p40, "TiB"), (0x1p30, "GiB"), (0x1p20, "MiB")]
        where value >= unit {
            return "\(short(value / unit)) \(name)"
        }
        return "\(byteCount >> 10) KiB"
    }

    /// With three digits, as far as it has a fraction: eleven columns of these fit a terminal.
    private static func short(_ value: Double) -> String {
        String(format: "%.\(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)f", value)
    }

    /// The most memory that this process had at one time so far.
    private static func peakByteCount() -> UInt {
        var usage = rusage()
        let who = __rusage_who_t(RUSAGE_SELF.rawValue)
        guard unsafe getrusage(who, &usage) == 0 else { return 0 }
        return UInt(usage.ru_maxrss) * 1024
    }
}
