// SPDX-License-Identifier: Apache-2.0

extension Costs {
    /// Orders of magnitude for a machine that nobody has measured.
    public static let assumed = Costs(
        measuredOn: "no machine: assumed",
        nanoseconds: [
            .buildTable: 500, .freeTable: 700, .freeTableInRun: 150, .moveTable: 2_500,
            .readEntry: 1, .lookAtEmptyTable: 500, .lookAtPopulatedTable: 400, .lookAtNothing: 300,
            .call: 1_500, .fence: 3_000, .systemCall: 150, .unmapExtent: 700, .mapExtent: 900,
            .countPage: 5,
        ])
}
