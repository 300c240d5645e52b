// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

extension ModelSpace {
    /// Makes what is missing of the three tables above the page at `address`.
    /// The corresponding kernel functions are `pud_alloc`, `pmd_alloc` and `pte_alloc`.
    func allocateTables(for address: UInt) {
        pudTables.insert(Self.start(of: address, in: PageGeometry.pudTableByteCount))
        pmdTables.insert(Self.start(of: address, in: PageGeometry.pmdTableByteCount))
        let span = Span(containing: address).start
        if pteTables[span] == nil { pteTables[span] = PTETable() }
    }

    /// Frees the tables of all three levels below the unmapped `range` that no neighbour needs.
    ///
    ///     floor                                 ceiling
    ///       |VMA|    unmapped range     |         |VMA|
    ///     |  kept  |   freed  |   freed   |   kept   |      tables of one level
    ///
    /// - Parameters:
    ///   - range: from the first to the last byte that was unmapped.
    ///   - floor: the end of the VMA before, 0 where there is none.
    ///   - ceiling: the start of the VMA behind, the end of user space where there is none.
    /// The corresponding kernel function is `free_pgtables`.
    func freeTables(below range: AddressRange, floor: UInt, ceiling: UInt) {
        func isUnneeded(_ start: UInt, _ byteCount: UInt) -> Bool {
            start < range.end && range.start < start + byteCount
                && floor <= start && start + byteCount <= ceiling
        }
        for start in pteTables.keys where isUnneeded(start, PageGeometry.spanByteCount) {
            pteTables[start] = nil
        }
        pmdTables = pmdTables.filter { !isUnneeded($0, PageGeometry.pmdTableByteCount) }
        pudTables = pudTables.filter { !isUnneeded($0, PageGeometry.pudTableByteCount) }
    }

    /// Calls `body` for each existing PTE table that maps a page of `range`, lowest first, with
    /// the indices of those pages. A table that `body` sets to nil is freed.
    func forEachTable(
        under range: AddressRange, _ body: (Span, Range<Int>, inout PTETable?) -> Void
    ) {
        var span = Span(containing: range.start)
        while span.start < range.end {
            if pteTables[span.start] != nil {
                body(span, Self.entryIndices(of: range, in: span), &pteTables[span.start])
            }
            span = Span(containing: span.end)
        }
    }

    static func start(of address: UInt, in tableByteCount: UInt) -> UInt {
        address & ~(tableByteCount - 1)
    }
}
