// SPDX-License-Identifier: Apache-2.0

import Foundation
import ProcFS

/// `ptreclaim inspect` on a process of 100,000 PTE tables, beside the system calls that it makes.
enum InspectCost {
    static let tableCount = 100_000
    /// Of the time of the calls.
    static let factorAllowed = 1.2
    /// For the start of a program and the rest.
    static let millisecondsAllowed = 50.0
    static let megabytesAllowed = 30.0

    /// Arguments of idle-space: one page for each of the tables.
    private static let victim = ["390", "196", "\(tableCount)"]

    struct Outcome {
        /// Of the whole command, of its scans alone, in turns.
        var pairs: [(command: Double, scans: Double)] = []
        var scanCount = 0
        var peakMegabytes: [Double] = []

        private var millisecondsBeyond: [Double] {
            pairs.map { 1000 * ($0.command - factorAllowed * $0.scans) }
        }

        var rows: [Looking.Row] {
            [
                Looking.Row(
                    name: "inspect, beyond \(decimal(factorAllowed, 1)) x its scans", unit: "ms",
                    values: millisecondsBeyond, allowed: millisecondsAllowed),
                Looking.Row(
                    name: "inspect, peak of its memory", unit: "MB", values: peakMegabytes,
                    allowed: megabytesAllowed),
            ]
        }

        var note: String {
            let command = decimal(1000 * median(pairs.map(\.command)), 0)
            let scans = decimal(1000 * median(pairs.map(\.scans)), 0)
            return "inspect: \(command) ms on \(tableCount) tables, of which its \(scanCount) "
                + "scans take \(scans) ms by themselves (medians of \(pairs.count))"
        }
    }

    /// - Parameter products: the directory of ptreclaim, idle-space and bare-scans.
    static func measure(in products: URL, pairs: Int) throws -> Outcome {
        let program = products.appending(path: "ptreclaim").path
        let space = products.appending(path: "idle-space").path
        let scans = products.appending(path: "bare-scans").path
        let process = try DrivenProcess([space] + victim, environment: [:])
        defer { process.stop() }
        let census = try PageTableCensus.take(pid: process.pid)
        guard let live = census.tables.live, live >= tableCount else {
            throw HarnessError("the victim has \(census.tables) instead of \(tableCount) tables")
        }
        var outcome = Outcome()
        for pair in 0..<pairs {
            Progress.show(pair, of: pairs, "inspect")
            let start = ContinuousClock.now
            let result = try Tool.run(program, ["inspect", "\(process.pid)"])
            let command = (ContinuousClock.now - start).seconds
            guard result.status == 0, result.output.contains("\(live) live") else {
                throw HarnessError("inspect, of \(live) live tables: \(result.output)")
            }
            let (bare, count) = try scan(scans, process.pid)
            outcome.pairs.append((command, bare))
            outcome.scanCount = count
        }
        for _ in 0..<min(pairs, 3) {
            outcome.peakMegabytes.append(try peak(program, ["inspect", "\(process.pid)"]))
        }
        Progress.end()
        return outcome
    }

    /// The same scans by a program that does nothing else.
    private static func scan(_ program: String, _ pid: Int32) throws -> (Double, Int) {
        let output = try Tool.run(program, ["\(pid)"]).output
        let words = output.split(whereSeparator: \.isWhitespace)
        guard words.count == 3, words[0] == "ok", let count = Int(words[1]),
            let nanoseconds = Double(words[2])
        else { throw HarnessError("\(program): \(output)") }
        return (nanoseconds / 1e9, count)
    }

    /// VmHWM of a program that has come to its output. Its stdout is a full pipe, so that it waits
    /// there; what wait4 tells of a child begins with the memory of its parent.
    private static func peak(_ program: String, _ arguments: [String]) throws -> Double {
        let process = Process()
        let output = Pipe()
        let writer = output.fileHandleForWriting.fileDescriptor
        let capacity = fcntl(writer, Self.pipeSizeCommand)
        try output.fileHandleForWriting.write(contentsOf: Data(count: Int(capacity)))
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.standardOutput = output
        try process.run()
        defer {
            output.fileHandleForReading.readabilityHandler = { _ = $0.availableData }
            process.waitUntilExit()
            output.fileHandleForReading.readabilityHandler = nil
        }
        let pid = process.processIdentifier
        let deadline = ContinuousClock.now + .seconds(60)
        // System call 1 is write, the first argument stdout.
        while (try? text("/proc/\(pid)/syscall").hasPrefix("1 0x1 ")) != true {
            guard process.isRunning, ContinuousClock.now < deadline else {
                throw HarnessError("\(program) has not come to its output within a minute")
            }
            Thread.sleep(forTimeInterval: 0.005)
        }
        let status = try text("/proc/\(pid)/status")
        let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
        guard let kilobytes = line.flatMap({ Double($0.split(whereSeparator: \.isWhitespace)[1]) })
        else { throw HarnessError("/proc/\(pid)/status has no VmHWM") }
        return kilobytes / 1024
    }

    /// F_GETPIPE_SZ, which Glibc's module does not show.
    private static let pipeSizeCommand: Int32 = 1032

    private static func text(_ path: String) throws -> String {
        try String(contentsOfFile: path, encoding: .utf8)
    }
}
