// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

extension ModelSpace: AddressSpace {
    public var discardFreesTables: Bool { backend == .dontneed && profile.dontneedFreesTables }

    public func vmPTEByteCount() -> UInt? { tables.byteCount }

    public var showsTables: Bool { profile.showsEmptyTables }

    public func mapping(at address: UInt) -> Mapping {
        let index = firstIndex(endingAfter: address)
        guard index < vmas.count else {
            return Mapping(range: AddressRange(start: address, end: .max), kind: .hole)
        }
        let vma = vmas[index]
        guard vma.start <= address else {
            return Mapping(range: AddressRange(start: address, end: vma.start), kind: .hole)
        }
        let kind: Mapping.Kind =
            switch vma.kind {
            case .special, .hugetlb: .special
            case .shared, .sharedAnonymous: .shared
            case .privateFile: .privateFile
            case .anonymousPrivate: .anonymous
            }
        var range = vma.range
        if mistake == .crossVMATableFreed {
            let mask = PageGeometry.spanByteCount - 1
            range = AddressRange(start: range.start & ~mask, end: (range.end + mask) & ~mask)
        }
        let mapping = Mapping(range: range, kind: kind)
        return stackAddress.map { mapping.part(at: address, stackAddress: $0) } ?? mapping
    }

    public func firstPopulatedPage(in range: AddressRange) -> UInt? {
        guard mistake == .markersCountAsNone else { return tables.firstPopulatedPage(in: range) }
        return Self.pages(of: range).first {
            switch entry(at: $0).state {
            case .none, .writeProtectMarker, .guardMarker: false
            default: true
            }
        }
    }

    public func firstTables(in run: SpanRun, atMost limit: Int) -> SpanRun? {
        guard showsTables else { return run.prefix(limit) }
        guard let first = firstSeenTable(in: run.range) else { return nil }
        var end = first.end
        var count = 1
        while end < run.end, count < limit, isSeen(Span(containing: end)) {
            end += PageGeometry.spanByteCount
            count += 1
        }
        return run.suffix(from: first.start).prefix(upTo: end)
    }

    /// A table, a huge page, or a hole of a VMA that is registered for uffd-wp: all look the same.
    private func isSeen(_ span: Span) -> Bool {
        tables.slot(at: span.start) != .absent || firstHiddenTable(in: span.range) != nil
    }

    private func firstSeenTable(in range: AddressRange) -> Span? {
        let hidden = firstHiddenTable(in: range)
        let upTo = hidden.map { AddressRange(start: range.start, end: $0.end) } ?? range
        return tables.firstOccupiedSpan(in: upTo) ?? hidden
    }

    private func firstHiddenTable(in range: AddressRange) -> Span? {
        guard hasBeenRegistered else { return nil }
        for index in indices(overlapping: range)
        where vmas[index].attributes.contains(.writeProtectRegistered) {
            return Span(containing: max(vmas[index].start, range.start))
        }
        return nil
    }

    public func hidesTables(at address: UInt) -> Bool {
        vma(covering: address)?.attributes.contains(.writeProtectRegistered) == true
    }

    public func free(_ run: SpanRun, in mapping: Mapping, fenced: Bool) -> KeptReason? {
        guard let vma = vma(covering: run.start) else { return .backendFailed }
        if fenced { return freeBehindFence(run, vma) }
        if mistake == .crossVMATableFreed {
            for index in 0..<run.count { tables.freeTable(at: run[index].start) }
            return nil
        }
        do {
            switch backend {
            case .dontneed: try dontneedLocked(run.range)
            case .remap where vma.attributes.contains(.locked): return .locked
            case .remap: for index in 0..<run.count { try moveAwayAndDrop(run[index]) }
            case .mapfixed where losesAttributes(vma): return .losesAttributes
            case .mapfixed: try mapOver(run.range, vma)
            }
            return nil
        } catch {
            return .backendFailed
        }
    }

    private func freeBehindFence(_ run: SpanRun, _ vma: VMA) -> KeptReason? {
        guard fenceIsAvailable else { return .fenceUnavailable }
        if vma.attributes.contains(.writeProtectRegistered) { return .writeProtectRegistered }
        if vma.attributes.contains(.missingRegistered) { return .registered }
        if backend != .dontneed, losesAttributes(vma) { return .losesAttributes }
        beforeFence?()
        do {
            var start = run.start
            while start < run.end {
                let rest = AddressRange(start: start, end: run.end)
                let stop = firstPopulatedPage(in: rest).map { Span(containing: $0).start }
                let empty = AddressRange(start: start, end: stop ?? run.end)
                if !empty.isEmpty {
                    if backend == .dontneed {
                        try dontneedLocked(empty)
                    } else {
                        try mapOver(empty, vma)
                    }
                }
                start = empty.end + PageGeometry.spanByteCount
            }
            return nil
        } catch {
            return .backendFailed
        }
    }

    public func discard(_ range: AddressRange) throws(ReclaimError) {
        do {
            try dontneed(range)
        } catch {
            throw ReclaimError(.discardFailed, errno: error.errno, range: range)
        }
    }

    public func freeTable(of span: Span) throws(ReclaimError) {
        do {
            switch backend {
            case .dontneed: try dontneed(span.range)
            case .remap: try moveAwayAndDrop(span)
            case .mapfixed: try mmap(span.range)
            }
        } catch {
            throw ReclaimError(.freeFailed, errno: error.errno, range: span.range)
        }
    }

    public func reserveEnd(after end: UInt) -> UInt {
        reserveEnds.contains(end) ? Span(containing: end).end : end
    }

    /// Whether a new mapping in its place would not be the same.
    private func losesAttributes(_ vma: VMA) -> Bool {
        !vma.kind.isAnonymous
            || !vma.attributes.subtracting([.accounted, .noReserve, .mayHaveGuards]).isEmpty
    }

    private func mapOver(_ range: AddressRange, _ vma: VMA) throws(ModelError) {
        try mmap(
            range, protection: vma.protection,
            flags: vma.attributes.contains(.noReserve) ? .noReserve : [])
    }

    /// What is left of `span` when its table has been moved to a scratch span: the VMA, without
    /// its pages and without the mlock flag.
    ///
    /// - Throws: EFAULT where the span is not inside one VMA; newer kernels would move it all the
    ///   same, so `LiveSpace` refuses by itself.
    /// The corresponding kernel function is `mremap_to` with MREMAP_DONTUNMAP.
    private func moveAwayAndDrop(_ span: Span) throws(ModelError) {
        guard let index = index(covering: span.start), vmas[index].range.contains(span.range)
        else { throw .fault }
        guard vmas[index].kind != .special else { throw .invalid }
        splitPages.remove(span.range)
        // A userfaultfd that asked for no events of mremap: entries move one by one.
        if vmas[index].attributes.isDisjoint(with: .registered) {
            tables.freeTable(at: span.start)
        } else {
            clear(span.range)
        }
        finishKeepingSource(span.range)
    }
}
