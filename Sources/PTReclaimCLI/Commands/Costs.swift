// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Foundation
internal import PageTableSimulator

struct MeasureCosts: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "costs",
        abstract: "Measures what page tables cost on this machine, for ptreclaim simulate.",
        discussion: """
            Needs no privilege. What cannot be measured keeps its default, and is named.

            Examples:
              ptreclaim costs
              ptreclaim costs --json costs.json
              ptreclaim simulate redis --costs costs.json
            """)

    @Option(
        help: ArgumentHelp("Write the costs to this file.", valueName: "file"),
        completion: .file())
    var json: String?

    @Option(
        help: ArgumentHelp(
            "How often each is measured, 512 times where it is short.", valueName: "count"))
    var rounds = 9

    func validate() throws {
        guard (1...1000).contains(rounds) else {
            throw ValidationError("--rounds must be 1 to 1000.")
        }
    }

    func run() throws {
        var meter = CostMeter()
        do { try meter.measure(rounds: rounds) } catch {
            PTReclaimCommand.fail("\(error)", command: "costs")
        }
        var costs = Costs.default
        costs.measuredOn = Self.machine()
        for (cost, figure) in meter.figures { costs[cost] = figure.median }
        if let json {
            let text = String(decoding: try costs.json(), as: UTF8.self)
            OutputFile(path: json, command: "costs").write(text)
        }
        print("\(costs.measuredOn)\ncosts in ns, median and middle half:")
        for cost in Cost.allCases { print(Self.line(cost, costs, meter.figures[cost])) }
        for cost in Cost.allCases {
            guard let reason = meter.missing[cost] else { continue }
            PTReclaimCommand.note("\(cost.name) keeps its default: \(reason)", command: "costs")
        }
    }

    private static func line(_ cost: Cost, _ costs: Costs, _ figure: CostMeter.Figure?) -> String {
        let spread = figure.map { "\(decimal($0.low)) to \(decimal($0.high))" } ?? "default"
        return "  \(cost.name) \(decimal(costs[cost])) (\(spread))"
            .explained(by: cost.meaning, from: 44)
    }

    private static func decimal(_ value: Double) -> String {
        String(format: value < 100 ? "%.1f" : "%.0f", value)
    }

    /// Machine, kernel and day.
    private static func machine() -> String {
        let lines = text("/proc/cpuinfo").split(separator: "\n")
        let model = lines.first { $0.hasPrefix("model name") }?.split(separator: ":").last
        let cpu = model?.trimmingCharacters(in: .whitespaces) ?? "unknown CPU"
        let day = Date.now.ISO8601Format(.iso8601Date(timeZone: .gmt))
        let count = ProcessInfo.processInfo.activeProcessorCount
        return "\(cpu), \(count) CPUs, Linux \(text("/proc/sys/kernel/osrelease")), \(day)"
    }

    private static func text(_ path: String) -> String {
        ((try? String(contentsOfFile: path, encoding: .utf8)) ?? "")
            .trimmingCharacters(in: .whitespacesAndNewlines)
    }
}
