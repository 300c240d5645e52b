// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

// MARK: - Transparent huge pages and hugetlb

extension ModelSpace {
    /// Whether the span of `address` may become a huge page of this VMA.
    /// The corresponding kernel function is `thp_vma_allowable_order`.
    private func allowsHugePage(_ address: UInt, _ vma: VMA) -> Bool {
        vma.kind.isAnonymous && vma.range.contains(Span(containing: address).range)
    }

    /// Answers a fault by a huge page where the VMA asks for them and nothing is there yet.
    /// - Returns: whether it did.
    /// The corresponding kernel function is `do_huge_pmd_anonymous_page`.
    func faultHuge(_ address: UInt, _ index: Int, isWrite: Bool) throws(ModelError) -> Bool {
        let vma = vmas[index]
        guard vma.attributes.contains(.hugePage), allowsHugePage(address, vma),
            tables.slot(at: address) == .absent
        else { return false }
        prepareAnonVMA(index)
        if vma.attributes.contains(.missingRegistered) { throw .wouldBlock }
        let span = Span(containing: address)
        makeHuge(span, PTE(isWrite ? .anonymous : .zeroPage))
        if isWrite { open.hugePages.append(.init(span: span, address: address)) }
        return true
    }

    private func makeHuge(_ span: Span, _ entry: PTE) {
        sharedHugePages.remove(span)
        tables.setHuge(at: span.start, hasDepositedTable: mistake != .depositLost) { _ in entry }
    }

    /// A fault on a huge page. Returns whether the access has still to be made page by page.
    /// The corresponding kernel function is `do_huge_pmd_wp_page`.
    func hugeFault(_ address: UInt, _ index: Int, isWrite: Bool) throws(ModelError) -> Bool {
        let entry = entry(at: address)
        guard isWrite else { return false }
        if entry.isWriteProtected, vmas[index].attributes.contains(.writeProtectRegistered) {
            throw .wouldBlock
        }
        let span = Span(containing: address)
        guard entry.state == .zeroPage else {
            sharedHugePages.remove(span)
            set(PTE(.anonymous, contents: entry.contents), address)
            tables.transform(span.range) {
                $0.state == .lazyFree ? PTE(.anonymous, contents: $0.contents) : $0
            }
            return false
        }
        prepareAnonVMA(index)
        if profile.writesHugeZeroPageHuge {
            makeHuge(span, PTE(.anonymous))
            return false
        }
        splitHugePage(at: address)
        return true
    }

    /// Splits what maps `address` by one entry into a PTE table: the deposited one.
    /// The corresponding kernel function is `__split_huge_pmd`.
    func splitHugePage(at address: UInt) {
        let span = Span(containing: address)
        guard tables.isHuge(at: address), vma(covering: address)?.kind != .hugetlb else { return }
        if mistake == .protectKeepsHugePage { return }
        let isZero = entry(at: address).state == .zeroPage
        if mistake == .splitAllocates { tables.leakTable() }
        tables.splitHuge(at: address)
        if !isZero { splitPages.add(span.range, areShared: sharedHugePages.contains(span)) }
        sharedHugePages.remove(span)
    }

    /// A range that covers only a part of a huge page splits it.
    func splitHugePages(atEndsOf range: AddressRange) {
        for end in [range.start, range.end] where end % PageGeometry.spanByteCount != 0 {
            splitHugePage(at: end)
        }
    }

    /// Splits the folio of a page: newer kernels map what is zero in it to the page of zeros.
    /// The corresponding kernel function is `split_folio`.
    func splitFolio(at page: UInt) {
        splitHugePage(at: page)
        guard let folio = splitPages.folio(at: page) else { return }
        if profile.splitMapsZeroPages {
            for page in splitPages.pages(of: folio) {
                let entry = entry(at: page)
                let isLocked = vma(covering: page)?.attributes.contains(.locked) == true
                if entry.state == .anonymous || entry.state == .lazyFree, entry.contents == 0,
                    !isLocked
                {
                    set(PTE(.zeroPage, isWriteProtected: entry.isWriteProtected), page)
                }
            }
        }
        splitPages.removeFolio(folio)
    }

    // MARK: Collapsing

