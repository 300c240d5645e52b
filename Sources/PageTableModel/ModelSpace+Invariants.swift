// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

extension ModelSpace {
    /// Everything that must hold between two calls and does not; empty where all is well.
    public func brokenInvariants() -> [String] {
        brokenVMAInvariants() + brokenTableInvariants()
    }

    private func brokenVMAInvariants() -> [String] {
        var broken: [String] = []
        for vma in vmas where !Self.isValid(vma.range) {
            broken.append("VMA \(vma.range) is empty, unaligned or outside user space")
        }
        for (lower, upper) in zip(vmas, vmas.dropFirst()) where upper.start < lower.end {
            broken.append("VMAs \(lower.range) and \(upper.range) overlap or are out of order")
        }
        return broken
    }

    private func brokenTableInvariants() -> [String] {
        var broken: [String] = []
        if !tables.countsAreRight { broken.append("the counts of tables are wrong") }
        let everything = AddressRange(start: 0, end: PageGeometry.userSpaceEnd)
        // Every table lies below a VMA: munmap of the last one frees it.
        tables.forEachOccupiedSpan(in: everything) { span in
            if indices(overlapping: span.range).isEmpty {
                broken.append("PTE table at \(span.start) has no VMA")
            }
            for page in Self.pages(of: span.range)
            where !entry(at: page).isNone && index(covering: page) == nil {
                broken.append("entry of \(page) has no VMA")
            }
        }
        return broken
    }
}
