// SPDX-License-Identifier: Apache-2.0

import ProcFS
import ReclaimCore

/// One pass that a process makes because it was asked to, through its stats page.
struct PassNow {
    let tablesFreed: Int
    /// Empty tables that it left, by the reason's name.
    let kept: [String: Int]

    /// What a mode may not touch, by its rules. Anything else that it keeps it should have freed.
    private static let untouchable: [KeptReason] = [
        .crossesVMA, .specialVMA, .ownStack, .privateFile, .writeProtectRegistered, .registered,
        .losesAttributes, .unseenMapping,
    ]

    /// Of the kept ones, those that the mode may not touch.
    var untouchableCount: Int { kept.values.reduce(0, +) }

    /// Asks `pid` and waits for the answer.
    /// - Throws: where the page cannot be written, or nobody answers for ten seconds.
    static func ask(pid: Int32) throws -> PassNow {
        let report = try ControlPage(pid: pid).reclaimNow(within: .seconds(10))
        let names = Set(untouchable.map { "\($0.name)" })
        let kept = report.kept.filter { names.contains($0.reason) }
        return PassNow(
            tablesFreed: Int(report.tablesFreed),
            kept: Dictionary(uniqueKeysWithValues: kept.map { ($0.reason, Int($0.count)) }))
    }
}
