// SPDX-License-Identifier: Apache-2.0

import ProcFS

extension StatsPage {
    /// Why the library does less than it was told to.
    var refusal: String {
        counters.filter { $0.group == .refusal && $0.value > 0 }.map(\.meaning)
            .joined(separator: "; ")
    }

    /// - Parameter mode: what the process was told to do; nil and `auto` leave the choice to the library.
    /// - Throws: where it does something else, whose figures would go by a wrong name.
    func require(_ mode: Mode?) throws {
        guard let mode, mode != .auto, self.mode != mode.rawValue else { return }
        throw HarnessError(
            "the library runs in mode \(self.mode), not \(mode.rawValue)"
                + (refusal.isEmpty ? "" : ": \(refusal)"))
    }
}
