// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

/// What an operation left to the kernel. The model plays what is usual; `adopt` takes over what was
/// seen, where the kernel's source allows it.
struct OpenOutcomes {
    /// A span that was collapsed into a huge page.
    struct Collapse {
        let span: Span
        let before: [PTE]
        let splitPages: SplitHugePages
    }

    /// A huge page that a fault made.
    struct HugePage {
        let span: Span
        /// What was accessed.
        let address: UInt
    }

    /// `try_to_free_pte` only tries to take the lock of the PMD table: another thread, or the rmap
    /// of a shared page, may have it. Tables that the kernel was free to free.
    var freedTables: [Span] = []
    /// `hpage_collapse_scan_pmd` gives up where somebody holds a page (SCAN_PAGE_COUNT), or it is
    /// not on an LRU list (SCAN_PAGE_LRU), and until 6.17 where no entry is writable.
    var collapses: [Collapse] = []
    /// `do_huge_pmd_anonymous_page` falls back to small pages where memory is fragmented.
    var hugePages: [HugePage] = []
    /// `reclaim_folio_list` leaves what is held, shared, or finds no swap.
    var pagedOut: [AddressRange] = []
}

extension ModelSpace {
    /// What the kernel chose where it had a choice.
    public enum Outcome: String, CaseIterable, Sendable {
        case pagedOut, notPagedOut, freedLazily, collapsed, collapseFailed, hugePageFallback
        case tableKept
    }

    public struct Adoption: Equatable, Sendable {
        /// The errno that the model says now.
        public var errno: Int32
        public var outcomes: [Outcome]
    }

    /// Takes over what the kernel was free to choose in the operation that was just played, as far
    /// as the observation is one of the allowed outcomes. From then on everything is exact again.
    ///
    /// - Parameters:
    ///   - seen: what the kernel has now.
    ///   - windows: whose pages `seen` lists.
    ///   - errno: what the kernel returned, 0 for success.
    ///   - modelErrno: what the model returned.
    public func adopt(
        _ seen: Observation, _ windows: [AddressRange], errno: Int32, modelErrno: Int32
    ) -> Adoption {
        var adoption = Adoption(errno: modelErrno, outcomes: [])
        let pages = ObservedPages(windows: windows, pages: seen.pages)
        adoptCollapses(pages, errno, &adoption)
        adoptPageOut(pages, &adoption)
        if observe(windows).pages != seen.pages {
            adoptFallbacks(pages, &adoption)
            adoptLazyFree(pages, windows, &adoption)
        }
        adoptKeptTables(seen.vmPTEByteCount, &adoption)
        open = OpenOutcomes()
        return adoption
    }

    private struct ObservedPages {
        let windows: [AddressRange]
        let pages: [PageState]

        subscript(address: UInt) -> PageState? {
            var offset = 0
            for window in windows {
                if window.start <= address, address < window.end {
                    return pages[
                        offset + Int((address - window.start) / PageGeometry.pageByteCount)]
                }
                offset += Int(window.byteCount / PageGeometry.pageByteCount)
            }
            return nil
        }
    }

    private func adoptCollapses(
        _ seen: ObservedPages, _ errno: Int32, _ adoption: inout Adoption
    ) {
        for collapse in open.collapses {
            let start = collapse.span.start
            // What was full before looks the same; then the errno tells.
            let isAsBefore = collapse.before.indices.allSatisfy { index in
                seen[start + UInt(index) * PageGeometry.pageByteCount]
                    == collapse.before[index].observed
            }
            let wasFull = collapse.before.allSatisfy { $0.observed == PageState(.anonymous) }
            guard isAsBefore, errno != 0, !wasFull || errno != adoption.errno else {
                adoption.outcomes.append(.collapsed)
                continue
            }
            tables.freeTable(at: start)
            tables.allocateTables(for: start)
            for (index, entry) in collapse.before.enumerated() where !entry.isNone {
                set(entry, start + UInt(index) * PageGeometry.pageByteCount)
            }
            splitPages.restore(collapse.span.range, from: collapse.splitPages)
            adoption.outcomes.append(.collapseFailed)
            adoption.errno = errno
        }
    }

