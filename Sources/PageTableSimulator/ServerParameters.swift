// SPDX-License-Identifier: Apache-2.0

internal import PageTableModel
internal import ReclaimCore

/// The server that was reported: VIRT 55 TiB, RES 590 GiB, VmPTE 110 GiB, 108 GiB of it empty.
///
/// It grows region by region. A region is used as a whole, then nearly all of it is given up, in
/// extents that begin and end anywhere:
///
///     |  span  |  span  |  span  |  span  |  span  |
///     |     extent  |  extent |  whole | extent|kept|
///                                 ^ one purge covers all of it: PT_RECLAIM frees its table
struct ServerParameters: Sendable {
    var virtualByteCount: UInt
    var residentByteCount: UInt
    /// PTE tables that have a page at the end; half of 2 GiB is not empty but used.
    var usedTableCount: Int
    /// Of the spans: how many one purge covers from end to end.
    var wholeSpanShare = 0.22
    /// One of so many regions holds all that is kept.
    var regionsPerLiveRegion = 4
    /// Of the extents: how many are used and given up once more.
    var reuseShare = 0.1
    var regionSpans = 512
    var seconds = 86_400.0

    private static let fullUsedTableCount = (2 << 30) / 4096 - 55 * 1024 - 110

    init(scale: Double) {
        let spans = max(1, (Double(55 << 19) * scale).rounded())
        virtualByteCount = UInt(spans) * PageGeometry.spanByteCount
        residentByteCount = UInt((590 * 1_073_741_824.0 * scale).rounded())
        usedTableCount = max(1, Int((Double(Self.fullUsedTableCount) * scale).rounded()))
    }

    func workload(seed: UInt64) -> Workload {
        Workload(
            name: "server", meaning: Workload.names[0].meaning,
            parameters: [
                ("VIRT", "\(virtualByteCount >> 20) MiB"),
                ("RES at the end", "\(residentByteCount >> 20) MiB"),
                ("PTE tables in use at the end", "\(usedTableCount)"),
                ("region", "\(regionSpans * 2) MiB, used as a whole, then given up"),
                ("spans that one purge covers", "\(wholeSpanShare * 100) %"),
                ("extents that are used twice", "\(reuseShare * 100) %"),
                ("regions that keep pages", "1 of \(regionsPerLiveRegion)"),
                ("time", "\(Int(seconds)) s"), ("seed", "\(seed)"),
            ], seconds: seconds, base: Workload.base
        ) { simulation in
            var generator = ServerGenerator(self, seed: seed)
            try generator.play(simulation)
        }
    }
}

private struct ServerGenerator {
    private let parameters: ServerParameters
    private var random: SplitMix64
    private let spanCount: Int
    private let liveSpanCount: Int
    /// Pages of a run that is kept.
    private let keptPages: Double
    private var liveSpansSeen = 0
    private var tablesKept = 0
    private var pagesKept = 0
    private var extents: [AddressRange] = []
    private var later: [AddressRange] = []
    private var again: [AddressRange] = []

    private static let page = PageGeometry.pageByteCount
    private static let span = PageGeometry.spanByteCount

    init(_ parameters: ServerParameters, seed: UInt64) {
        self.parameters = parameters
        random = SplitMix64(seed: seed)
        spanCount = Int(parameters.virtualByteCount / Self.span)
        let group = parameters.regionSpans * parameters.regionsPerLiveRegion
        liveSpanCount =
            spanCount / group * parameters.regionSpans
            + min(spanCount % group, parameters.regionSpans)
        keptPages =
            Double(parameters.residentByteCount / Self.page) / Double(parameters.usedTableCount)
    }

    mutating func play(_ simulation: Simulation) throws {
        var first = 0
        var region = 0
        while first < spanCount {
            let count = min(parameters.regionSpans, spanCount - first)
            let start = Workload.base + UInt(first) * Self.span
            let range = AddressRange(start: start, end: start + UInt(count) * Self.span)
            try simulation.map(range)
            try simulation.use(range, isNew: true)
            cut(range, isLive: region % parameters.regionsPerLiveRegion == 0)
            try giveUp(simulation)
            try simulation.tick(parameters.seconds * Double(count) / Double(spanCount))
            first += count
            region += 1
        }
    }

    /// Half of the extents, at random, go first, then the others; some come back and go again.
    private mutating func giveUp(_ simulation: Simulation) throws {
        later.removeAll(keepingCapacity: true)
        again.removeAll(keepingCapacity: true)
        for extent in extents {
            if random.isBelow(parameters.reuseShare) { again.append(extent) }
            if random.isBelow(0.5) {
                try simulation.purge(extent)
            } else {
                later.append(extent)
            }
        }
        for extent in later { try simulation.purge(extent) }
        for extent in again {
            try simulation.use(extent)
            try simulation.purge(extent)
        }
    }

    /// Cuts a region into extents and what is kept.
    private mutating func cut(_ range: AddressRange, isLive: Bool) {
        extents.removeAll(keepingCapacity: true)
        var start = range.start
        var span = range.start
        while span < range.end {
            if isLive, let pages = nextKeptRun() {
                let at = span + UInt(random.next(below: 512 - pages + 1)) * Self.page
                endExtent(from: &start, at: at)
                start = at + UInt(pages) * Self.page
            } else if random.isBelow(parameters.wholeSpanShare) {
                endExtent(from: &start, at: span)
                endExtent(from: &start, at: span + Self.span)
            } else {
                endExtent(from: &start, at: span + UInt(1 + random.next(below: 511)) * Self.page)
            }
            span += Self.span
        }
        endExtent(from: &start, at: range.end)
    }

    private mutating func endExtent(from start: inout UInt, at end: UInt) {
        if start < end { extents.append(AddressRange(start: start, end: end)) }
        start = end
    }

    /// How many pages the next span of a live region keeps; nil: none. Both counts come out right.
    private mutating func nextKeptRun() -> Int? {
        liveSpansSeen += 1
        let target = Int(
            Double(parameters.usedTableCount) * Double(liveSpansSeen) / Double(liveSpanCount))
        guard tablesKept < target else { return nil }
        tablesKept += 1
        let pages = Int(keptPages * Double(tablesKept)) - pagesKept
        pagesKept += pages
        return min(max(pages, 1), 512)
    }
}
