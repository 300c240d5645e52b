// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

/// What the subcommands have in common that show one table.
struct TableOptions: ParsableArguments {
    @Flag(help: "Less of everything: shows that it works, and little more.")
    var quick = false

    @Flag(help: "Print one JSON document instead of a table.")
    var json = false
}

/// A table with what was measured against its targets.
struct TableReport<Row: Encodable>: Encodable {
    let schema: String
    let machine: Machine
    /// Each could be typed again.
    let commands: [String]
    let rows: [Row]
    let verdicts: [Verdict]

    init(
        _ name: String, version: Int = 1, machine: Machine, commands: [String], rows: [Row],
        verdicts: [Verdict]
    ) {
        schema = "ptreclaim.benchmarks.\(name)/\(version)"
        self.machine = machine
        self.commands = commands
        self.rows = rows
        self.verdicts = verdicts
    }

    /// Prints it, the rows by `printRows` unless it is JSON.
    /// - Throws: `ExitCode.failure` where a target is missed.
    func finish(_ options: TableOptions, note: String, printRows: ([Row]) -> Void) throws {
        if options.json {
            try printJSON(self)
        } else {
            print(machine.line)
            for command in commands { print("  \(command)") }
            printRows(rows)
            if !note.isEmpty { print(note) }
            for verdict in verdicts { print(verdict.line) }
            flushOutput()
        }
        if verdicts.contains(where: { $0.status == .failed }) { throw ExitCode.failure }
    }
}

extension [String] {
    /// Each once, where it stands first.
    var withoutRepeats: [String] {
        var seen: Set<String> = []
        return filter { seen.insert($0).inserted }
    }
}
