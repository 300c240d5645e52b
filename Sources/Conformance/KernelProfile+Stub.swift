// SPDX-License-Identifier: Apache-2.0
// STUB: to be deleted when the model has these members itself.

public import PageTableModel

extension KernelProfile {
    public static func named(_ name: String) -> KernelProfile? {
        switch name {
        case "6.1": .beforePagemapScan
        case "6.12": .beforePTReclaim
        case "6.18", "7.2": .ptReclaim
        default: nil
        }
    }

    public var guardsMarkVMAs: Bool { false }
}
