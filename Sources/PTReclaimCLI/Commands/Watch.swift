// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import ProcFS

struct Watch: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows VmPTE, what is needed of it, waste and RSS of a process while it runs.",
        discussion: """
            Looks without stopping the process; with or without the preload library in it. It is told \
            when the process executes a program, forks (a child that ends before the next look is not \
            seen) or ends; then the last figures stay, and the exit status is 0.

            On a terminal q quits, and n has the library free at once what it can, as ptreclaim ctl \
            PID now. Into a pipe or a file there is a line for each look, in columns with a heading, - \
            for what is unknown; what happens to the process is told on stderr.

            VmPTE and RSS are read each time. needed and waste take a look at all tables, so with many \
            of them they are looked at more seldom, for at most 0.25 % of one core, and are shown with \
            their age.

            Examples:
              ptreclaim watch $(pidof redis-server)
              ptreclaim watch 4711 --interval 10 >waste.txt
              ptreclaim watch 4711 --count 60 --json | jq .waste_bytes
            """)

    @OptionGroup var process: ProcessArgument

    @Option(help: ArgumentHelp("Time from one look to the next.", valueName: "seconds"))
    var interval = 1.0

    @Option(help: ArgumentHelp("Looks, at most. Without it there is no end.", valueName: "n"))
    var count: Int?

    @Flag(help: "Print one JSON object a line (schema ptreclaim.watch/1); what is unknown is null.")
    var json = false

    func validate() throws {
        try LiveOptions.check(interval: interval)
        guard count ?? 1 > 0 else { throw ValidationError("--count is a positive number.") }
    }

    func run() throws {
        do {
            let watcher = try Watcher(pid: process.pid)
            guard !json, let screen = LiveScreen() else {
                try WatchLines(interval: .seconds(interval), limit: count, isJSON: json)
                    .run(watcher)
                return
            }
            var live = WatchScreen(
                watcher, interval: .seconds(interval), limit: count, on: screen)
            live.run()
        } catch let error as ProcFSError {
            PTReclaimCommand.fail("\(error)", command: "watch")
        }
    }
}
