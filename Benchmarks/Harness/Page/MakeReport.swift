// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation

struct MakeReport: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "report",
        abstract: "Measures, and shows the figures as one HTML page. Also `--report DIR`.",
        discussion: """
            Writes DIR/index.html, which needs no other file, and DIR/data.json with all figures \
            (schema \(ReportDocument.schema)); files of these names are replaced. Page tables over \
            time as `allocators` plays them, speed as `modes` and `speed`, waits as `waits`. Both \
            files are written behind each measurement, so a run that was stopped leaves a page, too. \
            What cannot be measured here is a sentence on the page. 15 to 30 minutes and 8 GB of \
            memory; 5 minutes with --quick.
            """)

    @Argument(help: "The directory to write to; it is made where it does not exist.")
    var directory: String

    @Flag(help: "Less of everything: shows that it works, and little more.")
    var quick = false

    @Option(help: "The most pairs of windows of a comparison; 12, with --quick 4.")
    var pairs: Int?

    @Option(help: "Measure nothing: make the page from this data.json.")
    var from: String?

    func validate() throws {
        guard pairs ?? 3 >= 3 else { throw ValidationError("--pairs must be 3 or more") }
        guard from == nil || (!quick && pairs == nil) else {
            throw ValidationError("with --from nothing is measured: no --quick and no --pairs")
        }
    }

    func run() throws {
        let directory = URL(fileURLWithPath: directory, isDirectory: true)
        let page = directory.appending(path: "index.html").path
        if let from {
            let document = try ReportDocument.read(from)
            try ReportDocument.prepare(directory)
            try document.write(to: directory)
            print(page)
            return
        }
        try ReportDocument.prepare(directory)
        let shim = try Shim.prepare()
        let options = (quick ? " --quick" : "") + (pairs.map { " --pairs \($0)" } ?? "")
        let run = ReportRun(
            shim: shim, isQuick: quick, pairs: pairs ?? (quick ? 4 : 12),
            command: "swift run -c release Benchmarks --report DIR" + options)
        Progress.say("This takes about \(run.minutes) minutes. The page so far is always \(page)")
        try run.play { try $0.write(to: directory) }
        print(page)
    }
}

extension Benchmarks {
    /// `--report DIR …` is what one looks for first, and a root command with a default subcommand
    /// can have no options of its own: it stands for `report DIR …`.
    static func subcommandFirst(_ arguments: [String]) -> [String] {
        let option = "--report"
        // A subcommand stands first, and has its own options.
        guard arguments.first?.hasPrefix("-") == true,
            let index = arguments.firstIndex(where: {
                $0 == option || $0.hasPrefix(option + "=")
            })
        else { return arguments }
        let directory =
            arguments[index] == option
            ? [] : [String(arguments[index].dropFirst(option.count + 1))]
        return ["report"] + arguments[..<index] + directory + arguments[(index + 1)...]
    }
}
