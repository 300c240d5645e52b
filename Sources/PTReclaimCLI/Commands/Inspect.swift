// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import ProcFS

struct Inspect: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows VmPTE, what live pages need of it, and the waste, of a running process.",
        discussion: """
            Looks without stopping the process; with or without the preload library in it. The \
            waste is VmPTE minus what the live pages need: empty PTE tables, mostly.

            Works on processes that one may ptrace: of one's own, mostly, and as root on all.

            Examples:
              ptreclaim inspect $(pidof redis-server)
              ptreclaim inspect 4711 --json | jq .waste_bytes
            """)

    @OptionGroup var process: ProcessArgument

    @Flag(help: "Print one JSON object (schema ptreclaim.inspect/1); what is unknown is null.")
    var json = false

    func run() throws {
        do {
            let census = try PageTableCensus.take(pid: process.pid)
            print(try json ? Format.json(CensusJSON(census)) : Format.human(census))
            for sentence in census.unknown { PTReclaimCommand.note(sentence, command: "inspect") }
        } catch let error as ProcFSError {
            PTReclaimCommand.fail("\(error)", command: "inspect")
        }
    }
}
