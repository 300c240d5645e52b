// SPDX-License-Identifier: Apache-2.0

import Foundation
import ProcFS
import TextTable

/// What happens now: a bar on a terminal, nothing elsewhere. Results never go through here.
enum Progress {
    /// A line that is always shown, on standard error: `--json` owns standard output.
    static func say(_ line: String) {
        write((isTerminal ? "\r\u{1b}[K" : "") + line + "\n")
    }

    static func show(_ done: Int, of total: Int, _ what: String) {
        guard isTerminal else { return }
        let width = 30
        let filled = total > 0 ? min(width, done * width / total) : width
        let bar =
            String(repeating: "#", count: filled) + String(repeating: "-", count: width - filled)
        write("\r\u{1b}[K[\(bar)] \(done)/\(total) \(what)")
    }

    static func end() {
        if isTerminal { write("\r\u{1b}[K") }
    }

    private static func write(_ text: String) {
        FileHandle.standardError.write(Data(text.utf8))
    }
}

/// Where the numbers come from.
struct Machine: Codable {
    let kernel: String
    let cpu: String
    let cpuCount: Int
    let transparentHugePages: String

    static func current() -> Machine {
        let cpuinfo = text("/proc/cpuinfo")
        let model = cpuinfo.split(separator: "\n").first { $0.hasPrefix("model name") }
        let modes = text("/sys/kernel/mm/transparent_hugepage/enabled")
        return Machine(
            kernel: text("/proc/sys/kernel/osrelease"),
            cpu: model?.split(separator: ":").last.map {
                $0.trimmingCharacters(in: .whitespaces)
            } ?? "unknown",
            cpuCount: ProcessInfo.processInfo.activeProcessorCount,
            transparentHugePages: modes.split(separator: "[").last?.split(separator: "]").first
                .map(String.init) ?? "unknown")
    }

    var line: String {
        "Linux \(kernel), \(cpu), \(cpuCount) CPUs, THP \(transparentHugePages)"
    }

    private static func text(_ path: String) -> String {
        ((try? String(contentsOfFile: path, encoding: .utf8)) ?? "")
            .trimmingCharacters(in: .whitespacesAndNewlines)
    }
}

/// A target, and what was measured against it.
struct Verdict: Encodable {
    enum Status: String, Encodable {
        case passed
        case failed
        /// The measurement is not sharp enough to say.
        case notResolved = "not_resolved"
        /// The run does not show the problem, so it cannot show the cure.
        case notCounted = "not_counted"
        case skipped
    }

    let target: String
    let status: Status
    let measured: String

    var line: String {
        let word = status.rawValue.replacingOccurrences(of: "_", with: " ").uppercased()
        return "\(word): \(target): \(measured)"
    }
}

extension Measurement {
    static func printTable(_ rows: [Measurement]) {
        let table = TextTable<Measurement> { row in
            let census = row.census
            return [
                Column(title: "after", value: row.step),
                Column(title: "server", value: row.configuration.rawValue),
                number("VmPTE kB", Int(census.vmPTEByteCount / 1024)),
                number("waste kB", census.wasteByteCount.map { Int($0 / 1024) }),
                number("waste %", census.wastePercent.map { decimal($0, 1) }),
                number("RSS MB", decimal(Double(row.rssByteCount) / 1e6, 1)),
                number("VMAs", row.vmaCount),
                number("max", row.peakVMACount),
                number("kops/s", row.work.operationsPerSecond.map { decimal($0 / 1000, 0) }),
                number("CPU us/op", row.work.cpuMicrosecondsPerOperation.map { decimal($0, 2) }),
                number("p99 us", row.work.p99BatchMicroseconds),
                number("fork us", row.forkMicroseconds),
                number("zapped", row.spansZapped),
            ]
        }
        table.print(rows)
    }

    private static func number(_ title: String, _ value: (any CustomStringConvertible)?) -> Column {
        Column(title: title, value: value?.description ?? "-", align: .right)
    }

}

func decimal(_ value: Double, _ digits: Int) -> String {
    String(format: "%.\(digits)f", value)
}

/// A census, and what the work took; what is unknown is null, never left out.
extension Measurement: Encodable {
    private enum Key: String, CodingKey {
        case step, server
        case isAllDeleted = "all_deleted"
        case rss = "rss_bytes"
        case vmas
        case peakVMAs = "vmas_max"
        case operations
        case operationsPerSecond = "operations_per_second"
        case cpuMicroseconds = "cpu_us_per_operation"
        case p99 = "batch_p99_us"
        case fork = "latest_fork_usec"
        case spansZapped = "spans_zapped"
    }

    func encode(to encoder: any Encoder) throws {
        try census.encode(to: encoder)
        var row = encoder.container(keyedBy: Key.self)
        try row.encode(step, forKey: .step)
        try row.encode(configuration.rawValue, forKey: .server)
        try row.encode(isAllDeleted, forKey: .isAllDeleted)
        try row.encode(rssByteCount, forKey: .rss)
        try row.encode(vmaCount, forKey: .vmas)
        try row.encode(peakVMACount, forKey: .peakVMAs)
        try row.encode(work.operations, forKey: .operations)
        try row.encode(work.operationsPerSecond, forKey: .operationsPerSecond)
        try row.encode(work.cpuMicrosecondsPerOperation, forKey: .cpuMicroseconds)
        try row.encode(work.p99BatchMicroseconds, forKey: .p99)
        try row.encode(forkMicroseconds, forKey: .fork)
        try row.encode(spansZapped, forKey: .spansZapped)
    }
}

func printJSON(_ document: some Encodable) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    print(String(decoding: try encoder.encode(document), as: UTF8.self))
}
