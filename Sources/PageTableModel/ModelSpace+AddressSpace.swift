// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

extension ModelSpace: AddressSpace {
    public var discardFreesTables: Bool { backend == .dontneed && profile.dontneedFreesTables }

    /// Tables on the three levels that count; P4D and PGD tables do not.
    public var tableCount: Int { pteTables.count + pmdTables.count + pudTables.count }

    public func vmPTEByteCount() -> UInt? { UInt(tableCount) * PageGeometry.pageByteCount }

    public var showsTables: Bool { profile.showsEmptyTables }

    public func mapping(at address: UInt) -> Mapping {
        guard let index = firstIndex(endingAfter: address) else {
            return Mapping(range: AddressRange(start: address, end: .max), kind: .hole)
        }
        let vma = vmas[index]
        guard vma.start <= address else {
            return Mapping(range: AddressRange(start: address, end: vma.start), kind: .hole)
        }
        let kind: Mapping.Kind =
            switch vma.kind {
            case .special: .special
            case .shared: .shared
            case .privateFile: .privateFile
            case .anonymousPrivate: .anonymous
            }
        let mapping = Mapping(range: vma.range, kind: kind)
        return stackAddress.map { mapping.part(at: address, stackAddress: $0) } ?? mapping
    }

    public func firstPopulatedPage(in range: AddressRange) -> UInt? {
        pteTables.flatMap { start, table in
            table.entries.keys.map { start + UInt($0) * PageGeometry.pageByteCount }
        }
        .filter { range.start <= $0 && $0 < range.end }.min()
    }

    public func firstTables(in run: SpanRun, atMost limit: Int) -> SpanRun? {
        guard showsTables else { return run.prefix(limit) }
        let seen = (0..<run.count).map { index in
            pteTables[run[index].start] != nil
                || indices(overlapping: run[index].range).contains {
                    vmas[$0].attributes.contains(.writeProtectRegistered)
                }
        }
        guard let first = seen.firstIndex(of: true) else { return nil }
        let last = seen[first...].firstIndex(of: false) ?? run.count
        return run.prefix(min(last, first + limit)).suffix(from: run[first].start)
    }

    public func hidesTables(at address: UInt) -> Bool {
        vma(covering: address)?.attributes.contains(.writeProtectRegistered) == true
    }

    public func free(_ run: SpanRun, in mapping: Mapping, fenced: Bool) -> KeptReason? {
        guard let attributes = vma(covering: run.start)?.attributes else { return .backendFailed }
        if fenced { return freeBehindFence(run, attributes) }
        do {
            switch backend {
            case .dontneed: try dontneedLocked(run.range)
            case .remap where attributes.contains(.locked): return .locked
            case .remap: for index in 0..<run.count { try moveAwayAndDrop(run[index]) }
            case .mapfixed where !attributes.isEmpty || mapping.kind != .anonymous:
                return .losesAttributes
            case .mapfixed: try mmap(run.range)
            }
            return nil
        } catch {
            return .backendFailed
        }
    }

    private func freeBehindFence(_ run: SpanRun, _ attributes: VMA.Attributes) -> KeptReason? {
        guard fenceIsAvailable else { return .fenceUnavailable }
        if attributes.contains(.writeProtectRegistered) { return .writeProtectRegistered }
        if attributes.contains(.missingRegistered) { return .registered }
        if backend != .dontneed, !attributes.isEmpty { return .losesAttributes }
        beforeFence?()
        do {
            var start = run.start
            while start < run.end {
                let rest = AddressRange(start: start, end: run.end)
                let stop = firstPopulatedPage(in: rest).map { Span(containing: $0).start }
                let empty = AddressRange(start: start, end: stop ?? run.end)
                if !empty.isEmpty {
                    if backend == .dontneed { try dontneedLocked(empty) } else { try mmap(empty) }
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

    /// What is left of `span` when its table has been moved to a scratch span: the VMA, without
    /// its pages and without the mlock flag.
    ///
    /// - Throws: EFAULT where the span is not inside one VMA; newer kernels would move it all the
    ///   same, so `LiveSpace` refuses by itself.
    /// The corresponding kernel function is `mremap_to` with MREMAP_DONTUNMAP.
    private func moveAwayAndDrop(_ span: Span) throws(ModelError) {
        guard let index = firstIndex(endingAfter: span.start),
            vmas[index].range.contains(span.range)
        else { throw .fault }
        guard vmas[index].kind != .special else { throw .invalid }
        // A userfaultfd that asked for no events of mremap: entries move one by one.
        if vmas[index].attributes.isDisjoint(with: [.missingRegistered, .writeProtectRegistered]) {
            pteTables[span.start] = nil
        } else {
            pteTables[span.start]?.clear(0..<PageGeometry.entriesPerTable)
        }
        vmas[index].attributes.remove(.locked)
        // All its pages have moved away, so it is tied to nothing any more.
        if vmas[index].range == span.range { vmas[index].anonVMA = nil }
    }
}
