// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import ProcFS

struct Ctl: ParsableCommand {
    enum Action: String, ExpressibleByArgument, CaseIterable {
        case on, off, now
    }

    static let configuration = CommandConfiguration(
        abstract: "Switches the preload library of a running process off or on, or makes it act.",
        discussion: """
            off: nothing is freed any more, and the process goes on as without the library; a child \
            that it forks is off, too. on: it goes on. now: one pass over all of the process's \
            memory, at once, also while it is off; waits for it and prints what came of it. In mode \
            hooks nothing is deferred, so there is nothing to do now.

            Works on processes of one's own, and as root on all.

            Examples:
              ptreclaim ctl $(pidof redis-server) off
              ptreclaim ctl $(pidof redis-server) on
              ptreclaim ctl 4711 now --json
            """)

    @OptionGroup var process: ProcessArgument

    @Argument(help: "What to do.")
    var action: Action

    @Flag(help: "Print one JSON object (schema ptreclaim.ctl/1).")
    var json = false

    /// How long `now` waits for its answer.
    private static let limit = Duration.seconds(10)

    func run() throws {
        do {
            let outcome = try act()
            print(try json ? Format.json(CtlJSON(outcome)) : Format.human(outcome))
        } catch let error as ProcFSError {
            PTReclaimCommand.fail("\(error)", command: "ctl")
        }
    }

    struct Outcome {
        let pid: Int32
        let action: Action
        let mode: String
        let isOff: Bool
        let wasOff: Bool
        /// nil where no pass was made.
        let report: ControlPage.PassReport?
    }

    private func act() throws(ProcFSError) -> Outcome {
        let page = try ControlPage(pid: process.pid)
        let stats = page.stats
        var report: ControlPage.PassReport?
        var (isOff, wasOff) = (stats.isOff, stats.isOff)
        switch action {
        case .on, .off:
            isOff = action == .off
            wasOff = page.setOff(isOff)
        case .now where stats.hasServiceThread:
            report = try page.reclaimNow(within: Self.limit)
        case .now: break
        }
        return Outcome(
            pid: stats.pid, action: action, mode: stats.mode, isOff: isOff, wasOff: wasOff,
            report: report)
    }
}

extension Format {
    static func human(_ outcome: Ctl.Outcome) -> String {
        let process = "process \(outcome.pid) (mode \(outcome.mode))"
        guard outcome.action == .now else {
            let state = outcome.isOff ? "off: nothing is freed there" : "on"
            let already = outcome.isOff == outcome.wasOff ? "was already " : "is now "
            return "\(process) \(already)\(state)"
        }
        guard let report = outcome.report else {
            let sentence =
                "nothing is deferred in mode \(outcome.mode), so there is nothing to do now"
            return "\(process): \(outcome.isOff ? "switched off; " : "")\(sentence)"
        }
        var lines = [
            process + (outcome.isOff ? ", which is off but for this pass" : ""),
            row("VmPTE before", kilobytes(report.vmPTEBeforeByteCount)),
            row("VmPTE after", kilobytes(report.vmPTEAfterByteCount)),
            row("tables looked at", "\(report.tablesLookedAt)"),
            row("tables freed", "\(report.tablesFreed)"),
        ]
        // Where there is no table, none is kept.
        for (reason, count) in report.kept where reason != "absent" && reason != "unmapped" {
            lines.append(row("kept: \(reason)", "\(count)"))
        }
        lines.append(row("time", milliseconds(report.nanoseconds)))
        return lines.joined(separator: "\n")
    }
}

/// Schema ptreclaim.ctl/1. `report` is null where no pass was made.
struct CtlJSON: Encodable {
    private let schema = "ptreclaim.ctl/1"
    private let outcome: Ctl.Outcome

    init(_ outcome: Ctl.Outcome) { self.outcome = outcome }

    private enum Key: String, CodingKey {
        case schema, pid, action, mode, report
        case isOff = "is_off"
        case wasOff = "was_off"
    }

    private struct Report: Encodable {
        let report: ControlPage.PassReport

        private enum Key: String, CodingKey {
            case kept, nanoseconds
            case vmPTEBefore = "vm_pte_before_bytes"
            case vmPTEAfter = "vm_pte_after_bytes"
            case tablesLookedAt = "tables_looked_at"
            case tablesFreed = "tables_freed"
        }

        func encode(to encoder: any Encoder) throws {
            var object = encoder.container(keyedBy: Key.self)
            try object.encode(report.vmPTEBeforeByteCount, forKey: .vmPTEBefore)
            try object.encode(report.vmPTEAfterByteCount, forKey: .vmPTEAfter)
            try object.encode(report.tablesLookedAt, forKey: .tablesLookedAt)
            try object.encode(report.tablesFreed, forKey: .tablesFreed)
            try object.encode(report.nanoseconds, forKey: .nanoseconds)
            try object.encode(
                Dictionary(uniqueKeysWithValues: report.kept.map { ($0.reason, $0.count) }),
                forKey: .kept)
        }
    }

    func encode(to encoder: any Encoder) throws {
        var object = encoder.container(keyedBy: Key.self)
        try object.encode(schema, forKey: .schema)
        try object.encode(outcome.pid, forKey: .pid)
        try object.encode(outcome.action.rawValue, forKey: .action)
        try object.encode(outcome.mode, forKey: .mode)
        try object.encode(outcome.isOff, forKey: .isOff)
        try object.encode(outcome.wasOff, forKey: .wasOff)
        try object.encode(outcome.report.map { Report(report: $0) }, forKey: .report)
    }
}
