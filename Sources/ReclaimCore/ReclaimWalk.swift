// SPDX-License-Identifier: Apache-2.0

/// The walk over spans, written once for the running process and for the model.
public struct ReclaimWalk<Space: AddressSpace> {
    public var space: Space

    public init(space: Space) {
        self.space = space
    }

    /// Frees every PTE table in `range` whose 512 entries are all none.
    ///
    /// The caller owns `range`: nobody else touches its contents during the call. A table is
    /// freed after a look, verified by a second one, and only where it lies wholly inside one VMA.
    ///
    /// - Parameter range: half-open, page-aligned; partial spans at both ends are left alone.
    /// The corresponding kernel function is `madvise_pt_reclaim` of the proposal on linux-mm,
    /// June 2024; never merged.
    public func reclaimOwned(_ range: AddressRange) throws(ReclaimError) -> ReclaimReport {
        var report = ReclaimReport()
        report.vmPTEBefore = space.vmPTEByteCount()
        let spans = range.wholeSpans
        report.kept[.partial] = partialSpanCount(of: range)
        for index in 0..<spans.count {
            report.tablesExamined += 1
            if let reason = try reclaimOwnedTable(of: spans[index]) {
                report.kept[reason] += 1
            } else {
                report.tablesFreed += 1
            }
        }
        report.vmPTEAfter = space.vmPTEByteCount()
        return report
    }

    /// Eligible, all none, free, verify. Returns why the table was kept, nil where it is gone.
    private func reclaimOwnedTable(of span: Span) throws(ReclaimError) -> KeptReason? {
        let before = try space.look(at: span)
        switch before {
        case .absent: return .absent
        case .populated: return .populated
        case .empty, .emptyOrAbsent: break
        }
        if let reason = try space.eligibility(of: span) { return reason }
        let bytesBefore = before == .emptyOrAbsent ? space.vmPTEByteCount() : nil
        do {
            try space.freeTable(of: span)
        } catch {
            return .backendFailed
        }
        switch try space.look(at: span) {
        case .absent: return nil
        case .empty: return .stillThere
        case .populated: return .refilled
        case .emptyOrAbsent:
            // This kernel shows no tables; VmPTE does.
            guard let bytesBefore, let bytesAfter = space.vmPTEByteCount() else { return .absent }
            return bytesAfter < bytesBefore ? nil : .absent
        }
    }

    /// Purges an extent that the allocator has just given up, and zaps every span that this makes
    /// whole. On the hot path: no look, no verification, one system call where the kernel frees
    /// tables by itself.
    ///
    /// - Throws: `.discardFailed` when the pages could not be dropped; the allocator must then
    ///   keep the extent.
    public func decommit(_ extent: AddressRange) throws(ReclaimError) -> ZapCount {
        let unowned = OwnershipRule.unowned(byDecommit: extent, in: space)
        try space.discard(unowned)
        let spans = unowned.wholeSpans
        if space.discardFreesTables { return ZapCount(zapped: spans.count, skipped: 0) }
        var count = ZapCount(zapped: 0, skipped: 0)
        for index in 0..<spans.count {
            count.add(zapped: zap(spans[index]))
        }
        return count
    }

    /// Zaps the span that straddles the joint of two extents that nobody owns.
    public func merge(
        lower: AddressRange, upper: AddressRange, committed: Bool
    ) -> ZapCount {
        var count = ZapCount(zapped: 0, skipped: 0)
        let span = OwnershipRule.straddlingSpan(
            lower: lower, upper: upper, committed: committed, in: space)
        if let span { count.add(zapped: zap(span)) }
        return count
    }

    private func zap(_ span: Span) -> Bool {
        do {
            try space.freeTable(of: span)
            return true
        } catch {
            return false
        }
    }

    private func partialSpanCount(of range: AddressRange) -> Int {
        guard !range.isEmpty else { return 0 }
        let touched =
            Int(
                (Span(containing: range.end &- 1).start &- Span(containing: range.start).start)
                    / PageGeometry.spanByteCount) + 1
        return touched - range.wholeSpans.count
    }
}

/// Spans that were zapped, and spans that the backend refused. Zapped is not freed: whether a
/// table went is seen by a second look only.
public struct ZapCount: Equatable, Sendable {
    public private(set) var zapped: Int
    public private(set) var skipped: Int

    public init(zapped: Int, skipped: Int) {
        self.zapped = zapped
        self.skipped = skipped
    }

    mutating func add(zapped succeeded: Bool) {
        if succeeded { zapped += 1 } else { skipped += 1 }
    }
}
