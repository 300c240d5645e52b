// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import ProcFS

struct Stats: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows what the preload library did in a running process.",
        discussion: """
            Counts what was zapped, not what was freed: `ptreclaim inspect` sees that.

            Examples:
              ptreclaim stats $(pidof redis-server)
              ptreclaim stats 4711 --json
            """)

    @OptionGroup var process: ProcessArgument

    @Flag(help: "Print one JSON object (schema ptreclaim.stats/1).")
    var json = false

    func run() throws {
        do {
            let page = try StatsPage.read(pid: process.pid)
            print(try json ? Format.json(StatsJSON(page)) : Format.human(page))
        } catch let error as ProcFSError {
            PTReclaimCommand.fail("\(error)", command: "stats")
        }
    }
}
