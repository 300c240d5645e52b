// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import ProcFS

struct Idle: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "What the shim costs a process of one thread that does nothing.")

    @Option(help: "Starts of each kind, alternating.")
    var runs = 40

    @Flag(help: "Print one JSON document instead of text.")
    var json = false

    static let rssAllowed = 256.0 * 1024
    static let vmPTEAllowed = 16.0 * 1024
    static let systemCallsAllowed = 60

    struct Figures: Encodable {
        var startMicroseconds: [Double] = []
        var rssBytes: [Double] = []
        var vmPTEBytes: [Double] = []
        var systemCallCount: Int?
    }

    struct Document: Encodable {
        let schema = "ptreclaim.benchmarks.idle/1"
        let machine: Machine
        let plain: Figures
        let shim: Figures
        /// After 64 MiB were freed and taken again with calloc.
        let plainCallocRSSBytes: Double
        let shimCallocRSSBytes: Double
        let verdicts: [Verdict]
    }

    func run() throws {
        guard runs >= 1 else { throw ValidationError("--runs must be 1 or more") }
        let shim = try Shim.prepare()
        let program = try Shim.buildEmbeddedChurn()
        var plain = Figures()
        var shimmed = Figures()
        for round in 0..<runs {
            Progress.show(round, of: runs, "starting")
            try Self.start(program, preload: nil, into: &plain)
            try Self.start(program, preload: shim.library, into: &shimmed)
        }
        Progress.end()
        var plainCalloc = Figures()
        var shimCalloc = Figures()
        for _ in 0..<min(runs, 5) {
            try Self.start(program, mode: "--calloc", preload: nil, into: &plainCalloc)
            try Self.start(program, mode: "--calloc", preload: shim.library, into: &shimCalloc)
        }
        let callocRSS = (median(plainCalloc.rssBytes), median(shimCalloc.rssBytes))
        plain.systemCallCount = try Self.countSystemCalls(program, preload: nil)
        shimmed.systemCallCount = try Self.countSystemCalls(program, preload: shim.library)

        let verdicts = Self.verdicts(plain, shimmed)
        if json {
            try printJSON(
                Document(
                    machine: .current(), plain: plain, shim: shimmed,
                    plainCallocRSSBytes: callocRSS.0, shimCallocRSSBytes: callocRSS.1,
                    verdicts: verdicts))
        } else {
            print(Machine.current().line)
            let start = (median(plain.startMicroseconds), median(shimmed.startMicroseconds))
            print(
                "start-up, median of \(runs): plain \(decimal(start.0, 0)) us, "
                    + "shim \(decimal(start.1, 0)) us (\(decimal(start.1 - start.0, 0)) more)")
            print(
                "RSS after 64 MiB were freed and taken again with calloc, untouched: "
                    + "plain \(decimal(callocRSS.0 / 1_048_576, 1)) MiB, "
                    + "shim \(decimal(callocRSS.1 / 1_048_576, 1)) MiB")
            for verdict in verdicts { print(verdict.line) }
        }
        if verdicts.contains(where: { $0.status == .failed }) { throw ExitCode.failure }
    }

    private static func environment(preload: URL?) -> [String: String] {
        preload.map { ["LD_PRELOAD": $0.path] } ?? [:]
    }

    /// Starts the program, measures it while it waits, and lets it end.
    private static func start(
        _ program: URL, mode: String = "--idle", preload: URL?, into figures: inout Figures
    ) throws {
        let process = Process()
        let input = Pipe()
        let output = Pipe()
        process.executableURL = program
        process.arguments = [mode]
        process.environment = ProcessInfo.processInfo.environment
            .merging(environment(preload: preload)) { $1 }
        process.standardInput = input
        process.standardOutput = output
        var ready = ""
        let time = try ContinuousClock().measure {
            try process.run()
            ready = String(decoding: output.fileHandleForReading.availableData, as: UTF8.self)
        }
        defer {
            try? input.fileHandleForWriting.close()
            process.waitUntilExit()
        }
        guard ready == "ready\n" else { throw HarnessError("\(program.path): \(ready)") }
        let status = try ProcessStatus.read(pid: process.processIdentifier)
        if preload != nil { _ = try StatsPage.read(pid: process.processIdentifier) }
        figures.startMicroseconds.append(time.seconds * 1e6)
        figures.rssBytes.append(Double(status.rssByteCount))
        figures.vmPTEBytes.append(Double(status.vmPTEByteCount))
    }

    /// Returns nil where there is no strace, or where it may not trace.
    private static func countSystemCalls(_ program: URL, preload: URL?) throws -> Int? {
        guard let strace = Tool.find("strace") else { return nil }
        let settings = environment(preload: preload).flatMap { ["-E", "\($0.key)=\($0.value)"] }
        let result = try Tool.run(strace, ["-f"] + settings + [program.path, "--idle"])
        guard result.status == 0 else { return nil }
        // Up to where it says that it is ready; a call that another thread's output cut in two
        // comes again as "resumed".
        let calls = result.output.split(separator: "\n")
            .prefix { !$0.contains("write(1, \"ready") }
        return calls.count { $0.contains("(") && !$0.contains("resumed>") }
    }

    private static func verdicts(_ plain: Figures, _ shim: Figures) -> [Verdict] {
        let rss = median(shim.rssBytes) - median(plain.rssBytes)
        let vmPTE = median(shim.vmPTEBytes) - median(plain.vmPTEBytes)
        return [
            Verdict(
                target: "RSS at most 256 KiB more", status: rss <= rssAllowed ? .passed : .failed,
                measured: "\(decimal(rss / 1024, 0)) KiB more, "
                    + "plain \(decimal(median(plain.rssBytes) / 1024, 0)) KiB, medians"),
            Verdict(
                target: "VmPTE at most 16 KiB more",
                status: vmPTE <= vmPTEAllowed ? .passed : .failed,
                measured: "\(decimal(vmPTE / 1024, 0)) KiB more, "
                    + "plain \(decimal(median(plain.vmPTEBytes) / 1024, 0)) KiB, medians"),
            systemCallVerdict(plain.systemCallCount, shim.systemCallCount),
        ]
    }

    private static func systemCallVerdict(_ plain: Int?, _ shim: Int?) -> Verdict {
        let target = "at most \(systemCallsAllowed) more system calls until ready"
        guard let plain, let shim else {
            return Verdict(
                target: target, status: .skipped, measured: "needs strace, and leave to trace")
        }
        return Verdict(
            target: target, status: shim - plain <= systemCallsAllowed ? .passed : .failed,
            measured: "\(shim - plain) more, plain \(plain)")
    }
}
