// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

// MARK: - fork

extension ModelSpace {
    /// The address space of a child that is forked now.
    /// The corresponding kernel functions are `dup_mmap` and `copy_page_range`.
    public func forked() throws(ModelError) -> ModelSpace {
        let child = copied()
        child.vmas = []
        child.tables = PageTables()
        child.splitPages = SplitHugePages()
        for vma in vmas where !vma.attributes.contains(.dontFork) {
            var copy = vma
            copy.attributes.subtract([.locked, .lockedOnFault])
            copy.attributes.subtract(.registered)
            child.vmas.append(copy)
            // What a file can bring back is not copied, nor what has never been written.
            let copies =
                vma.anonVMA != nil
                || profile.guardsMarkVMAs && vma.attributes.contains(.mayHaveGuards)
            if copies { copyTables(of: vma, to: child) }
        }
        return child
    }

    /// What a fork does to the parent: nobody may write any more what both have.
    func sharePages() {
        for vma in vmas where vma.anonVMA != nil && !vma.attributes.contains(.dontFork) {
            splitPages.share(vma.range)
            tables.forEachOccupiedSpan(in: vma.range) { span in
                if tables.isHuge(at: span.start) { sharedHugePages.insert(span) }
            }
        }
    }

    private func copyTables(of vma: VMA, to child: ModelSpace) {
        var address = vma.start
        while address < vma.end {
            let gibibyte =
                Self.start(of: address, in: PageGeometry.pmdTableByteCount)
                + PageGeometry.pmdTableByteCount
            // hugetlb goes by its pages, and asks for nothing above where there is no PMD table.
            if vma.kind != .hugetlb, tables.hasPUDTable(at: address) {
                child.tables.allocatePUDTable(for: address)
            }
            if tables.hasPMDTable(at: address) { child.tables.allocateUpperTables(for: address) }
            address = gibibyte
        }
        let skipsEmpty = mistake == .forkSkipsEmptyTables
        tables.forEachOccupiedSpan(in: vma.range) { [self] span in
            let part = span.range.clamped(to: vma.range)
            if tables.isHuge(at: span.start) {
                child.tables.setHuge(
                    at: span.start, hasDepositedTable: tables.slot(at: span.start).hasTable
                ) { entry(at: span.start + UInt($0) * PageGeometry.pageByteCount).inChild }
                return
            }
            if skipsEmpty, tables.populatedCount(inTableAt: span.start) == 0 { return }
            child.tables.allocateTables(for: span.start)
            for page in Self.pages(of: part) {
                let entry = entry(at: page).inChild
                if !entry.isNone { child.set(entry, page) }
            }
        }
    }
}

extension PTE {
    /// The child is registered with no userfaultfd.
    fileprivate var inChild: PTE {
        state == .writeProtectMarker ? .none : with(isWriteProtected: false)
    }
}
