// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

// MARK: - madvise

extension ModelSpace {
    /// - Throws: the errno of the kernel: EINVAL for memory that the advice is not for, ENOMEM for
    ///   holes, where what is mapped has been changed.
    /// The corresponding kernel function is `do_madvise`.
    public func madvise(
        _ range: AddressRange, _ advice: Operation.Advice
    ) throws(ModelError) {
        switch advice {
        case .populateRead: return try populate(range, isWrite: false)
        case .populateWrite: return try populate(range, isWrite: true)
        case .guardInstall, .guardRemove:
            guard profile.hasGuards else { throw .invalid }
        case .dontneed, .dontneedLocked:
            if mistake == .holeStopsZap, !isMapped(range) { throw .noMemory }
        default: break
        }
        try walkVMAs(range) { [self] index, part throws(ModelError) in
            try advise(index, part, advice)
        }
    }

    private func advise(
        _ index: Int, _ part: AddressRange, _ advice: Operation.Advice
    ) throws(ModelError) {
        let vma = vmas[index]
        switch advice {
        case .dontneed, .dontneedLocked: try dontneed(index, part, advice)
        case .free: try free(index, part)
        case .pageout: try pageOut(index, part)
        case .collapse: try collapse(index, part)
        case .guardInstall: try installGuards(index, part)
        case .guardRemove: try removeGuards(index, part)
        case .dontfork: try setAttributes(index, part) { $0.insert(.dontFork) }
        case .dofork:
            let isRefused = vma.kind == .hugetlb && profile.refusesDoforkOfHugetlb
            if vma.kind == .special || isRefused { throw .invalid }
            try setAttributes(index, part) { $0.remove(.dontFork) }
        case .dontdump: try setAttributes(index, part) { $0.insert(.dontDump) }
        case .dodump:
            if vma.kind == .special { throw .invalid }
            try setAttributes(index, part) { $0.remove(.dontDump) }
        case .hugepage:
            try setAttributes(index, part) {
                $0.insert(.hugePage)
                $0.remove(.noHugePage)
            }
        case .nohugepage:
            try setAttributes(index, part) {
                $0.insert(.noHugePage)
                $0.remove(.hugePage)
            }
        case .populateRead, .populateWrite: break
        }
    }

    // MARK: DONTNEED, FREE, PAGEOUT

    /// Zaps the pages of `range`. Guard markers stay, and in files uffd-wp markers.
    ///
    ///     | partial |  span  |  span  | VMA || VMA |    a table goes where this call covers the
    ///               | freed  | freed  |  kept      |    whole span within one VMA, if all is none
    ///
    /// - Throws: ENOMEM for a hole, the mapped part is zapped; EINVAL at the first locked or
    ///   special VMA, what lies before it is zapped.
    /// The corresponding kernel function is `madvise_dontneed_single_vma`.
    public func dontneed(_ range: AddressRange) throws(ModelError) {
        try madvise(range, .dontneed)
    }

    /// As `dontneed`, for locked memory too.
    /// The corresponding kernel call is `madvise(MADV_DONTNEED_LOCKED)`.
    public func dontneedLocked(_ range: AddressRange) throws(ModelError) {
        try madvise(range, .dontneedLocked)
    }

    private func dontneed(
        _ index: Int, _ part: AddressRange, _ advice: Operation.Advice
    ) throws(ModelError) {
        let vma = vmas[index]
        guard vma.kind != .special,
            advice == .dontneedLocked || !vma.attributes.contains(.locked)
        else { throw .invalid }
        var part = part
        if vma.kind == .hugetlb {
            let mask = PageGeometry.spanByteCount - 1
            guard part.start & mask == 0 else { throw .invalid }
            part.end &= ~mask
            if part.isEmpty { return }
        }
        zap(
            part, vma, freesTables: profile.dontneedFreesTables != (mistake == .reclaimTurnedAround)
        )
    }

