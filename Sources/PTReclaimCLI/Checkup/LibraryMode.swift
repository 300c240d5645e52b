// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import CLinuxMM
internal import LiveSpace
internal import ProcFS
internal import ReclaimCore

/// A value of PTRECLAIM_MODE.
enum LibraryMode: String, ExpressibleByArgument, CaseIterable {
    case auto, hooks, madvise, scan
    case hooksAndScan = "hooks+scan"
    case off

    static var names: String { allCases.map(\.rawValue).joined(separator: ", ") }

    /// Frees what others may use meanwhile, behind a fence.
    var isFenced: Bool { [.madvise, .scan, .hooksAndScan].contains(self) }
}

/// What decides which modes are possible, on a machine or in a process.
struct Abilities {
    /// Measured: `dontneed`, `remap`, both or none.
    var backends: [Backend]
    /// Why there is no fence; nil where there is one.
    var fenceRefusal: String?
    /// Why it is not known whether there is one; nil where it is.
    var fenceDoubt: String?
    /// Why jemalloc's hooks are not to be had, apart from the backend; nil where they are.
    var hooksRefusal: String?

    /// Why `mode` is not possible; nil where it is.
    func refusal(of mode: LibraryMode) -> String? {
        switch mode {
        case .off, .auto: nil
        case .hooks:
            hooksRefusal ?? (backends.isEmpty ? StatsPage.meaning(of: "refused_no_backend") : nil)
        case .madvise, .scan:
            backends.contains(.dontneed)
                ? fenceRefusal : StatsPage.meaning(of: "refused_fence_backend")
        case .hooksAndScan: refusal(of: .hooks) ?? refusal(of: .scan)
        }
    }

    /// What `auto` takes, and why. The one place of this rule outside of the library, where
    /// `make_plan` and `mode_of` (Shim/Preload/interpose.c) have it.
    var automatic: (mode: LibraryMode, reason: String) {
        if let refusal = refusal(of: .hooks) {
            return (.off, "auto takes hooks where they are possible, today; here: \(refusal)")
        }
        return (
            .hooks, "they need no permission, and nobody ever waits; madvise and scan are opt-in"
        )
    }

    /// The library's own words.
    static func fenceRefusal(of probe: ptreclaim_fence_probe) -> String? {
        switch probe {
        case PTRECLAIM_FENCE_POSSIBLE: nil
        case PTRECLAIM_FENCE_NO_USERFAULTFD: StatsPage.meaning(of: "refused_no_userfaultfd")
        case PTRECLAIM_FENCE_NO_PAGEMAP_SCAN: StatsPage.meaning(of: "refused_no_pagemap_scan")
        default: StatsPage.meaning(of: "refused_seccomp")
        }
    }
}
