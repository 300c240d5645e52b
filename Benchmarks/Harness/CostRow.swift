// SPDX-License-Identifier: Apache-2.0

import Histogram

/// All series of one name and parameter, over all processes.
struct CostRow {
    let name: String
    let parameter: String
    var series: [String: [UInt64]] = [:]

    /// Nil where there is nothing to compare.
    var ratio: RatioEstimate? {
        guard let call = series["call"], let bare = series["bare"] else { return nil }
        return RatioEstimate(zip(call, bare).map { Double($0) / Double($1) })
    }

    func median(_ name: String) -> Double {
        Double(histogram(name).valueAtPercentile(50))
    }

    func microseconds(_ name: String, _ quantile: Double) -> Double {
        Double(histogram(name).valueAtPercentile(100 * quantile)) / 1000
    }

    /// In microseconds.
    func quantile(_ name: String, _ quantile: Double) -> String {
        decimal(microseconds(name, quantile), 1)
    }

    private func histogram(_ name: String) -> Histogram<UInt64> {
        var histogram = Histogram<UInt64>(numberOfSignificantValueDigits: .three)
        for value in series[name] ?? [] { histogram.record(value) }
        return histogram
    }
}

struct CostResults {
    private(set) var rows: [CostRow] = []
    private(set) var skipped: [String: String] = [:]

    /// Adds what one process printed.
    mutating func add(
        _ result: (status: Int32, output: String), of program: String, _ mode: String
    ) throws {
        guard result.status == 0 else {
            throw HarnessError("\(program) \(mode) failed (\(result.status)): \(result.output)")
        }
        for line in result.output.split(separator: "\n") {
            let fields = line.split(separator: "\t").map(String.init)
            if fields.count == 2, fields[0] == "skipped" { skipped[mode] = fields[1] }
            guard fields.count == 4 else { continue }
            let values = fields[3].split(separator: " ").compactMap { UInt64($0) }
            let index = rows.firstIndex { $0.name == fields[0] && $0.parameter == fields[1] }
            if let index {
                rows[index].series[fields[2], default: []] += values
            } else {
                rows.append(
                    CostRow(name: fields[0], parameter: fields[1], series: [fields[2]: values]))
            }
        }
    }
}
