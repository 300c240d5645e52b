// SPDX-License-Identifier: Apache-2.0

/// The outcomes of one workload, side by side.
public struct Comparison: Sendable {
    public let workload: Workload
    public let costs: Costs
    public private(set) var outcomes: [Outcome] = []

    public init(_ workload: Workload, costs: Costs) {
        self.workload = workload
        self.costs = costs
    }

    /// Plays the workload under `policy`, too.
    @discardableResult
    public mutating func run(_ policy: Policy) throws -> Outcome {
        let outcome = try workload.run(policy, costs: costs)
        outcomes.append(outcome)
        return outcome
    }

    private static let columns = [
        "policy", "seconds", "vm_pte_bytes", "waste_bytes", "pmd_pud_bytes", "virtual_bytes",
        "resident_bytes", "tables_scanned", "entries_read", "tables_freed", "tables_rebuilt",
        "cpu_seconds",
    ]

    /// A line for each sample; what is counted to the end only stands in the last line of a policy.
    public var csv: String {
        var lines = [Self.columns.joined(separator: ",")]
        for outcome in outcomes {
            for (index, sample) in outcome.samples.enumerated() {
                let isLast = index == outcome.samples.count - 1
                let totals = [
                    "\(outcome.work.tablesScanned)", "\(outcome.work.entriesRead)",
                    "\(outcome.tablesFreed)", "\(outcome.tablesRebuilt)",
                    "\(outcome.work.seconds(costs))",
                ]
                let fields =
                    [
                        outcome.policy.name, "\(sample.seconds)", "\(sample.vmPTEByteCount)",
                        "\(sample.wasteByteCount)", "\(sample.upperByteCount)",
                        "\(sample.virtualByteCount)", "\(sample.residentByteCount)",
                    ] + (isLast ? totals : totals.map { _ in "" })
                lines.append(fields.joined(separator: ","))
            }
        }
        return lines.joined(separator: "\n") + "\n"
    }

    /// VmPTE over time, a line for each policy.
    public var svg: String {
        Chart.svg(
            title: "VmPTE: \(workload.name)",
            series: outcomes.map { outcome in
                (
                    outcome.policy.name,
                    outcome.samples.map { ($0.seconds, Double($0.vmPTEByteCount)) }
                )
            })
    }
}
