// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import PageTableSimulator

struct Simulate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Plays a workload on the model of the page tables, under each policy.",
        discussion: """
            A workload is made up (--list), or recorded: a process that runs with the preload \
            library and PTRECLAIM_TRACE=FILE records what jemalloc does. The replay of a trace \
            shows VmPTE as the model predicts it beside VmPTE as it was measured, both as the \
            growth since the start of the trace.

            Needs no privilege, and no kernel that frees tables.

            Examples:
              ptreclaim simulate --list
              ptreclaim simulate server --csv server.csv --svg server.svg
              ptreclaim simulate server --scale 1/64 --policy nothing --policy hooks
              PTRECLAIM_TRACE=redis.trace ptreclaim run -- redis-server
              ptreclaim simulate --trace redis.trace --csv redis.csv
            """)

    @Argument(
        help: "The workload: one that --list shows.",
        completion: .list(Workload.names.map(\.name)))
    var workload: String?

    @Option(
        help: ArgumentHelp("A recorded workload instead.", valueName: "file"), completion: .file())
    var trace: String?

    @Option(
        help: ArgumentHelp("Only this policy; may be given several times.", valueName: "name"),
        completion: .list(Policy.all(Policy.Knobs()).map(\.name)))
    var policy: [String] = []

    @Option(
        help: ArgumentHelp(
            "Size of the address space, as a part of the workload's own: 1/64 or 0.5.",
            valueName: "part"))
    var scale: String = "1"

    @Option(help: ArgumentHelp("Where the random numbers start.", valueName: "number"))
    var seed: UInt64 = 1

    @Option(help: ArgumentHelp("pt-reclaim-call: from one call to the next.", valueName: "seconds"))
    var every: Double = Policy.Knobs().everySeconds

    @Option(help: ArgumentHelp("task-work: from one piece to the next.", valueName: "seconds"))
    var taskWorkDelay: Double = Policy.Knobs().taskWorkDelay

    @Option(help: ArgumentHelp("task-work: what a piece looks at.", valueName: "MiB"))
    var taskWorkSize: UInt = Policy.Knobs().taskWorkSize >> 20

    @Option(help: ArgumentHelp("scan: of one CPU.", valueName: "share"))
    var scanShare: Double = Policy.Knobs().scanShare

    @Option(
        help: ArgumentHelp("What things cost, as ptreclaim costs writes it.", valueName: "file"),
        completion: .file())
    var costs: String?

    @Option(
        help: ArgumentHelp("Write every sample into this file, too.", valueName: "file"),
        completion: .file())
    var csv: String?

    @Option(
        help: ArgumentHelp("Draw VmPTE over time into this file.", valueName: "file"),
        completion: .file())
    var svg: String?

    @Flag(help: "List workloads and policies.")
    var list = false

    func validate() throws {
        if workload == nil, trace == nil, !list {
            throw ValidationError(
                "Name a workload, or a file with --trace; --list shows what there is.")
        }
    }

    func run() throws {
        if let trace {
            guard workload == nil, policy.isEmpty, svg == nil else {
                fail("a trace has no workload, policy or chart")
            }
            SimulateTrace(tracePath: trace, csvPath: csv).run(command: "simulate")
        } else if list {
            print(SimulatePolicies.list(knobs()))
        } else {
            try SimulatePolicies(
                workload: checkedWorkload(), policies: checkedPolicies(), costsPath: costs,
                csvPath: csv, svgPath: svg
            ).run()
        }
    }

    private func fail(_ message: String) -> Never {
        PTReclaimCommand.fail(message, command: "simulate", status: 2)
    }

    private func knobs() -> Policy.Knobs {
        var knobs = Policy.Knobs()
        knobs.everySeconds = every
        knobs.taskWorkDelay = taskWorkDelay
        guard taskWorkSize < 1 << 27 else { fail("task_work must look at 128 TiB or less") }
        knobs.taskWorkSize = taskWorkSize << 20
        knobs.scanShare = scanShare
        if let complaint = knobs.complaint { fail(complaint) }
        return knobs
    }

    private func checkedPolicies() -> [Policy] {
        let knobs = knobs()
        if policy.isEmpty { return Policy.all(knobs) }
        return policy.map { name in
            guard let policy = Policy.named(name, knobs) else {
                let names = Policy.all(knobs).map(\.name).joined(separator: ", ")
                fail("no policy is called \(name): \(names)")
            }
            return policy
        }
    }

    private func checkedWorkload() -> Workload {
        let name = workload ?? ""
        let parts = scale.split(separator: "/", omittingEmptySubsequences: false).map {
            Double($0) ?? .nan
        }
        let value = parts.count == 1 ? parts[0] : parts.count == 2 ? parts[0] / parts[1] : .nan
        guard value >= 0x1p-16, value <= 1 else {
            fail("the scale must be a number from 1/65536 to 1: \(scale)")
        }
        guard let workload = Workload.named(name, scale: value, seed: seed) else {
            let names = Workload.names.map(\.name).joined(separator: ", ")
            fail("no workload is called \(name): \(names)")
        }
        return workload
    }
}