    private func adoptPageOut(_ seen: ObservedPages, _ adoption: inout Adoption) {
        for range in open.pagedOut {
            for index in indices(overlapping: range) {
                for page in Self.pages(of: vmas[index].range.clamped(to: range)) {
                    if let state = seen[page] { adoptPageOut(page, index, state, &adoption) }
                }
            }
        }
    }

    private func adoptPageOut(
        _ page: UInt, _ index: Int, _ seen: PageState, _ adoption: inout Adoption
    ) {
        let entry = entry(at: page)
        guard seen != entry.observed else {
            if entry.state == .anonymous { adoption.outcomes.append(.notPagedOut) }
            return
        }
        switch (entry.state, seen.kind) {
        // What MADV_FREE could not take from its LRU batch is still swap-backed.
        case (.anonymous, .swap) where hasSwap, (.lazyFree, .swap) where hasSwap:
            splitHugePage(at: page)
            splitPages.remove(page)
            set(
                PTE(
                    .swap, contents: entry.contents, isWriteProtected: entry.isWriteProtected), page
            )
        case (.anonymous, .zeroPage)
        where profile.splitMapsZeroPages && entry.contents == 0
            && (tables.isHuge(at: page) || splitPages.folio(at: page) != nil):
            splitFolio(at: page)
        case (.lazyFree, .none):
            splitHugePage(at: page)
            set(.none, page)
        case (.file, .none), (.file, .writeProtectMarker):
            set(entry.isWriteProtected ? PTE(.writeProtectMarker) : .none, page)
            if let file = vmas[index].kind.file {
                leaveMemory(file, vmas[index].pageOffset(of: page))
            }
        default: return
        }
        adoption.outcomes.append(.pagedOut)
    }

    /// A page of a file that was never written is dropped, any other goes to swap.
    private func leaveMemory(_ file: Int, _ offset: UInt) {
        guard let page = cachedPage(file, offset) else { return }
        if !page.isDirty {
            pageCache[file]?[offset] = nil
        } else if hasSwap {
            pageCache[file]?[offset]?.isSwapped = true
        }
    }

    private func adoptFallbacks(_ seen: ObservedPages, _ adoption: inout Adoption) {
        for huge in open.hugePages where tables.isHuge(at: huge.span.start) {
            let states = Self.pages(of: huge.span.range).map { ($0, seen[$0]) }
            guard states.contains(where: { $0.1 == PageState.none }) else { continue }
            let contents = entry(at: huge.address)
            tables.freeTable(at: huge.span.start)
            tables.allocateTables(for: huge.span.start)
            for (page, state) in states where state?.kind == .anonymous {
                set(
                    page == Self.start(of: huge.address, in: PageGeometry.pageByteCount)
                        ? contents : PTE(.anonymous), page)
            }
            adoption.outcomes.append(.hugePageFallback)
        }
    }

    private func adoptLazyFree(
        _ seen: ObservedPages, _ windows: [AddressRange], _ adoption: inout Adoption
    ) {
        for window in windows {
            for page in Self.pages(of: window)
            where entry(at: page).state == .lazyFree && seen[page] == PageState.none {
                if tables.isHuge(at: page) {
                    reclaimLazily(Span(containing: page).range)
                } else {
                    set(.none, page)
                }
                adoption.outcomes.append(.freedLazily)
            }
        }
    }

    private func adoptKeptTables(_ seen: UInt, _ adoption: inout Adoption) {
        guard seen > tables.byteCount else { return }
        let missing = Int((seen - tables.byteCount) / PageGeometry.pageByteCount)
        let candidates = open.freedTables.filter { !tables.hasPTETable(at: $0.start) }
        guard missing <= candidates.count else { return }
        for span in candidates.suffix(missing) {
            tables.allocateTables(for: span.start)
            adoption.outcomes.append(.tableKept)
        }
    }
}
