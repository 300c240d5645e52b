// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

extension ModelSpace {
    /// Everything that must hold between two calls and does not; empty where all is well.
    public func brokenInvariants() -> [String] {
        brokenVMAInvariants() + brokenTableInvariants() + brokenEntryInvariants()
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
        // Every table lies below a VMA: munmap of the last one frees it.
        func checkNeeded(_ level: String, _ start: UInt, _ byteCount: UInt) {
            if start % byteCount != 0 {
                broken.append("\(level) table at \(start) is unaligned")
            }
            if indices(overlapping: AddressRange(start: start, end: start + byteCount)).isEmpty {
                broken.append("\(level) table at \(start) has no VMA")
            }
        }
        for start in pteTables.keys {
            checkNeeded("PTE", start, PageGeometry.spanByteCount)
            let pmd = Self.start(of: start, in: PageGeometry.pmdTableByteCount)
            if !pmdTables.contains(pmd) {
                broken.append("PTE table at \(start) hangs in no PMD table")
            }
        }
        for start in pmdTables {
            checkNeeded("PMD", start, PageGeometry.pmdTableByteCount)
            let pud = Self.start(of: start, in: PageGeometry.pudTableByteCount)
            if !pudTables.contains(pud) {
                broken.append("PMD table at \(start) hangs in no PUD table")
            }
        }
        for start in pudTables { checkNeeded("PUD", start, PageGeometry.pudTableByteCount) }
        return broken
    }

    private func brokenEntryInvariants() -> [String] {
        var broken: [String] = []
        for (start, table) in pteTables {
            for index in table.entries.keys {
                let address = start + UInt(index) * PageGeometry.pageByteCount
                if !(0..<PageGeometry.entriesPerTable).contains(index) {
                    broken.append("entry \(index) of the table at \(start) does not exist")
                } else if vma(covering: address) == nil {
                    broken.append("entry of \(address) has no VMA")
                }
            }
        }
        return broken
    }
}
