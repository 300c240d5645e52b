// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser

struct Simulate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Replays a recorded workload on the model of the page tables.",
        discussion: """
            A process that runs with the preload library and PTRECLAIM_TRACE=FILE records what \
            jemalloc does. The replay shows VmPTE as the model predicts it beside VmPTE as it was \
            measured, both as the growth since the start of the trace.

            Examples:
              PTRECLAIM_TRACE=redis.trace ptreclaim run -- redis-server
              ptreclaim simulate --trace redis.trace --csv redis.csv
            """)

    @Option(help: ArgumentHelp("The recorded workload.", valueName: "file"))
    var trace: String

    @Option(help: ArgumentHelp("Write every sample into this file, too.", valueName: "file"))
    var csv: String?

    func run() throws {
        SimulateTrace(tracePath: trace, csvPath: csv).run(command: "simulate")
    }
}
