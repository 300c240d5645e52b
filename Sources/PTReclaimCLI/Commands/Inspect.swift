// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Foundation
internal import ProcFS

struct Inspect: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows VmPTE, what live pages need of it, and the waste, of a running process.",
        discussion: """
            Looks without stopping the process; with or without the preload library in it. The \
            waste is VmPTE minus what the live pages need: empty PTE tables, mostly.

            Works on processes that one may ptrace: of one's own, mostly, and as root on all.

            --map draws the address space: a cell for each 2 MiB that a PTE table maps, or for a \
            group of them where there are many; the fuller its tables, the darker, and x where \
            they are all empty.

            Examples:
              ptreclaim inspect $(pidof redis-server)
              ptreclaim inspect 4711 --map
              ptreclaim inspect 4711 --svg /tmp/tables.svg
              ptreclaim inspect 4711 --json | jq .waste_bytes
            """)

    @OptionGroup var process: ProcessArgument

    @Flag(help: "Print one JSON object (schema ptreclaim.inspect/1); what is unknown is null.")
    var json = false

    @Flag(help: "Draw the address space in the terminal.")
    var map = false

    @Option(
        help: ArgumentHelp(
            "Draw the address space as an SVG picture; - for stdout.", valueName: "file"),
        completion: .file(extensions: ["svg"]))
    var svg: String?

    func validate() throws {
        guard !map || !json && svg == nil else {
            throw ValidationError("--map goes with neither --json nor --svg.")
        }
        guard svg != "-" || !json else {
            throw ValidationError("--svg - leaves stdout to the picture: no --json.")
        }
    }

    func run() throws {
        do {
            let census = svg == nil ? try report() : try draw()
            for sentence in census.unknown { PTReclaimCommand.note(sentence, command: "inspect") }
        } catch let error as ProcFSError {
            PTReclaimCommand.fail("\(error)", command: "inspect")
        }
    }

    private func report() throws -> PageTableCensus {
        guard map else {
            let census = try PageTableCensus.take(pid: process.pid)
            print(try json ? Format.json(CensusJSON(census)) : Format.human(census))
            return census
        }
        let columns = Terminal.columns
        let (census, map) = try PageTableMap.take(
            pid: process.pid, cellsPerRow: MapText.cellsPerRow(columns: columns),
            rowLimit: max(8, (Terminal.size?.rows ?? 40) / 2 - 4))
        print(Format.human(census))
        if let map { print("\n" + text(map, columns).joined(separator: "\n")) }
        return census
    }

    private func text(_ map: PageTableMap, _ columns: Int) -> [String] {
        MapText(
            map: map, columns: columns, isUTF8: ScreenText.isUTF8, isColored: Terminal.isColored
        ).lines
    }

    private func draw() throws -> PageTableCensus {
        let (census, drawn) = try PageTableMap.take(
            pid: process.pid, cellsPerRow: MapDrawing.cellsPerRow, rowLimit: MapDrawing.rowLimit)
        guard let drawn, let svg else {
            PTReclaimCommand.fail(census.unknown.joined(separator: " "), command: "inspect")
        }
        let date = Date.now.formatted(.iso8601.year().month().day())
        let origin =
            "\(PTReclaimCommand.configuration.version), Linux \(MachineCheckup.kernelRelease), "
            + date
        let document = try MapDrawing(map: drawn, census: census, origin: origin).document()
        if svg == "-" {
            print(document, terminator: "")
            return census
        }
        OutputFile(path: svg, command: "inspect").write(document)
        print(try json ? Format.json(CensusJSON(census)) : Format.human(census))
        return census
    }
}
