// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

// MARK: - mremap

extension ModelSpace {
    /// Moves, grows or shrinks memory.
    /// - Throws: EFAULT where `from` is not mapped as it has to be; EINVAL; ENOMEM where it cannot
    ///   grow in place.
    /// The corresponding kernel call is `mremap`.
    public func mremap(
        _ from: AddressRange, byteCount: UInt, _ target: Operation.Target
    ) throws(ModelError) {
        let mask = PageGeometry.pageByteCount - 1
        let byteCount = (byteCount + mask) & ~mask
        guard byteCount > 0 else { throw .invalid }
        switch target {
        case .inPlace: try resize(from, byteCount)
        case .fixed(let start):
            try move(from, byteCount, start, keepsSource: false)
        case .keepingSource(let start):
            guard from.byteCount == byteCount else { throw .invalid }
            try move(from, byteCount, start, keepsSource: true)
        }
    }

    // MARK: Growing and shrinking

    private func resize(_ from: AddressRange, _ byteCount: UInt) throws(ModelError) {
        guard let index = index(covering: from.start) else { throw .fault }
        if byteCount == from.byteCount { return }
        if byteCount < from.byteCount {
            return try munmap(AddressRange(start: from.start + byteCount, end: from.end))
        }
        let vma = vmas[index]
        guard from.end <= vma.end, vma.kind != .special else { throw .fault }
        let growth = AddressRange(start: from.end, end: from.start + byteCount)
        guard from.end == vma.end, indices(overlapping: growth).isEmpty,
            growth.end <= PageGeometry.userSpaceEnd
        else { throw .noMemory }
        var candidate = Candidate(vma, growth)
        candidate.pageOffset = vma.pageOffset + vma.pageCount
        insert(candidate)
        if vma.attributes.contains(.locked) { try? populate(growth) }
    }

    // MARK: Moving

    private func move(
        _ from: AddressRange, _ byteCount: UInt, _ start: UInt, keepsSource: Bool
    ) throws(ModelError) {
        guard let to = AddressRange(start: start, byteCount: byteCount) else { throw .invalid }
        guard profile.movesSeveralVMAs else {
            guard index(covering: from.start) != nil else { throw .fault }
            if from.overlaps(to) { throw .invalid }
            return try moveOne(from, to, keepsSource: keepsSource, checksFirst: false)
        }
        if from.overlaps(to) { throw .invalid }
        if byteCount == from.byteCount {
            try moveAll(from, to, keepsSource: keepsSource)
        } else {
            try moveOne(from, to, keepsSource: keepsSource, checksFirst: true)
        }
    }

    /// Moves every VMA of `from`, as far apart as they are. One that is registered with a
    /// userfaultfd moves only alone.
    /// The corresponding kernel function is `remap_move`.
    private func moveAll(
        _ from: AddressRange, _ to: AddressRange, keepsSource: Bool
    ) throws(ModelError) {
        guard index(covering: from.start) != nil else { throw .fault }
        var start = from.start
        var isFirst = true
        while start < from.end {
            let index = firstIndex(endingAfter: start)
            guard index < vmas.count, vmas[index].start < from.end else { break }
            let vma = vmas[index]
            let part = vma.range.clamped(to: AddressRange(start: start, end: from.end))
            if !vma.attributes.isDisjoint(with: .registered), !isFirst || vma.end < from.end {
                throw .fault
            }
            let target = AddressRange(
                start: to.start + (part.start - from.start), end: to.start + (part.end - from.start)
            )
            try moveOne(part, target, keepsSource: keepsSource, checksFirst: true)
            start = part.end
            isFirst = false
        }
    }

    /// The corresponding kernel functions are `mremap_to` and, until 6.16, `vma_to_resize`.
    private func moveOne(
        _ from: AddressRange, _ to: AddressRange, keepsSource: Bool, checksFirst: Bool
    ) throws(ModelError) {
        if checksFirst { try checkMove(from, to) }
        try munmap(to)
        var from = from
        if to.byteCount < from.byteCount {
            let kept = from.start + to.byteCount
            try munmap(AddressRange(start: kept, end: from.end))
            from.end = kept
        }
        if !checksFirst { try checkMove(from, to) }
        guard index(covering: from.start) != nil else { throw .fault }
        try moveVMA(from, to, keepsSource: keepsSource)
    }

    private func checkMove(_ from: AddressRange, _ to: AddressRange) throws(ModelError) {
        guard let index = index(covering: from.start) else { throw .fault }
        let vma = vmas[index]
        if vma.kind == .special { throw .invalid }
        let moved = min(from.byteCount, to.byteCount)
        guard from.start + moved <= vma.end else { throw .fault }
    }

    /// The corresponding kernel function is `move_vma`.
    private func moveVMA(
        _ from: AddressRange, _ to: AddressRange, keepsSource: Bool
    ) throws(ModelError) {
        guard var source = index(covering: from.start) else { throw .fault }
        if keepsSource, vmas[source].attributes.contains(.locked), !profile.dontunmapUnlocksWhole {
            _ = try isolate(from)
            source = index(covering: from.start) ?? source
        }
        let old = vmas[source]
        var copy = Candidate(old, from)
        copy.range = to
        // What has never been written is as if it had been mapped at the new place.
        let isFresh = old.kind.isAnonymous && old.anonVMA == nil
        if isFresh { copy.pageOffset = to.start / PageGeometry.pageByteCount }
        let keepsApart = keepsSource && isFresh && !profile.dontunmapMergesWithSource
        insert(copy, keepsApartFrom: keepsApart ? old.start : nil)
        moveTables(from, to)
        dropRegistration(of: to)
        if keepsSource {
            finishKeepingSource(from)
        } else {
            try munmap(from)
        }
        if to.byteCount > from.byteCount, old.attributes.contains(.locked) {
            try? populate(AddressRange(start: to.start + from.byteCount, end: to.end))
        }
    }

