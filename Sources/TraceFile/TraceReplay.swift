// SPDX-License-Identifier: Apache-2.0

internal import PageTableModel
internal import ReclaimCore

/// A recorded workload, played again on the model: what VmPTE should have been, beside what it was.
///
/// The rules are those of the library, by the same code: `ReclaimWalk.decommit` and `merge`. What
/// the trace does not tell is assumed:
/// - Committed memory is written at once, all of it. With four workloads of redis the furthest
///   sample is then off by 0 to 8 kB; with the first half written by 0 to 24, with the first page
///   by 4 to 48. A program that never uses what it allocates has fewer tables than predicted.
/// - Of what jemalloc maps past the hooks it keeps whole spans, and uses them. (Only the first page
///   of each: 4 to 20 kB.) What arenas without hooks give back is not seen.
/// - What was mapped before the trace began was in use then.
/// - Every thread needs one table for its stack.
/// - The rest of the process needs no more tables than at the first sample; so everything is
///   compared to that one.
public struct TraceReplay: Sendable {
    public struct Sample: Equatable, Sendable {
        /// Since the start of the trace.
        public let nanoseconds: UInt64
        /// VmPTE in bytes, as it was measured.
        public let vmPTEByteCount: Int
        /// Bytes more than at the first sample: measured, and predicted by the model.
        public let measured: Int
        public let predicted: Int

        public var difference: Int { predicted - measured }
        /// The difference without its sign, in percent of VmPTE.
        public var differencePercent: Double {
            100 * Double(abs(difference)) / Double(max(vmPTEByteCount, 1))
        }
    }

    public private(set) var samples: [Sample] = []
    /// Records that were replayed.
    public private(set) var eventCount = 0
    /// Events at which the rule zaps another number of spans than the library did.
    public private(set) var otherZapCount = 0
    /// Events of memory that, after all before them, is not mapped.
    public private(set) var misfitCount = 0

    /// Replays what `reader` reads.
    ///
    /// - Parameter mostTables: more page tables than this are an error. The default is 4 GiB of
    ///   them, for 2 TiB of memory.
    /// - Throws: `.tooLarge`; what `TraceReader.forEachRecord` throws.
    public init(_ reader: TraceReader, mostTables: Int = 1 << 20) throws(TraceError) {
        var player = Player(reader.header)
        try player.prepare(reader, mostTables)
        var first: (measured: UInt, predicted: UInt)?
        try reader.forEachRecord { index, record throws(TraceError) in
            if index % Player.recordsPerPage == 0 { player.write(place: index) }
            if case .vmPTE(let measured, let threadCount) = record.event {
                let predicted =
                    player.vmPTEByteCount + UInt(threadCount) * PageGeometry.pageByteCount
                let (measuredFirst, predictedFirst) = first ?? (measured, predicted)
                first = (measuredFirst, predictedFirst)
                samples.append(
                    Sample(
                        nanoseconds: record.nanoseconds, vmPTEByteCount: Int(measured),
                        measured: Int(measured) - Int(measuredFirst),
                        predicted: Int(predicted) - Int(predictedFirst)))
                return
            }
            eventCount += 1
            guard player.mayGrow(by: record.event, mostTables) else {
                throw reader.error(.tooLarge(index: index))
            }
            do {
                let zapped = try player.play(record.event)
                if let zapped, zapped != record.zappedCount { otherZapCount += 1 }
            } catch {
                misfitCount += 1
            }
        }
    }
}

// MARK: - Looking at the result

extension TraceReplay {
    /// The sample in the middle by the size of its difference, and the one with the largest; nil
    /// without a sample but the first.
    public var medianAndFurthest: (median: Sample, furthest: Sample)? {
        let ordered = samples.dropFirst().sorted { abs($0.difference) < abs($1.difference) }
        guard let last = ordered.last else { return nil }
        return (ordered[ordered.count / 2], last)
    }

    /// At most `count` samples, evenly spread, the first and the last among them.
    public func thinned(to count: Int) -> [Sample] {
        guard samples.count > count, count > 1 else { return samples }
        return (0..<count).map { samples[$0 * (samples.count - 1) / (count - 1)] }
    }
}

// MARK: - Playing

/// The model, and what each event does to it.
private struct Player {
    /// An event meets memory that is not there.
    struct Misfit: Error {}

    static var recordsPerPage: Int {
        Int(PageGeometry.pageByteCount) / TraceReader.recordByteCount
    }

    private let model: ModelSpace
    private let walk: ReclaimWalk<ModelSpace>
    private let traceMapping: AddressRange

    init(_ header: TraceReader.Header) {
        model = ModelSpace(
            profile: header.dontneedFreesTables ? .linux618 : .linux612,
            backend: header.backend)
        walk = ReclaimWalk(space: model)
        traceMapping = header.mapping
    }