    /// Makes a huge page of each whole span of `part`.
    /// - Throws: EINVAL where one cannot be; what can is collapsed.
    /// The corresponding kernel function is `madvise_collapse`.
    func collapse(_ index: Int, _ part: AddressRange) throws(ModelError) {
        let vma = vmas[index]
        // The VMA must be large enough, judged from its end, and have been written.
        let last = Span(containing: vma.end - min(vma.end, PageGeometry.spanByteCount))
        guard vma.kind.isAnonymous, !vma.attributes.contains(.noHugePage), vma.start <= last.start,
            vma.anonVMA != nil
        else { throw .invalid }
        let spans = part.wholeSpans
        if spans.isEmpty {
            let mask = PageGeometry.spanByteCount - 1
            let isBackwards = (part.start + mask) & ~mask > part.end & ~mask
            if profile.collapseWithinSpanFails, isBackwards { throw .invalid }
            return
        }
        var failure: ModelError?
        for number in 0..<spans.count {
            let span = spans[number]
            if tables.isHuge(at: span.start) { continue }
            switch collapseObstacle(span, vma) {
            case .watched: throw profile.collapseOfWatchedIsBusy ? .busy : .invalid
            case .guards: throw .invalid
            case .table where profile.collapseStopsWithoutTable: throw .invalid
            case .table, .entry: failure = .invalid
            case nil:
                let before = (0..<PageGeometry.entriesPerTable).map {
                    entry(at: span.start + UInt($0) * PageGeometry.pageByteCount)
                }
                open.collapses.append(
                    .init(span: span, before: before, splitPages: splitPages))
                splitPages.remove(span.range)
                sharedHugePages.remove(span)
                tables.setHuge(at: span.start, hasDepositedTable: true) {
                    PTE(.anonymous, contents: before[$0].contents)
                }
            }
        }
        if let failure { throw failure }
    }

    /// What keeps a span from being collapsed.
    private enum CollapseObstacle {
        /// A slot of the PMD table that is none.
        case table
        /// No PMD table, or an entry of the wrong kind; the next span is tried.
        case entry
        /// A none entry that a userfaultfd watches; ends the call.
        case watched
        /// Taken for a page on the swap device, which then cannot be brought back; ends the call.
        case guards
    }

    /// The first obstacle counts.
    /// The corresponding kernel function is `hpage_collapse_scan_pmd`.
    private func collapseObstacle(_ span: Span, _ vma: VMA) -> CollapseObstacle? {
        guard tables.hasPTETable(at: span.start) else {
            return tables.hasPMDTable(at: span.start) ? .table : .entry
        }
        let isArmed = !vma.attributes.isDisjoint(with: .registered)
        var hasPage = false
        var hasGuard = false
        for page in Self.pages(of: span.range) {
            let entry = entry(at: page)
            switch entry.state {
            case .none, .zeroPage:
                if isArmed { return .watched }
            case .writeProtectMarker: return .entry
            case .guardMarker: hasGuard = true
            case .anonymous, .lazyFree: hasPage = true
            case .swap, .file: break
            }
            if entry.isWriteProtected, entry.state != .zeroPage { return .entry }
        }
        if !hasPage, profile.collapseWantsWritable { return .entry }
        return hasGuard ? .guards : nil
    }

    // MARK: hugetlb

    /// The corresponding kernel function is `hugetlb_fault`. There is no PTE table below it.
    func hugetlbFault(_ address: UInt, _ index: Int, isWrite: Bool) throws(ModelError) {
        let attributes = vmas[index].attributes
        let isArmed = attributes.contains(.writeProtectRegistered)
        let entry = entry(at: address)
        tables.allocateUpperTables(for: address)
        if entry.state.isPresent {
            if isWrite, isArmed, entry.isWriteProtected { throw .wouldBlock }
            return
        }
        if attributes.contains(.missingRegistered) { throw .wouldBlock }
        let isProtected = isArmed && entry.state == .writeProtectMarker
        // A private page is anonymous whoever touches it first; none is ever the page of zeros.
        prepareAnonVMA(index)
        setHugetlb(at: address, PTE(.anonymous, isWriteProtected: isProtected))
        if isWrite, isProtected { throw .wouldBlock }
    }

    /// One entry for the whole span; none takes it away.
    func setHugetlb(at address: UInt, _ entry: PTE) {
        if entry.isNone {
            tables.freeTable(at: address)
        } else {
            tables.setHuge(at: address, hasDepositedTable: false) { _ in entry }
        }
    }
}
