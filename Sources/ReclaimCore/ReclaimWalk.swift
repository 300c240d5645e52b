// SPDX-License-Identifier: Apache-2.0

/// The walk over spans, written once for the running process and for the model.
///
/// One thread at a time uses a walk, as it does its space. Nothing allocates.
public struct ReclaimWalk<Space: AddressSpace> {
    /// What is walked over.
    public var space: Space
    /// How many tables are freed behind one fence: for so long, about 150 µs, may a thread that
    /// touches them have to wait.
    public var longestFencedRun = 64

    /// A walk over `space`; to make one costs nothing.
    public init(space: Space) {
        self.space = space
    }
}

// MARK: - Reclaiming a range

extension ReclaimWalk {
    /// Frees every PTE table in `range` whose 512 entries are all none.
    ///
    ///     | partial |  span  |  span  | hole |  span  || VMA |   a span that crosses
    ///               |  look  |  look  |      |  kept             VMAs keeps its table
    ///
    /// A table is freed after a look, verified by a second one, and only where its span lies
    /// wholly inside one VMA that the rule makes eligible.
    ///
    /// - Parameters:
    ///   - range: half-open, page-aligned; partial spans at both ends are left alone.
    ///   - access: who else may touch the range during the call.
    ///   - maximumTables: stop after about as many existing tables, freed or not.
    /// - Throws: `.lookFailed` with the errno of the space. What was freed before stays freed.
    ///
    /// The corresponding kernel function is `madvise_pt_reclaim` of the proposal on linux-mm,
    /// June 2024; never merged.
    public func reclaim(
        _ range: AddressRange, access: ReclaimAccess, maximumTables: Int = .max
    ) throws(ReclaimError) -> ReclaimReport {
        var pass = WalkProgress(tablesLeft: maximumTables)
        pass.report.vmPTEBefore = space.vmPTEByteCount()
        pass.report.kept[.partial] = partialSpanCount(of: range)
        try walk(range.wholeSpans, access, &pass)
        return report(of: pass)
    }

    /// The same for spans that anybody may touch, without a look at VmPTE.
    func reclaim(_ spans: SpanRun) throws(ReclaimError) -> ReclaimReport {
        var pass = WalkProgress(tablesLeft: .max)
        try walk(spans, .shared, &pass)
        return pass.report
    }

    private func walk(
        _ spans: SpanRun, _ access: ReclaimAccess, _ pass: inout WalkProgress
    ) throws(ReclaimError) {
        let maximumTables = pass.tablesLeft
        var rest = spans
        while !rest.isEmpty, pass.tablesLeft > 0 {
            let mapping = try space.mapping(at: rest.start)
            let end = Span(containing: min(mapping.range.end, rest.end)).start
            let reached: UInt
            if end <= rest.start {
                reached = try examine(rest.prefix(1), mapping, .keep(.crossesVMA), &pass)
            } else {
                let verdict = EligibilityRule.verdict(for: mapping.kind, access: access)
                reached = try examine(rest.prefix(upTo: end), mapping, verdict, &pass)
            }
            rest = rest.suffix(from: reached)
        }
        if !rest.isEmpty { pass.report.resumeAddress = rest.start }
        pass.report.tablesLookedAt = maximumTables - pass.tablesLeft
    }

    /// Examines spans of one mapping, lowest first. Returns where it stopped.
    private func examine(
        _ spans: SpanRun, _ mapping: Mapping, _ verdict: EligibilityRule.Verdict,
        _ pass: inout WalkProgress
    ) throws(ReclaimError) -> UInt {
        // Nothing is there, or nothing that a look could make sense of, or is welcome to.
        if case .keep(let reason) = verdict,
            reason == .unmapped || reason == .specialVMA || reason == .switchedOff
        {
            pass.keep(spans.count, reason)
            return spans.end
        }
        var scan = TableScan(spans, in: space)
        while pass.tablesLeft > 0, let sighting = try scan.next() {
            switch sighting {
            case .absent(let run): pass.keep(run.count, .absent)
            case .populated:
                pass.keep(1, .populated)
                pass.tablesLeft -= 1
            case .empty(let tables):
                let run = tables.prefix(pass.tablesLeft)
                try reclaim(run, mapping, verdict, &pass)
                pass.tablesLeft -= run.count
                if run != tables { return run.end }
            }
        }
        return scan.rest.start
    }

