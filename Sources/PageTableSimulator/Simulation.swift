// SPDX-License-Identifier: Apache-2.0

internal import PageTableModel
internal import ReclaimCore

/// One workload under one policy. The workload says what happens; the policy answers.
public final class Simulation {
    /// A moment.
    public struct Sample: Equatable, Sendable {
        public var seconds: Double
        /// VmPTE.
        public var vmPTEByteCount: UInt
        /// PTE tables whose 512 entries are all none.
        public var wasteByteCount: UInt
        /// PMD and PUD tables.
        public var upperByteCount: UInt
        public var virtualByteCount: UInt
        public var residentByteCount: UInt
    }

    /// What a policy asked of the kernel, by the piece.
    private struct Calls {
        /// Of ours: `ReclaimWalk.reclaim`.
        var reclaims = 0
        /// A system call, or a piece of work of the kernel.
        var kernel = 0
        var maps = 0
        var unmaps = 0
    }

    public let policy: Policy
    public private(set) var samples: [Sample] = []
    private let model: ModelSpace
    private let meter: Meter
    private let walk: ReclaimWalk<Meter>
    private var unowned = UnownedRanges()
    private var built: SpanSet
    private var builtCount = 0
    private var hints: SpanSet
    /// Everything that was ever mapped lies in it.
    private var extent: AddressRange
    private var virtualByteCount: UInt = 0
    private var residentByteCount: UInt = 0

    private var seconds = 0.0
    private var lastSample = 0.0
    private let secondsPerSample: Double
    private var nextCall: Double
    private var cursor: UInt
    private var budget = 0.0
    private var costs: Costs
    private var calls = Calls()
    private var pagesCounted = 0

    /// - Parameters:
    ///   - base: the lowest address that the workload maps.
    ///   - duration: seconds that it lasts; some fifty samples are taken.
    ///   - costs: what the scan takes for the cost of a table.
    init(_ policy: Policy, base: UInt, duration: Double, costs: Costs) {
        self.policy = policy
        self.costs = costs
        model = ModelSpace(profile: policy.profile, backend: .dontneed)
        meter = Meter(model)
        walk = ReclaimWalk(space: meter)
        built = SpanSet(base: base)
        hints = SpanSet(base: base)
        extent = AddressRange(start: base, end: base)
        cursor = base
        secondsPerSample = duration / 48
        switch policy {
        case .call(let seconds), .hintedCall(let seconds), .scan(_, let seconds):
            nextCall = seconds
        case .taskWork(let delay, _): nextCall = delay
        default: nextCall = .infinity
        }
        takeSample()
    }
}

// MARK: - What a workload does

extension Simulation {
    /// New address space, behind all that there is or anywhere.
    func map(_ range: AddressRange) throws {
        try model.mmap(range)
        virtualByteCount += range.byteCount
        extent.end = max(extent.end, range.end)
    }

    /// New address space that the allocator holds, and nobody uses yet.
    func retain(_ range: AddressRange) throws {
        if !policy.unmaps { try map(range) }
        extent.end = max(extent.end, range.end)
        if policy.unmaps || policy.merges { unowned.insert(range) { _, _ in } }
    }

    /// The allocator hands `range` out, and every page is written.
    ///
    /// - Parameter isNew: it has not been used since it was mapped.
    func use(_ range: AddressRange, isNew: Bool = false) throws {
        if !isNew {
            try unowned.remove(range) { part in
                guard policy.unmaps else { return }
                try model.mmap(part)
                virtualByteCount += part.byteCount
                calls.maps += 1
            }
        }
        try model.touch(range)
        residentByteCount += range.byteCount
        builtCount += built.insert(range)
        if policy == .referenceCounted { pagesCounted += Self.pageCount(range) }
    }

    /// The allocator keeps `range` and gives its pages back.
    func purge(_ range: AddressRange) throws {
        residentByteCount -= range.byteCount
        switch policy {
        case .nothing, .ptReclaim, .ptReclaimFree, .call, .taskWork, .scan:
            try model.dontneed(range, freeing: policy.freeing)
        case .referenceCounted:
            try model.dontneed(range, freeing: .whenEmpty)
            pagesCounted += Self.pageCount(range)
        case .hintedCall:
            try model.dontneed(range, freeing: .never)
            hints.insert(range)
        case .hooks:
            _ = try walk.decommit(range)
            unowned.insert(range) { lower, upper in
                _ = walk.merge(lower: lower, upper: upper, committed: false)
            }
        case .madvise:
            try model.dontneed(range, freeing: .wholeSpans)
            try look(aroundPurged: range)
        case .retainFalse:
            try model.munmap(range)
            virtualByteCount -= range.byteCount
            calls.unmaps += 1
            unowned.insert(range) { _, _ in }
        }
    }

    /// Time passes; what a policy does by the clock is done at its end.
    func tick(_ elapsed: Double) throws {
        seconds += elapsed
        model.settle()
        switch policy {
        case .call(let interval): try call(every: interval)
        case .hintedCall(let interval): try call(every: interval)
        case .taskWork(let delay, let size): try taskWork(elapsed, delay, size)
        case .scan(let share, let interval): try scan(elapsed * share, every: interval)
        default: break
        }
        model.settle()
        if seconds >= lastSample + secondsPerSample * 0.999 { takeSample() }
    }

    /// What the sum of many steps may be off.
    private static let rounding = 1e-3

    private static func pageCount(_ range: AddressRange) -> Int {
        Int(range.byteCount / PageGeometry.pageByteCount)
    }
}