    var vmPTEByteCount: UInt { model.vmPTEByteCount() ?? 0 }

    /// Whether `event` leaves the model with at most `mostTables` tables, roughly.
    func mayGrow(by event: TraceEvent, _ mostTables: Int) -> Bool {
        let most = UInt(mostTables)
        let existing = vmPTEByteCount / PageGeometry.pageByteCount
        return event.range.byteCount / PageGeometry.spanByteCount <= most && existing <= most
    }

    /// Maps and fills what events speak of and no event maps; maps the trace file itself.
    mutating func prepare(_ reader: TraceReader, _ mostTables: Int) throws(TraceError) {
        var spokenOf = RangeUnion()
        var mapped = RangeUnion()
        try reader.forEachRecord { index, record throws(TraceError) in
            guard mayGrow(by: record.event, mostTables) else {
                throw reader.error(.tooLarge(index: index))
            }
            switch record.event {
            case .map, .mapOutside: mapped.insert(record.event.range)
            case .vmPTE: break
            default: spokenOf.insert(record.event.range)
            }
        }
        let before = spokenOf.subtracting(mapped)
        let spanCount = before.reduce(0) { $0 + $1.byteCount / PageGeometry.spanByteCount }
        guard spanCount <= mostTables else {
            throw reader.error(.tooLarge(index: reader.header.recordCount))
        }
        // A valid range, and mapped: nothing here can fail.
        for range in before {
            try? map(range)
            try? fill(range)
        }
        try? model.mmap(traceMapping)
        touchPage(at: traceMapping.start)
    }

    /// The process writes the record with this number into its trace file.
    func write(place: Int) {
        touchPage(
            at: traceMapping.start
                + UInt(1 + place / Self.recordsPerPage) * PageGeometry.pageByteCount)
    }

    private func touchPage(at address: UInt) {
        try? model.touch(AddressRange(start: address, end: address + PageGeometry.pageByteCount))
    }

    /// Returns how many spans were zapped, where the library records it.
    mutating func play(_ event: TraceEvent) throws(Misfit) -> Int? {
        switch event {
        case .map(let extent, let reserveByteCount, let isCommitted, let knowsReserve):
            let all = AddressRange(start: extent.start, end: extent.end + reserveByteCount)
            try map(all)
            if reserveByteCount > 0, knowsReserve { model.reserveEnds.insert(extent.end) }
            if isCommitted { try fill(extent) }
        case .mapOutside(let range):
            // It maps more than it needs where it does not get the alignment, and trims that.
            try map(range)
            if !range.wholeSpans.isEmpty { try fill(range.wholeSpans.range) }
        case .commit(let extent): try fill(extent)
        case .decommit(let extent):
            do {
                return try walk.decommit(extent).zapped
            } catch {
                throw Misfit()
            }
        case .merge(let lower, let upper):
            return walk.merge(lower: lower, upper: upper, committed: false).zapped
        case .purgeForced(let extent):
            do {
                try model.discard(extent)
            } catch {
                throw Misfit()
            }
        case .unmap(let extent, hasFailed: false): try unmap(extent)
        case .unmap(let extent, hasFailed: true):
            try map(extent)
            try fill(extent)
        case .destroy(let extent):
            try unmap(extent)
            if model.reserveEnds.remove(extent.end) != nil {
                try unmap(
                    AddressRange(start: extent.end, end: Span(containing: extent.end).end))
            }
        case .purgeLazy, .vmPTE: break
        }
        return nil
    }

    private func map(_ range: AddressRange) throws(Misfit) {
        model.reserveEnds = model.reserveEnds.filter { !range.holds($0) }
        do {
            try model.mmap(range)
        } catch {
            throw Misfit()
        }
    }

    private func fill(_ range: AddressRange) throws(Misfit) {
        do {
            try model.touch(range)
        } catch {
            throw Misfit()
        }
    }

    private func unmap(_ range: AddressRange) throws(Misfit) {
        do {
            try model.munmap(range)
        } catch {
            throw Misfit()
        }
    }
}

extension AddressRange {
    fileprivate func holds(_ address: UInt) -> Bool { start <= address && address < end }
}

extension TraceEvent {
    /// All memory that the event is about; empty for a sample.
    fileprivate var range: AddressRange {
        switch self {
        case .map(let extent, let reserveByteCount, _, _):
            AddressRange(start: extent.start, end: extent.end + reserveByteCount)
        case .merge(let lower, let upper): AddressRange(start: lower.start, end: upper.end)
        case .mapOutside(let range), .commit(let range), .decommit(let range),
            .purgeLazy(let range), .purgeForced(let range), .unmap(let range, _),
            .destroy(let range):
            range
        case .vmPTE: AddressRange(start: 0, end: 0)
        }
    }
}
