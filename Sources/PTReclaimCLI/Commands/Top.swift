// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import ProcFS

struct Top: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows all processes, those that waste most page tables first.",
        usage: """
            ptreclaim top [--once] [--json] [--interval <seconds>] [--lines <n>]
                          [--sort <column>]
            """,
        discussion: """
            Looks without stopping any process. A process that one may not ptrace is counted and not \
            shown: run as root to see all. Kernel threads have no page tables of their own. A process \
            whose first thread has left is shown under the ID of another one.

            On a terminal it looks again every few seconds, and takes a tenth of the time of one core \
            at most: q quits, space pauses, the arrows scroll. Into a pipe or a file, with --once or \
            --json it looks once.

            ! stands for waste of 256 kB or more that is a quarter of VmPTE or more.

            Examples:
              ptreclaim top
              ptreclaim top --once --lines 20 --sort vmpte
              ptreclaim top --json | jq '.processes[0]'
            """)

    @Flag(help: "Look once, also on a terminal.")
    var once = false

    @Flag(help: "Print one JSON object (schema ptreclaim.top/1); what is unknown is null.")
    var json = false

    @Option(help: ArgumentHelp("Time from one look to the next.", valueName: "seconds"))
    var interval = 2.0

    @Option(help: ArgumentHelp("Processes to show, at most.", valueName: "n"))
    var lines: Int?

    @Option(help: ArgumentHelp("What comes first.", valueName: "column"))
    var sort = ProcessTable.Order.waste

    func validate() throws {
        try LiveOptions.check(interval: interval)
        guard lines ?? 1 > 0 else { throw ValidationError("--lines is a positive number.") }
    }

    func run() throws {
        if !once, !json, let screen = LiveScreen() {
            var live = TopScreen(order: sort, interval: .seconds(interval), limit: lines)
            live.run(on: screen)
            return
        }
        let table = ProcessTable(by: sort)
        for sentence in table.notes { PTReclaimCommand.note(sentence, command: "top") }
        guard !json else {
            print(try Format.json(TopJSON(table, limit: lines ?? .max)))
            return
        }
        let columns = Terminal.columns
        let rows = table.rows.prefix(lines ?? .max)
        for line in [table.heading] + ProcessTable.lines(rows, columns: columns) {
            print(line.text(columns: columns, isColored: Terminal.isColored))
        }
    }
}

/// What the live commands have in common.
enum LiveOptions {
    static func check(interval: Double) throws {
        guard (0.1...86_400).contains(interval) else {
            throw ValidationError("--interval is a number of seconds from 0.1 to 86400.")
        }
    }
}