    /// What `MADV_DONTNEED` does to entries: everything goes but guard markers and, in memory that
    /// is not anonymous, the write protection: it becomes a marker or stays one.
    /// The corresponding kernel function is `zap_page_range_single`.
    func zap(
        _ part: AddressRange, _ vma: VMA, freesTables: Bool, freesPartially: Bool = false
    ) {
        splitHugePages(atEndsOf: part)
        splitPages.remove(part)
        let keepsProtection =
            !vma.kind.isAnonymous && vma.attributes.contains(.writeProtectRegistered)
        let dropsMarkers = vma.kind.isAnonymous || mistake == .fileMarkersZapped
        let dropsGuards = mistake == .guardsZapped
        let freesPartially = freesPartially || mistake == .partialZapFreesTable
        tables.forEachSlot(in: part) { [self] tables, span, place in
            if tables.isHuge(at: span.start) {
                let entry = tables.entry(at: span.start)
                let leavesMarker =
                    keepsProtection
                    && (entry.isWriteProtected || entry.state == .writeProtectMarker)
                tables.freeTable(at: span.start)
                if leavesMarker {
                    tables.setHuge(at: span.start, hasDepositedTable: false) { _ in
                        PTE(.writeProtectMarker)
                    }
                }
                return
            }
            let indices = PageTables.entryIndices(of: part, in: span)
            tables.change(place, indices) { entry in
                switch entry.state {
                case .guardMarker: dropsGuards ? .none : entry
                case .writeProtectMarker: dropsMarkers ? .none : entry
                default:
                    keepsProtection && entry.isWriteProtected ? PTE(.writeProtectMarker) : .none
                }
            }
            if freesTables, freesPartially || indices.count == PageGeometry.entriesPerTable,
                tables.populatedCount(inTableAt: span.start) == 0
            {
                tables.freeTable(at: span.start)
                if profile.dontneedFreesTables, indices.count == PageGeometry.entriesPerTable {
                    open.freedTables.append(span)
                }
            }
        }
    }

    /// Offers the pages of `range` for being taken when memory is short.
    /// - Throws: EINVAL for memory that is locked or not anonymous; ENOMEM for a hole.
    /// The corresponding kernel call is `madvise(MADV_FREE)`.
    public func free(_ range: AddressRange) throws(ModelError) { try madvise(range, .free) }

    private func free(_ index: Int, _ part: AddressRange) throws(ModelError) {
        let vma = vmas[index]
        guard vma.kind.isAnonymous, !vma.attributes.contains(.locked) else { throw .invalid }
        splitFolios(in: part)
        tables.transform(part) { entry in
            switch entry.state {
            case .anonymous:
                PTE(
                    .lazyFree, contents: entry.contents, isWriteProtected: entry.isWriteProtected)
            case .swap: .none
            default: entry
            }
        }
    }

    /// Splits the huge pages of which `part` covers only a part, folio and all. The huge page of
    /// zeros stays as it is.
    private func splitFolios(in part: AddressRange) {
        for end in [part.start, part.end] where end % PageGeometry.spanByteCount != 0 {
            if tables.isHuge(at: end), entry(at: end).state != .zeroPage { splitFolio(at: end) }
        }
        guard !splitPages.isEmpty else { return }
        for page in Self.pages(of: part) { splitFolioIfPartial(at: page, in: part) }
    }

    private func splitFolioIfPartial(at page: UInt, in part: AddressRange) {
        guard let folio = splitPages.folio(at: page) else { return }
        let pages = splitPages.pages(of: folio)
        // The kernel looks at one table at a time.
        let isWhole =
            pages.count == PageGeometry.entriesPerTable
            && pages.allSatisfy {
                part.start <= $0 && $0 < part.end
                    && Span(containing: $0) == Span(containing: page)
            }
        if !isWhole { splitFolio(at: page) }
    }

    /// Takes every page of `range` that `MADV_FREE` has offered, as pressure does.
    /// The corresponding kernel function is `try_to_unmap_one`.
    public func reclaimLazily(_ range: AddressRange) {
        tables.forEachSlot(in: range) { [self] tables, span, place in
            if tables.isHuge(at: span.start) {
                guard tables.entry(at: span.start).state == .lazyFree,
                    range.contains(span.range), profile.lazyFreeFreesTables
                else { return }
                return tables.freeTable(at: span.start)
            }
            tables.change(place, PageTables.entryIndices(of: range, in: span)) {
                $0.state == .lazyFree ? .none : $0
            }
        }
    }

