// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import ProcFS

struct Stats: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows what the preload library did in a running process.",
        discussion: """
            Counters of a mode that the process is not in are left out while they are zero; --all \
            shows them, too. In mode hooks the library counts what was zapped, not what was freed: \
            `ptreclaim inspect` sees that.

            Examples:
              ptreclaim stats $(pidof redis-server)
              ptreclaim stats 4711 --all
              ptreclaim stats 4711 --json
            """)

    @OptionGroup var process: ProcessArgument

    @Flag(help: "Print one JSON object (schema ptreclaim.stats/2), with every counter.")
    var json = false

    @Flag(help: "Show every counter and every reason, zeros too.")
    var all = false

    func run() throws {
        do {
            let page = try StatsPage.read(pid: process.pid)
            print(try json ? Format.json(StatsJSON(page)) : Format.human(page, all: all))
        } catch let error as ProcFSError {
            PTReclaimCommand.fail("\(error)", command: "stats")
        }
    }
}
