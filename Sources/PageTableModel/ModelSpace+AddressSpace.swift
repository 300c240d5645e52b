// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

extension ModelSpace: AddressSpace {
    public var discardFreesTables: Bool { backend == .dontneed && profile.dontneedFreesTables }

    /// Tables on the three levels that count; P4D and PGD tables do not.
    public var tableCount: Int { pteTables.count + pmdTables.count + pudTables.count }

    public func vmPTEByteCount() -> UInt? { UInt(tableCount) * PageGeometry.pageByteCount }

    public func look(at span: Span) -> TableState {
        switch pteTables[span.start] {
        case let table? where !table.isAllNone: .populated
        case _ where !profile.showsEmptyTables: .emptyOrAbsent
        case nil: .absent
        case _?: .empty
        }
    }

    public func eligibility(of span: Span) -> KeptReason? {
        guard let vma = vma(covering: span.start), vma.range.contains(span.range) else {
            return .crossesVMA
        }
        return vma.kind == .special ? .specialVMA : nil
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
        pteTables[span.start] = nil
        vmas[index].attributes.remove(.locked)
        // All its pages have moved away, so it is tied to nothing any more.
        if vmas[index].range == span.range { vmas[index].anonVMA = nil }
    }
}