    /// Frees the empty tables of `run` as the verdict says, looks again, and counts.
    private func reclaim(
        _ run: SpanRun, _ mapping: Mapping, _ verdict: EligibilityRule.Verdict,
        _ pass: inout WalkProgress
    ) throws(ReclaimError) {
        var refusal: KeptReason?
        switch verdict {
        case .keep(let reason): return pass.keep(run.count, reason)
        case .free: refusal = space.free(run, in: mapping, fenced: false)
        case .freeFenced:
            var rest = run
            while refusal == nil, !rest.isEmpty {
                let fenced = rest.prefix(longestFencedRun)
                refusal = space.free(fenced, in: mapping, fenced: true)
                rest = rest.suffix(from: fenced.end)
            }
        }
        var gone = run.count
        var scan = TableScan(run, in: space)
        while let sighting = try scan.next() {
            switch sighting {
            case .absent: break
            case .populated:
                pass.keep(1, .refilled)
                gone -= 1
            case .empty(let left):
                gone -= left.count
                if let refusal {
                    pass.keep(left.count, refusal)
                } else if try looksCannotTell(at: left.start) {
                    pass.hidden += left.count
                } else {
                    pass.keep(left.count, .stillThere)
                }
            }
        }
        pass.report.tablesExamined += gone
        pass.report.tablesFreed += gone
    }

    private func looksCannotTell(at address: UInt) throws(ReclaimError) -> Bool {
        if !space.showsTables { return true }
        return try space.hidesTables(at: address)
    }

    /// Adds what only VmPTE can tell.
    private func report(of pass: WalkProgress) -> ReclaimReport {
        var report = pass.report
        report.vmPTEAfter = space.vmPTEByteCount()
        guard pass.hidden > 0 else { return report }
        var freed = 0
        if let before = report.vmPTEBefore, let after = report.vmPTEAfter, after < before {
            let tables = Int((before &- after) / PageGeometry.pageByteCount)
            freed = min(max(tables - report.tablesFreed, 0), pass.hidden)
        }
        report.tablesExamined += pass.hidden
        report.tablesFreed += freed
        report.kept[.absent] += pass.hidden - freed
        return report
    }

    private func partialSpanCount(of range: AddressRange) -> Int {
        guard !range.isEmpty else { return 0 }
        let first = Span(containing: range.start).start
        let last = Span(containing: range.end &- 1).start
        return Int((last &- first) / PageGeometry.spanByteCount) + 1 - range.wholeSpans.count
    }
}

/// A walk over one range, as far as it has got.
private struct WalkProgress {
    var report = ReclaimReport()
    /// How many existing tables may still be looked at.
    var tablesLeft: Int
    /// Frees of which no look can tell whether there was a table.
    var hidden = 0

    mutating func keep(_ count: Int, _ reason: KeptReason) {
        report.tablesExamined += count
        report.kept[reason] += count
    }
}

// MARK: - Events of an allocator

extension ReclaimWalk {
    /// Purges an extent that the allocator has just given up, and zaps every span that this makes
    /// whole. On the hot path: no look, no verification, one system call where the kernel frees
    /// tables by itself.
    ///
    /// - Parameter extent: page-aligned, and of no use to any thread during the call.
    /// - Throws: `.discardFailed` when the pages could not be dropped; the allocator must then
    ///   keep the extent.
    ///
    /// The corresponding kernel call is `madvise(MADV_DONTNEED)`.
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
    ///
    /// - Parameters:
    ///   - lower: page-aligned.
    ///   - upper: page-aligned; it begins where `lower` ends.
    ///   - committed: jemalloc's flag for both: true, and nothing is zapped.
    ///
    /// The corresponding kernel function is `zap_pte_range`.
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
}

/// Spans that were zapped, and spans that the backend refused. Zapped is not freed: whether a
/// table went is seen by a second look only.
public struct ZapCount: Equatable, Sendable {
    /// Spans that were zapped; their tables may be gone.
    public private(set) var zapped: Int
    /// Spans that the backend refused; they are as they were.
    public private(set) var skipped: Int

    /// A count to begin with, in spans.
    public init(zapped: Int, skipped: Int) {
        self.zapped = zapped
        self.skipped = skipped
    }

    mutating func add(zapped succeeded: Bool) {
        if succeeded { zapped += 1 } else { skipped += 1 }
    }
}
