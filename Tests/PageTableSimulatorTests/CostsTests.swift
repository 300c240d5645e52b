// SPDX-License-Identifier: Apache-2.0

import Foundation
import PageTableSimulator
import Testing

@Suite struct CostsTests {
    @Test func defaultsAreWholeAndComeBackFromAFile() throws {
        #expect(Costs.default.complaint == nil)
        #expect(try Costs.read(from: Costs.default.json()) == Costs.default)
    }

    @Test(arguments: [
        ("", "not JSON"), ("[]", "another type"), ("{}", "measuredOn is missing"),
        (#"{"measuredOn": "x", "nanoseconds": {}}"#, "buildTable is missing"),
        (#"{"measuredOn": 1, "nanoseconds": {}}"#, "measuredOn is of another type"),
    ])
    func whatIsNoCostsIsRefusedInOneLine(text: String, reason: String) {
        let error = #expect(throws: CostsError.self) { try Costs.read(from: Data(text.utf8)) }
        let description = error?.description ?? ""
        #expect(description.contains(reason), "\(description)")
        #expect(!description.contains("\n"))
    }
}
