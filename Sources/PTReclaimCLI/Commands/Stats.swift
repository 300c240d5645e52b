// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Foundation
internal import ProcFS

struct Stats: ParsableCommand {
    enum OutputFormat: String, ExpressibleByArgument, CaseIterable {
        case human, json, prometheus
    }

    static let configuration = CommandConfiguration(
        abstract: "Shows what the preload library did in a running process.",
        usage: """
            ptreclaim stats <pid> [--format <format> | --json] [--all]
            ptreclaim stats --format prometheus (<pid> ... | --all-processes)
            """,
        discussion: """
            Counters of a mode that the process is not in are left out while they are zero; --all \
            shows them, too. In mode hooks the library counts what was zapped, not what was freed: \
            ptreclaim inspect sees that.

            --format prometheus takes several processes, and adds what inspect sees: VmPTE, what \
            the live pages need of it, and the waste, also of processes without the library. It \
            has every counter, in seconds and bytes. A process that has ended is left out.

            Examples:
              ptreclaim stats $(pidof redis-server)
              ptreclaim stats 4711 --all
              ptreclaim stats 4711 --json | jq .counters.tables_freed
              ptreclaim stats --format prometheus 4711 4712
              ptreclaim stats --format prometheus --all-processes
            """)

    @Argument(help: "Process ID; several with --format prometheus.", completion: .processes)
    var pid: [Int32] = []

    @Option(
        help: ArgumentHelp(
            "How to print: for people, as one JSON object (schema ptreclaim.stats/2) with every "
                + "counter, or as metrics.", valueName: "format"))
    var format: OutputFormat?

    @Flag(help: "The same as --format json.")
    var json = false

    @Flag(help: "Show every counter and every reason, zeros too.")
    var all = false

    @Flag(help: "All processes that have the library; with --format prometheus.")
    var allProcesses = false

    func validate() throws {
        guard pid.allSatisfy({ $0 > 0 }) else {
            throw ValidationError("PID is a positive number.")
        }
        guard format == nil || format == .json || !json else {
            throw ValidationError("--json and --format \(format?.rawValue ?? "") contradict.")
        }
        guard pid.isEmpty == allProcesses else {
            throw ValidationError(
                pid.isEmpty
                    ? "Name a process by its PID, or --all-processes with --format prometheus."
                    : "Name processes, or --all-processes, not both.")
        }
        guard format == .prometheus || pid.count == 1 else {
            throw ValidationError("Several processes need --format prometheus.")
        }
    }

    func run() throws {
        if format == .prometheus {
            printMetrics()
            return
        }
        do {
            let page = try StatsPage.read(pid: pid[0])
            let isJSON = json || format == .json
            print(try isJSON ? Format.json(StatsJSON(page)) : Format.human(page, all: all))
        } catch let error as ProcFSError {
            PTReclaimCommand.fail("\(error)", command: "stats")
        }
    }

    // MARK: Prometheus

    /// Prints all that can be had, and then fails if something could not that was asked for.
    private func printMetrics() {
        var exposition = Exposition()
        var count: UInt = 0
        var failures: [ProcFSError] = []
        for pid in allProcesses ? ProcessList.pids() : ProcessIDs.unique(pid) {
            do throws(ProcFSError) {
                let library = try ProcessMetrics.Library(pid: pid)
                if allProcesses, library.isAbsent { continue }
                let metrics = try ProcessMetrics(pid: pid, library: library)
                metrics.add(to: &exposition)
                for sentence in metrics.unknown { note("process \(pid): \(sentence)") }
                count += 1
            } catch {
                if !hasEnded(error) { failures.append(error) }
            }
        }
        if allProcesses {
            exposition.add(
                "ptreclaim_processes", .gauge, "Processes that have the library, and were read.",
                Exposition.Labels(pairs: []), "\(count)")
        }
        print(exposition.text, terminator: "")
        report(failures)
    }

    private func report(_ failures: [ProcFSError]) {
        if allProcesses {
            let others = failures.count - 1
            if let first = failures.first {
                note("left out: \(first)" + (others > 0 ? "; and \(others) more" : ""))
            }
        } else if let last = failures.last {
            for error in failures.dropLast() { note("\(error)") }
            PTReclaimCommand.fail("\(last)", command: "stats")
        }
    }

    /// Of a process that was asked for by its PID that is said, too.
    private func hasEnded(_ error: ProcFSError) -> Bool {
        switch error.code {
        case .unreadable where error.errno == ENOENT || error.errno == ESRCH, .noMemory:
            if !allProcesses { note("\(error): left out") }
            return true
        default: return false
        }
    }

    private func note(_ sentence: String) {
        PTReclaimCommand.note(sentence, command: "stats")
    }
}
