// SPDX-License-Identifier: Apache-2.0

import PageTableModel
import ReclaimCore
import TestSupport
import Testing

/// A model whose tables are freed by a thread of its own: which spans may be served is a list, and
/// what was seen empty another.
private final class ServedModel: ServedSpace {
    let base: ModelPlayground
    var servable: Set<UInt>
    var remembered: Set<UInt> = []
    /// How many looks at the clock there are before time is up.
    var looksAtClock = Int.max
    /// What another thread does between the look and the free.
    var beforeFree: () -> Void = {}
    var freed: [SpanRun] = []

    init(_ base: ModelPlayground, servable: Range<Int>) {
        self.base = base
        self.servable = Set(servable.map { base.span($0).start })
    }

    private func first(in run: SpanRun, of spans: Set<UInt>) -> SpanRun? {
        let step = Int(PageGeometry.spanByteCount)
        let starts = stride(from: run.start, to: run.end, by: step)
        guard let start = starts.first(where: { spans.contains($0) }) else { return nil }
        let end = starts.first { $0 > start && !spans.contains($0) } ?? run.end
        return run.prefix(upTo: end).suffix(from: start)
    }

    private func spans(of run: SpanRun) -> [UInt] { (0..<run.count).map { run[$0].start } }

    func firstServable(in run: SpanRun) -> SpanRun? { first(in: run, of: servable) }
    func firstRemembered(in run: SpanRun) -> SpanRun? {
        first(in: run, of: remembered.intersection(servable))
    }
    func remember(_ run: SpanRun) { remembered.formUnion(spans(of: run)) }
    func forget(_ run: SpanRun) { remembered.subtract(spans(of: run)) }
    var isTimeUp: Bool {
        looksAtClock -= 1
        return looksAtClock < 0
    }

    var discardFreesTables: Bool { base.discardFreesTables }
    var showsTables: Bool { base.showsTables }
    func vmPTEByteCount() -> UInt? { base.vmPTEByteCount() }
    func mapping(at address: UInt) throws(ReclaimError) -> Mapping {
        try base.mapping(at: address)
    }
    func firstPopulatedPage(in range: AddressRange) throws(ReclaimError) -> UInt? {
        try base.firstPopulatedPage(in: range)
    }
    func firstTables(in run: SpanRun, atMost limit: Int) throws(ReclaimError) -> SpanRun? {
        try base.firstTables(in: run, atMost: limit)
    }
    func hidesTables(at address: UInt) throws(ReclaimError) -> Bool {
        try base.hidesTables(at: address)
    }
    func free(_ run: SpanRun, in mapping: Mapping, fenced: Bool) -> KeptReason? {
        beforeFree()
        freed.append(run)
        return base.free(run, in: mapping, fenced: fenced)
    }
    func discard(_ range: AddressRange) throws(ReclaimError) { try base.discard(range) }
    func freeTable(of span: Span) throws(ReclaimError) { try base.freeTable(of: span) }
    func reserveEnd(after end: UInt) -> UInt { base.reserveEnd(after: end) }
}

/// Passes over sixteen spans of anonymous memory.
@Suite struct ServedSpaceTests {
    private let playground = ModelPlayground(.linux618, .dontneed)
    private let count = 16

    init() throws {
        try playground.map(
            playground.pages(0..<count * PageGeometry.entriesPerTable), marked: false)
        for span in 0..<count { try empty(span) }
    }

    private func empty(_ span: Int) throws {
        let pages = PageGeometry.entriesPerTable
        try playground.write(1, at: playground.span(span).start)
        try playground.discardInPieces(span * pages..<(span + 1) * pages)
    }

    private var window: SpanRun { playground.window.wholeSpans }
    private var tables: Int { playground.model.tables.pteTableCount }

    private func pass(
        _ space: ServedModel, frees: Bool = true, isImmediate: Bool = false,
        atMost maximumTables: Int = .max, from start: UInt? = nil
    ) throws -> PassReport {
        try ReclaimWalk(space: space).serve(
            window.suffix(from: start ?? window.start),
            PassTerms(maximumTables: maximumTables, frees: frees, isImmediate: isImmediate))
    }

    @Test func aTableIsFreedWhenTwoPassesHaveSeenItEmpty() throws {
        let space = ServedModel(playground, servable: 0..<count)
        let first = try pass(space)
        #expect(first.tablesEmpty == count && first.tablesFreed == 0 && tables == count)
        // One is in use again, and then empty again: it has to wait once more.
        try playground.write(9, at: playground.span(3).start)
        let second = try pass(space)
        #expect(second.tablesLookedAt == count && second.tablesEmpty == count - 1)
        #expect(second.tablesFreed == count - 1 && tables == 1)
        #expect(try playground.read(at: playground.span(3).start) == 9)
        try empty(3)
        #expect(try pass(space).tablesFreed == 0)
        #expect(try pass(space).tablesFreed == 1)
        #expect(tables == 0)
    }