    /// The userfaultfd asked for no events of mremap: the VMA that holds the copy, with whatever
    /// that merged with, is not registered any more.
    /// The corresponding kernel function is `mremap_userfaultfd_prep`.
    private func dropRegistration(of to: AddressRange) {
        guard let index = index(covering: to.start) else { return }
        vmas[index].attributes.subtract(.registered)
    }

    /// The corresponding kernel function is `dontunmap_complete`.
    func finishKeepingSource(_ from: AddressRange) {
        guard let index = index(covering: from.start) else { return }
        vmas[index].attributes.subtract([.locked, .lockedOnFault])
        guard vmas[index].range == from else { return }
        vmas[index].anonVMA = nil
        if vmas[index].kind.isAnonymous, profile.dontunmapResetsOffset {
            vmas[index].pageOffset = from.start / PageGeometry.pageByteCount
        }
    }

    // MARK: Moving page tables

    /// Moves what is mapped in `from`: by PMD table, by PTE table or huge page where both ends are
    /// aligned, else entry by entry.
    /// The corresponding kernel function is `move_page_tables`.
    private func moveTables(_ from: AddressRange, _ to: AddressRange) {
        let moved = AddressRange(
            start: from.start, end: from.start + min(from.byteCount, to.byteCount))
        guard let source = vma(covering: from.start), let copy = vma(covering: to.start) else {
            return
        }
        let movesTables =
            source.attributes.isDisjoint(with: .registered)
            && copy.attributes.isDisjoint(with: .registered) && mistake != .tablesNeverMove
        let keepsProtection = movesTables || mistake == .tablesNeverMove
        let distance = to.start &- moved.start
        var address = moved.start
        if source.kind != .hugetlb, canRealign(moved, to, source, copy) {
            address = Span(containing: address).start
        }
        while address < moved.end {
            let target = address &+ distance
            let gibibyte = extent(address, target, moved.end, PageGeometry.pmdTableByteCount)
            guard tables.hasPMDTable(at: address) else {
                address += gibibyte
                continue
            }
            tables.allocatePUDTable(for: target)
            if gibibyte == PageGeometry.pmdTableByteCount, movesTables,
                !tables.hasPMDTable(at: target)
            {
                tables.movePMDTable(from: address, to: target)
                address += gibibyte
                continue
            }
            let count = extent(address, target, moved.end, PageGeometry.spanByteCount)
            if tables.slot(at: address) != .absent {
                moveSpan(
                    AddressRange(start: address, end: address + count), target,
                    movesTables: movesTables, keepsProtection: keepsProtection,
                    isHugetlb: source.kind == .hugetlb)
            }
            address += count
        }
    }

    /// What can be moved in one step: up to the next boundary of either side.
    /// The corresponding kernel function is `get_extent`.
    private func extent(_ from: UInt, _ to: UInt, _ end: UInt, _ byteCount: UInt) -> UInt {
        let mask = byteCount - 1
        return min(byteCount - from & mask, byteCount - to & mask, end - from)
    }

    private func moveSpan(
        _ range: AddressRange, _ target: UInt, movesTables: Bool, keepsProtection: Bool,
        isHugetlb: Bool
    ) {
        tables.allocateUpperTables(for: target)
        let isWhole = range.byteCount == PageGeometry.spanByteCount
        let isTargetFree = tables.slot(at: target) == .absent
        let distance = target &- range.start
        if tables.isHuge(at: range.start) {
            if isWhole, isTargetFree {
                tables.moveSlot(from: range.start, to: target)
                if sharedHugePages.remove(Span(containing: range.start)) != nil {
                    sharedHugePages.insert(Span(containing: target))
                }
                if !keepsProtection {
                    tables.transform(Span(containing: target).range) {
                        $0.with(isWriteProtected: false)
                    }
                }
                return
            }
            if isHugetlb { return }
            splitHugePage(at: range.start)
        } else if isWhole, movesTables, isTargetFree {
            tables.moveSlot(from: range.start, to: target)
            return moveFolios(of: range, by: distance)
        }
        tables.allocateTables(for: target)
        for page in Self.pages(of: range) {
            var entry = entry(at: page)
            if entry.isNone { continue }
            set(.none, page)
            if !keepsProtection {
                entry =
                    entry.state == .writeProtectMarker
                    ? .none : entry.with(isWriteProtected: false)
            }
            if !entry.isNone { set(entry, page &+ distance) }
        }
        moveFolios(of: range, by: distance)
    }

    private func moveFolios(of range: AddressRange, by distance: UInt) {
        guard !splitPages.isEmpty else { return }
        for page in Self.pages(of: range) { splitPages.move(page, to: page &+ distance) }
    }

    /// Whether the move may begin at the start of the table that `from` begins in: nothing else is
    /// in that part of either table.
    /// The corresponding kernel function is `can_realign_addr`.
    private func canRealign(
        _ from: AddressRange, _ to: AddressRange, _ source: VMA, _ copy: VMA
    ) -> Bool {
        let mask = PageGeometry.spanByteCount - 1
        let offset = from.start & mask
        guard profile.movesFromWithinTables, offset != 0, offset == to.start & mask,
            from.byteCount >= PageGeometry.spanByteCount - offset,
            source.start == from.start, copy.start == to.start
        else { return false }
        return indices(overlapping: AddressRange(start: from.start - offset, end: from.start))
            .isEmpty
            && indices(overlapping: AddressRange(start: to.start - offset, end: to.start)).isEmpty
    }
}