    /// Moves the present pages of `range` to swap.
    public func swapOut(_ range: AddressRange) {
        for index in indices(overlapping: range) where vmas[index].kind.isAnonymous {
            tables.transform(vmas[index].range.clamped(to: range)) { entry in
                entry.state == .anonymous
                    ? PTE(
                        .swap, contents: entry.contents, isWriteProtected: entry.isWriteProtected)
                    : entry
            }
        }
    }

    /// Each page may go to swap or stay: somebody may hold it, and the device may be full.
    /// The corresponding kernel function is `madvise_pageout`.
    private func pageOut(_ index: Int, _ part: AddressRange) throws(ModelError) {
        let vma = vmas[index]
        guard vma.kind != .special, vma.kind != .hugetlb, !vma.attributes.contains(.locked) else {
            throw .invalid
        }
        if vma.kind.isAnonymous { splitFolios(in: part) }
        open.pagedOut.append(part)
    }

    // MARK: POPULATE

    /// - Throws: EINVAL where the protection is in the way, EFAULT at a guard or where a
    ///   userfaultfd would have to answer, ENOMEM at a hole; what lies before is populated.
    /// The corresponding kernel function is `madvise_populate`.
    private func populate(_ range: AddressRange, isWrite: Bool) throws(ModelError) {
        try walkVMAs(range, stopsAtHoles: !profile.populateWalksPastHoles) {
            [self] index, part throws(ModelError) in
            let needed: VMA.Protection = isWrite ? .write : .read
            guard vmas[index].protection.contains(needed), vmas[index].kind != .special else {
                throw vmas[index].kind == .special ? .fault : .invalid
            }
            try populate(part, in: index, isWrite: isWrite)
        }
    }

    // MARK: Guards

    /// Replaces every page of `range` by a guard marker; makes the tables that this needs.
    /// - Throws: ENOMEM for a hole; EINVAL at the first locked or special VMA; EAGAIN, with nothing
    ///   changed, where a file's page is write-protected: there the kernel zaps, finds the marker
    ///   that a zap leaves, and tries again for ever (Linux 6.18, until a signal ends it).
    /// The corresponding kernel function is `madvise_guard_install`.
    public func installGuards(_ range: AddressRange) throws(ModelError) {
        if isEndlessGuardInstall(range) { throw .wouldBlock }
        try walkVMAs(range) { [self] index, part throws(ModelError) in
            try installGuards(index, part)
        }
    }

    func isEndlessGuardInstall(_ range: AddressRange) -> Bool {
        for index in indices(overlapping: range) where !vmas[index].kind.isAnonymous {
            for page in Self.pages(of: vmas[index].range.clamped(to: range)) {
                let entry = entry(at: page)
                if entry.isWriteProtected || entry.state == .writeProtectMarker { return true }
            }
        }
        return false
    }

    private func installGuards(_ index: Int, _ part: AddressRange) throws(ModelError) {
        let vma = vmas[index]
        guard vma.kind != .special, vma.kind != .hugetlb, !vma.attributes.contains(.locked) else {
            throw .invalid
        }
        if profile.guardsMarkVMAs { vmas[index].attributes.insert(.mayHaveGuards) }
        if vma.kind.isAnonymous { prepareAnonVMA(index) }
        clear(part)
        tables.fill(part) { _ in PTE(.guardMarker) }
    }

    /// Guard markers of `range` become none; their tables stay.
    /// - Throws: ENOMEM for a hole; EINVAL at the first special VMA.
    /// The corresponding kernel function is `madvise_guard_remove`.
    public func removeGuards(_ range: AddressRange) throws(ModelError) {
        try walkVMAs(range) { [self] index, part throws(ModelError) in
            try removeGuards(index, part)
        }
    }

    private func removeGuards(_ index: Int, _ part: AddressRange) throws(ModelError) {
        guard vmas[index].kind != .special, vmas[index].kind != .hugetlb else { throw .invalid }
        tables.transform(part) { $0.state == .guardMarker ? .none : $0 }
    }
}