// MARK: - What policies do

extension Simulation {
    /// The spans at both ends of a purge; those between were the kernel's.
    private func look(aroundPurged range: AddressRange) throws {
        let mask = PageGeometry.spanByteCount - 1
        let outer = AddressRange(start: range.start & ~mask, end: (range.end + mask) & ~mask)
        if range == outer { return }
        _ = try walk.reclaim(outer, access: .shared)
        calls.reclaims += 1
    }

    /// `MADV_PT_RECLAIM`: the kernel needs no fence, the lock of the table is one.
    private func call(every interval: Double) throws {
        guard seconds >= nextCall - Self.rounding else { return }
        nextCall += ((max(0, seconds - nextCall) / interval).rounded(.down) + 1) * interval
        if case .call = policy {
            _ = try walk.reclaim(extent, access: .owned)
            calls.kernel += 1
        } else {
            try hints.removeAll { run in
                _ = try walk.reclaim(run, access: .owned)
                calls.kernel += 1
            }
        }
    }

    private func taskWork(_ elapsed: Double, _ delay: Double, _ size: UInt) throws {
        guard seconds >= nextCall - Self.rounding else { return }
        let pieces = (max(0, seconds - nextCall) / delay).rounded(.down) + 1
        nextCall += pieces * delay
        calls.kernel += Int(pieces)
        // Once round at most: what is looked at twice at one time is looked at in vain.
        var left = UInt(min(pieces * Double(size), Double(extent.byteCount)))
        while left > 0 {
            if cursor >= extent.end { cursor = extent.start }
            let end = min(cursor + left, extent.end)
            let mask = PageGeometry.spanByteCount - 1
            _ = try walk.reclaim(
                AddressRange(start: cursor, end: (end + mask) & ~mask), access: .owned)
            left -= end - cursor
            cursor = (end + mask) & ~mask
        }
    }

    /// Spends CPU time on looks and frees; a round begins every `interval` at most.
    private func scan(_ cpuSeconds: Double, every interval: Double) throws {
        if cursor >= extent.end || cursor == extent.start {
            guard seconds >= nextCall - Self.rounding else { return }
            nextCall = seconds + interval
            cursor = extent.start
            budget = 0
        }
        budget += cpuSeconds
        let perTable =
            (costs[.lookAtEmptyTable] + costs[.freeTableInRun] + costs[.fence] / 64) / 1e9
        let tables = budget / max(perTable, 1e-9)
        guard tables >= 64 else { return }
        budget = 0
        let report = try walk.reclaim(
            AddressRange(start: cursor, end: extent.end), access: .shared,
            maximumTables: Int(min(tables, 1e9)))
        calls.reclaims += 1
        cursor = report.resumeAddress ?? extent.start
    }
}

// MARK: - Results

/// What a policy made of a workload.
public struct Outcome: Sendable {
    public var policy: Policy
    public var samples: [Simulation.Sample]
    /// The last sample.
    public var end: Simulation.Sample
    /// PMD tables below which no page is mapped; in none of the other figures but VmPTE.
    public var idleUpperByteCount: UInt
    public var tablesBuilt: Int
    public var tablesFreed: Int
    /// Tables that a later fault had to build again.
    public var tablesRebuilt: Int
    public var work: Work
}

extension Simulation {
    private func takeSample() {
        lastSample = seconds
        let page = PageGeometry.pageByteCount
        samples.append(
            Sample(
                seconds: seconds, vmPTEByteCount: model.tables.byteCount,
                wasteByteCount: UInt(model.tables.emptyTableCount) * page,
                upperByteCount: UInt(model.tables.pmdTableCount + model.tables.pudTableCount)
                    * page,
                virtualByteCount: virtualByteCount, residentByteCount: residentByteCount))
    }

    func outcome() -> Outcome {
        if seconds > lastSample { takeSample() }
        let tables = model.tables
        let freed = tables.pteTablesMade - tables.pteTableCount
        let rebuilt = tables.pteTablesMade - builtCount
        var work = Work()
        work[.call] = calls.reclaims
        work[.systemCall] = calls.kernel
        work[.mapExtent] = calls.maps
        work[.unmapExtent] = calls.unmaps
        work.tablesScanned = meter.tablesScanned
        work.entriesRead = meter.entriesRead
        work[.buildTable] = rebuilt
        work[.countPage] = pagesCounted
        switch policy {
        case .call, .hintedCall, .taskWork:
            // In the kernel a look is the reading, and nothing else.
            work[.readEntry] = meter.entriesRead
            work[.freeTableInRun] = freed
        case .ptReclaim, .referenceCounted: work[.freeTableInRun] = freed
        case .hooks:
            work[.freeTable] = meter.tablesZapped
            work[.freeTableInRun] = max(0, freed - meter.tablesZapped)
        case .madvise, .scan:
            work[.lookAtEmptyTable] = meter.emptyLooks
            work[.lookAtPopulatedTable] = meter.populatedLooks
            work[.lookAtNothing] = meter.vainLooks
            work[.fence] = meter.fences
            work[.freeTableInRun] = freed
        case .nothing, .ptReclaimFree, .retainFalse: break
        }
        return Outcome(
            policy: policy, samples: samples, end: samples[samples.count - 1],
            idleUpperByteCount: UInt(model.idlePMDTableCount) * PageGeometry.pageByteCount,
            tablesBuilt: tables.pteTablesMade, tablesFreed: freed, tablesRebuilt: rebuilt,
            work: work)
    }
}
