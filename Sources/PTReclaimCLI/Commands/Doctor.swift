// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Foundation
internal import Glibc
internal import ProcFS

struct Doctor: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Says what this machine, and a process on it, let the preload library do.",
        discussion: """
            Each line is ok, limited or no, with the reason and what to do about it. What frees \
            tables is measured, in memory of the command's own. The fence is tried with the \
            permissions of whoever runs the command; with a PID, the process's own decide.

            Exit status: 0 where any mode is possible, 1 where none is, 2 usage.

            Examples:
              ptreclaim doctor
              ptreclaim doctor $(pidof redis-server)
              ptreclaim doctor --json | jq .auto.mode
            """)

    @Flag(help: "Print one JSON object (schema ptreclaim.doctor/1).")
    var json = false

    @Argument(help: "A running process to look at, too.", completion: .processes)
    var pid: Int32?

    func validate() throws {
        guard pid ?? 1 > 0 else { throw ValidationError("PID is a positive number.") }
    }

    func run() throws {
        let machine = MachineCheckup()
        let process: ProcessCheckup?
        do {
            process = try pid.map { pid throws(ProcFSError) in
                try ProcessCheckup(pid: pid, on: machine)
            }
        } catch {
            PTReclaimCommand.fail("\(error)", command: "doctor")
        }
        let report = DoctorReport(machine: machine, process: process)
        print(try json ? Format.json(report) : Format.human(report))
        if !report.isAnyModePossible { Glibc.exit(1) }
    }
}

/// Schema ptreclaim.doctor/1.
struct DoctorReport: Encodable {
    private let schema = "ptreclaim.doctor/1"
    let machine: [Finding]
    let process: Process?
    /// Of the process where one was named, or else of the machine.
    let modes: [Finding]
    let auto: Auto
    let isAnyModePossible: Bool

    struct Process: Encodable {
        let pid: Int32
        let command: String
        let findings: [Finding]
    }

    struct Auto: Encodable {
        let mode: String
        let reason: String
    }

    private enum Key: String, CodingKey {
        case schema, machine, process, modes, auto
        case isAnyModePossible = "any_mode_possible"
    }

    init(machine: MachineCheckup, process: ProcessCheckup?) {
        let abilities = process?.abilities ?? machine.abilities
        self.machine = machine.findings
        self.process = process.map {
            Process(pid: $0.pid, command: $0.command, findings: $0.findings)
        }
        modes = Self.costs.map { mode, cost in
            if let refusal = abilities.refusal(of: mode) {
                return Finding(mode.rawValue, .no, refusal, remedy: "see the lines above")
            }
            guard mode.isFenced, let doubt = abilities.fenceDoubt else {
                return Finding(mode.rawValue, .ok, cost)
            }
            return Finding(mode.rawValue, .limited, "\(doubt): \(cost)")
        }
        let (mode, reason) = abilities.automatic
        auto = Auto(mode: mode.rawValue, reason: reason)
        isAnyModePossible = modes.contains { $0.status != .no }
    }

    private static let costs: [(LibraryMode, String)] = [
        (
            .hooks,
            "jemalloc's memory. Its price: calloc of memory that was freed before is zeroed by "
                + "memset, so all of it becomes resident"
        ),
        (
            .madvise,
            "any allocator that purges with madvise. Its price: a thread of its own, and who "
                + "touches a span that is being freed waits for some microseconds"
        ),
        (
            .scan,
            "all memory whose mapping was seen. Its price: as madvise, and a look at the tables "
                + "now and then, 1 % of one core at most"
        ),
    ]

    func encode(to encoder: any Encoder) throws {
        var object = encoder.container(keyedBy: Key.self)
        try object.encode(schema, forKey: .schema)
        try object.encode(machine, forKey: .machine)
        try object.encode(process, forKey: .process)
        try object.encode(modes, forKey: .modes)
        try object.encode(auto, forKey: .auto)
        try object.encode(isAnyModePossible, forKey: .isAnyModePossible)
    }
}

extension Format {
    static func human(_ report: DoctorReport) -> String {
        var lines = ["this machine:"] + report.machine.flatMap(\.lines)
        if let process = report.process {
            lines += ["", "process \(process.pid) \(ScreenText.printable(process.command)):"]
            lines += process.findings.flatMap(\.lines)
        }
        lines += ["", report.process == nil ? "modes:" : "modes, in this process:"]
        lines += report.modes.flatMap(\.lines)
        let auto = Finding(
            "auto", report.auto.mode == "off" ? .no : .ok,
            "\(report.auto.mode): \(report.auto.reason)")
        return (lines + auto.lines).joined(separator: "\n")
    }
}
