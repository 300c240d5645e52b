// SPDX-License-Identifier: Apache-2.0

/// One line of the output, for the harness: name, parameter, series, values.
struct Series {
    let name: String
    let parameter: String
    let series: String
    var nanoseconds: [UInt64] = []

    func print() {
        let values = nanoseconds.map(String.init).joined(separator: " ")
        Swift.print(name, parameter, series, values, separator: "\t")
    }
}