    @Test func aPassThatFreesAtOnceNeedsNoPassBefore() throws {
        let space = ServedModel(playground, servable: 0..<count)
        #expect(try pass(space, isImmediate: true).tablesFreed == count)
        #expect(space.remembered.isEmpty && tables == 0)
    }

    @Test func aPassThatOnlyLooksRemembers() throws {
        let space = ServedModel(playground, servable: 0..<count)
        for _ in 0..<3 {
            let report = try pass(space, frees: false)
            #expect(report.tablesEmpty == count && report.tablesFreed == 0)
        }
        #expect(tables == count && space.freed.isEmpty)
        #expect(try pass(space).tablesFreed == count)
    }

    @Test func whatIsNotServableIsNeitherLookedAtNorFreed() throws {
        let space = ServedModel(playground, servable: 2..<5)
        space.servable.insert(playground.span(9).start)
        for _ in 0..<2 { #expect(try pass(space).tablesLookedAt == 4) }
        #expect(tables == count - 4)
        let allowed = space.servable
        for run in space.freed {
            #expect((0..<run.count).allSatisfy { allowed.contains(run[$0].start) })
        }
        #expect(try pass(space).tablesLookedAt == 0)
    }

    @Test func theQuotaEndsAPassThatGoesOnThere() throws {
        // A look takes a run of tables as a whole, so the runs are made short.
        for span in stride(from: 1, to: count, by: 2) {
            try playground.write(5, at: playground.span(span).start)
        }
        let space = ServedModel(playground, servable: 0..<count)
        var (passes, looked): (Int, Int) = (0, 0)
        var resume: UInt? = window.start
        while let start = resume, passes < 100 {
            let report = try pass(space, isImmediate: true, atMost: 4, from: start)
            #expect(report.tablesLookedAt <= 4)
            looked += report.tablesLookedAt
            passes += 1
            if let next = report.resumeAddress { #expect(next > start) }
            resume = report.resumeAddress
        }
        #expect(looked == count && tables == count / 2)
        #expect(passes == 4 || passes == 5)
        for span in stride(from: 1, to: count, by: 2) {
            #expect(try playground.read(at: playground.span(span).start) == 5)
        }
    }

    @Test func aPassEndsWhenItsTimeIsUp() throws {
        try playground.write(5, at: playground.span(4).start)
        try playground.write(5, at: playground.span(8).start)
        let space = ServedModel(playground, servable: 0..<count)
        space.looksAtClock = 2
        let report = try pass(space, isImmediate: true)
        // | 0 ... 3 empty | 4 | 5 ... 7 empty: time is up after the third sighting
        #expect(report.tablesLookedAt == 8)
        #expect(report.resumeAddress == playground.span(8).start)
        space.looksAtClock = .max
        let rest = try pass(space, isImmediate: true, from: report.resumeAddress)
        #expect(rest.resumeAddress == nil && rest.tablesLookedAt == count - 8)
        #expect(tables == 2)
    }

    @Test func whatIsFilledBeforeTheFreeStaysAndIsForgotten() throws {
        let space = ServedModel(playground, servable: 0..<count)
        _ = try pass(space)
        let playground = playground
        space.beforeFree = { try? playground.write(7, at: playground.span(6).start + 4096) }
        let report = try pass(space)
        #expect(report.tablesFreed == count - 1)
        #expect(report.kept[.refilled] == 1)
        #expect(try playground.read(at: playground.span(6).start + 4096) == 7)
        #expect(space.remembered.isEmpty)
    }

    @Test(arguments: [1, UInt64.random(in: 2 ... .max)])
    func noPassChangesAByte(seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        let space = ServedModel(playground, servable: 0..<count)
        var bytes: [UInt: UInt8] = [:]
        for step in 0..<400 {
            let span = random.next(below: count)
            switch random.next(below: 4) {
            case 0, 1:
                let page = UInt(random.next(below: 512))
                let address = playground.span(span).start + page * PageGeometry.pageByteCount
                bytes[address] = UInt8(1 + random.next(below: 255))
                try playground.write(bytes[address] ?? 0, at: address)
            case 2:
                let pages = PageGeometry.entriesPerTable
                try playground.discardInPieces(span * pages..<(span + 1) * pages)
                for address in bytes.keys where playground.span(span).range.start <= address {
                    if address < playground.span(span).end { bytes[address] = nil }
                }
            default:
                if random.next(below: 2) == 0 {
                    space.servable.formSymmetricDifference([playground.span(span).start])
                }
                _ = try pass(
                    space, isImmediate: random.next(below: 4) == 0,
                    atMost: 1 + random.next(below: 20))
            }
            for (address, byte) in bytes {
                #expect(try playground.read(at: address) == byte, "seed \(seed), step \(step)")
            }
        }
        #expect(!space.freed.isEmpty, "seed \(seed)")
    }
}
