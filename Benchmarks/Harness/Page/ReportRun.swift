// SPDX-License-Identifier: Apache-2.0

import Foundation

/// Measures all that a page shows, by what the subcommands measure with.
struct ReportRun {
    let shim: Shim
    let isQuick: Bool
    /// The most pairs of windows of one comparison.
    let pairs: Int
    let command: String

    /// What it takes on two cores.
    var minutes: String { isQuick ? "5" : "15 to 30" }

    /// - Parameter save: called behind each measurement: who stops it keeps what there is.
    func play(save: (ReportDocument) throws -> Void) throws {
        let watermarkKB = Int(Allocators.wasteByteCountAllowed >> 10)
        let scale = ChurnScale(isQuick: isQuick, watermarkKB: watermarkKB, isRecording: true)
        let start = ContinuousClock.now
        var document = ReportDocument(
            schema: ReportDocument.schema, isQuick: isQuick, watermarkKB: watermarkKB, pairs: pairs,
            command: command, date: Date.now.formatted(.iso8601), facts: Fact.all())
        let groups = Allocators.groups(shim: shim, scale: scale)
        let scenarios = Waits.Scenario.all(threads: nil)
        let total = groups.count + Modes.Comparison.all.count + 1 + scenarios.count
        var done = 0
        func attempt<Value>(
            _ what: String, _ name: String, _ measure: () throws -> Value
        ) -> Attempt<Value> {
            done += 1
            Progress.say("\(done)/\(total) \(what): \(name)")
            let attempt = Attempt(name, measure)
            Progress.end()
            if let reason = attempt.reason { Progress.say("  not measured: \(reason)") }
            return attempt
        }
        func saved() throws {
            document.seconds = (ContinuousClock.now - start).seconds
            document.isComplete = done == total
            try save(document)
        }
        for group in groups {
            document.churns.append(
                attempt("page tables", "\(group.program), \(group.allocator.rawValue)") {
                    try group.play()
                })
            try saved()
        }
        for scenario in scenarios {
            document.waits.append(
                attempt("waits", scenario.name) {
                    try scenario.play(shim: shim, seconds: isQuick ? 3 : 20)
                })
            try saved()
        }
        for comparison in Modes.Comparison.all {
            document.comparisons.append(
                attempt("speed", comparison.name) {
                    try comparison.play(shim: shim, pairs: pairs, isQuick: isQuick)
                })
            try saved()
        }
        // The default decay is measured above, mode by mode.
        document.speeds.append(
            attempt("speed", Self.noDecayName) {
                try Speed.compare(
                    .zero, server: NotInstalled.find("redis-server"), shim: shim,
                    window: Window(
                        client: NotInstalled.find("redis-benchmark"),
                        requestCount: isQuick ? 200_000 : 800_000),
                    pairs: pairs, name: Self.noDecayName)
            })
        try saved()
    }

    private static let noDecayName = "redis-server, dirty_decay_ms:0, auto"
}
