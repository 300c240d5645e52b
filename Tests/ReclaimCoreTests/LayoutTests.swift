// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import PageTableModel
import ReclaimCore
import Synchronization
import Testing

private let page = PageGeometry.pageByteCount
private let span = PageGeometry.spanByteCount
private let gib = PageGeometry.pmdTableByteCount
private let off = UInt32(PTRECLAIM_MARK_OFF.rawValue)
private let on = UInt32(PTRECLAIM_MARK_ON.rawValue)
private let seenEmpty = UInt32(PTRECLAIM_MARK_EMPTY.rawValue)

/// The layout rule, which knows of addresses and nothing else: each test has a part of the address
/// space to itself, of 64 GiB, where no memory is. One at a time, as there is one that claims.
@Suite(.serialized) struct LayoutTests {
    private static let places = Atomic<UInt>(0)
    /// On the boundary of a GiB.
    private let place: UInt

    init() {
        place = (1 << 45) + Self.places.wrappingAdd(1, ordering: .relaxed).newValue * 64 * gib
        // A claim is told to waiting threads through this.
        unsafe #expect(ptreclaim_map_wiped_on_fork(ptreclaim_live_state()) == 0)
    }

    // MARK: Words

    private func word(_ address: UInt) -> UInt32 { ptreclaim_layout_word(address) }

    private func find(
        _ start: UInt, _ end: UInt, mask: UInt32 = off, wanted: UInt32 = 0
    ) -> Range<UInt>? {
        var first: UInt = 0
        var last: UInt = 0
        guard unsafe ptreclaim_layout_find(start, end, mask, wanted, &first, &last) else {
            return nil
        }
        return first..<last
    }

    private func claim(
        _ start: UInt, _ end: UInt, mask: UInt32 = off, wanted: UInt32 = 0
    ) -> Range<UInt>? { Self.claim(start, end, mask: mask, wanted: wanted) }

    private static func claim(
        _ start: UInt, _ end: UInt, mask: UInt32 = off, wanted: UInt32 = 0
    ) -> Range<UInt>? {
        var first: UInt = 0
        var last: UInt = 0
        guard unsafe ptreclaim_layout_claim(start, end, mask, wanted, &first, &last) else {
            return nil
        }
        return first..<last
    }

    private func clear(_ start: UInt, _ end: UInt) { _ = ptreclaim_layout_clear(start, end) }

    //   |  100  | 412 |      the whole of the first span, in two parts; 1 page of the second
    @Test func onlyASpanWhosePagesWereAllSeenIsFound() {
        ptreclaim_layout_add(place, place + 100 * page)
        #expect(word(place) == 100)
        #expect(find(place, place + gib) == nil)
        ptreclaim_layout_add(place + 100 * page, place + span + page)
        #expect(word(place) == 512)
        #expect(word(place + span) == 1)
        #expect(find(place, place + gib) == place..<place + span)
        #expect(claim(place + span, place + gib) == nil)
    }

    @Test func partOfASpanClearsAllOfIt() {
        ptreclaim_layout_add(place, place + 4 * span)
        #expect(find(place, place + gib) == place..<place + 4 * span)
        clear(place + span + 5 * page, place + span + 6 * page)
        #expect(word(place + span) == 0)
        #expect(find(place, place + gib) == place..<place + span)
        #expect(find(place + span, place + gib) == place + 2 * span..<place + 4 * span)
        // Never subtracted: the other 511 pages are there, but were seen before.
        ptreclaim_layout_add(place + span + 5 * page, place + span + 6 * page)
        #expect(word(place + span) == 1)
    }

    @Test func aSpanThatWasSeenTwiceIsNeverFound() {
        ptreclaim_layout_add(place, place + span)
        ptreclaim_layout_add(place + 7 * page, place + 8 * page)
        #expect(word(place) == 513)
        #expect(find(place, place + span) == nil)
        // Nor does the sum come round to 512.
        for _ in 0..<9 { ptreclaim_layout_add(place, place + span) }
        #expect(word(place) == 1023)
        #expect(find(place, place + span) == nil)
        clear(place, place + page)
        ptreclaim_layout_add(place, place + span)
        #expect(find(place, place + span) == place..<place + span)
    }

    @Test func wholeGiBsAreOneWordUntilAPartDiffers() {
        ptreclaim_layout_add(place - span, place + 3 * gib + page)
        #expect(find(place - gib, place + 4 * gib) == place - span..<place + 3 * gib)
        #expect(word(place + 3 * gib) == 1)
        clear(place + gib + 9 * page, place + gib + 10 * page)
        #expect(find(place, place + 3 * gib) == place..<place + gib)
        #expect(find(place + gib, place + 3 * gib) == place + gib + span..<place + 3 * gib)
        ptreclaim_layout_add(place, place + gib)  // seen twice
        #expect(word(place) == 1023 && word(place + gib - page) == 1023)
        clear(place, place + 3 * gib)
        #expect(find(place - gib, place + 4 * gib) == place - span..<place)
        #expect(word(place) == 0 && word(place + gib + span) == 0)
    }

    // A reserve of 10 TB: 4 bytes for each GiB, and some microseconds.
    @Test func aReserveOfTerabytesCostsNextToNothing() {
        let start: UInt = (1 << 44) + (6 << 40)
        let end = start + 10_000 * gib
        let resident = residentByteCount()
        let clock = ContinuousClock()
        let adding = clock.measure { ptreclaim_layout_add(start + page, end) }
        let marking = clock.measure {
            #expect(ptreclaim_layout_mark(start, end, seenEmpty, 0))
        }
        let finding = clock.measure {
            #expect(
                find(start, end, mask: seenEmpty, wanted: seenEmpty) == start + span..<end)
        }
        let missing = clock.measure { #expect(find(start, end, mask: on, wanted: on) == nil) }
        let clearing = clock.measure { clear(start, end) }
        #expect(find(start, end) == nil)
        #expect(residentByteCount() - resident < 8 << 20)
        for duration in [adding, marking, finding, missing, clearing] {
            #expect(duration < .milliseconds(100))  // 0.1 to 0.3 on a quiet machine
        }
    }

    private func residentByteCount() -> Int {
        let fields = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8)
            .split(separator: " ")
        return (fields.flatMap { Int($0[1]) } ?? 0) * Int(page)
    }

    @Test func addressesBeyondUserSpaceAreIgnored() {
        let top = PageGeometry.userSpaceEnd
        ptreclaim_layout_add(top - span, top + span)
        #expect(word(top - span) == 512)
        #expect(word(top) == 0)
        #expect(find(top - span, top + span) == top - span..<top)
        clear(top - span, .max & ~(page - 1))
        #expect(word(top - span) == 0)
        ptreclaim_layout_add(top + gib, top + 2 * gib)
        clear(top + gib, top + 2 * gib)
        #expect(find(top + gib, top + 2 * gib) == nil)
    }

    // MARK: Replacing

    // |   span   |   span   |   span   |      R: replaced
    // |       R R|R R R R R |R         |
    @Test func aReplacementRestoresWhatItTouchesInPart() {
        ptreclaim_layout_add(place, place + 3 * span)
        let (start, end) = (place + span - 2 * page, place + 2 * span + page)
        let edges = ptreclaim_layout_clear(start, end)
        #expect(find(place, place + gib) == nil)
        ptreclaim_layout_replace(start, end, edges)
        #expect(find(place, place + gib) == place..<place + 3 * span)
    }

    @Test func aReplacementInsideOneSpanRestoresIt() {
        ptreclaim_layout_add(place, place + span)
        let edges = ptreclaim_layout_clear(place + page, place + 3 * page)
        ptreclaim_layout_replace(place + page, place + 3 * page, edges)
        #expect(word(place) == 512)
    }

    @Test func aPassThatRemembersMeanwhileDoesNotHinderAReplacement() {
        ptreclaim_layout_add(place, place + span)
        let edges = ptreclaim_layout_clear(place + page, place + 3 * page)
        #expect(ptreclaim_layout_mark(place, place + span, seenEmpty, 0))
        ptreclaim_layout_replace(place + page, place + 3 * page, edges)
        #expect(word(place) == 512)
    }

    @Test func whatWasSeenInPartIsNotMadeWhole() {
        ptreclaim_layout_add(place, place + 500 * page)
        let edges = ptreclaim_layout_clear(place + page, place + 3 * page)
        ptreclaim_layout_replace(place + page, place + 3 * page, edges)
        #expect(word(place) == 2)
    }

    @Test(arguments: [0, 1, 2, 3, 4])
    func aReplacementRestoresNothingThatSomebodyChangedMeanwhile(other: Int) {
        ptreclaim_layout_add(place, place + span)
        let edges = ptreclaim_layout_clear(place + page, place + 3 * page)
        switch other {
        case 0: clear(place + 9 * page, place + 10 * page)
        case 1: ptreclaim_layout_add(place + 9 * page, place + 10 * page)
        case 2:
            // As it was, to the eye: unmapped and mapped again.
            ptreclaim_layout_add(place, place + span)
            clear(place + 9 * page, place + 10 * page)
        case 3:
            let others = ptreclaim_layout_clear(place + 9 * page, place + 10 * page)
            ptreclaim_layout_replace(place + 9 * page, place + 10 * page, others)
        default: clear(place & ~(gib - 1), (place & ~(gib - 1)) + gib)
        }
        ptreclaim_layout_replace(place + page, place + 3 * page, edges)
        #expect(word(place) < 512)
        #expect(find(place, place + span) == nil)
    }

    // MARK: Marks

    @Test func marksSurviveSplitsAndEndWhereAPageIsUnmapped() {
        ptreclaim_layout_add(place, place + 2 * gib)
        #expect(ptreclaim_layout_mark(place, place + 2 * gib, on, 0))
        #expect(ptreclaim_layout_mark(place + span, place + 2 * span, off, on))
        #expect(find(place, place + gib, mask: on, wanted: on) == place..<place + span)
        // Something else happens in the GiB, and in the span.
        clear(place + 8 * span, place + 9 * span)
        let edges = ptreclaim_layout_clear(place + page, place + 2 * page)
        ptreclaim_layout_replace(place + page, place + 2 * page, edges)
        #expect(word(place) == 512 | on)
        #expect(word(place + span) == 512 | off)
        #expect(word(place + 8 * span) == 0)
        #expect(word(place + gib + 7 * page) == 512 | on)
        // Unmapped, and mapped again: nothing is left of it.
        clear(place + span + page, place + span + 2 * page)
        clear(place + gib, place + 2 * gib)
        ptreclaim_layout_add(place + span, place + 2 * span)
        ptreclaim_layout_add(place + gib, place + 2 * gib)
        #expect(word(place + span) == 512)
        #expect(word(place + gib) == 512)
    }

    @Test func whatWasSeenEmptyIsForgottenWhenAPartIsReplaced() {
        ptreclaim_layout_add(place, place + span)
        #expect(ptreclaim_layout_mark(place, place + span, seenEmpty | on, 0))
        let edges = ptreclaim_layout_clear(place + page, place + 2 * page)
        ptreclaim_layout_replace(place + page, place + 2 * page, edges)
        #expect(word(place) == 512 | on)
    }

    @Test func whatIsSwitchedOffIsNeverClaimed() {
        ptreclaim_layout_add(place, place + 4 * span)
        #expect(ptreclaim_layout_mark(place + 2 * span, place + 3 * span, off, 0))
        #expect(claim(place, place + 4 * span) == place..<place + 2 * span)
        ptreclaim_layout_release(place, place + 2 * span)
        #expect(claim(place + 2 * span, place + 4 * span) == place + 3 * span..<place + 4 * span)
        ptreclaim_layout_release(place + 3 * span, place + 4 * span)
        #expect(claim(place + 2 * span, place + 3 * span) == nil)
        #expect(claim(place, place + 4 * span, mask: off | on, wanted: on) == nil)
        #expect(ptreclaim_layout_mark(place + 2 * span, place + 3 * span, 0, off))
        #expect(claim(place + 2 * span, place + 3 * span) != nil)
        ptreclaim_layout_release(place + 2 * span, place + 3 * span)
    }

    // MARK: Claims

    @Test func aClaimEndsWithTheRelease() {
        ptreclaim_layout_add(place, place + 2 * span)
        #expect(claim(place, place + 2 * span) == place..<place + 2 * span)
        #expect(word(place) == 512)
        ptreclaim_layout_release(place, place + 2 * span)
        // Once more is no harm: the watchdog does it, too.
        ptreclaim_layout_release(place, place + 2 * span)
        clear(place, place + 2 * span)
        #expect(word(place) == 0)
    }

    @Test func whoUnmapsWhatIsClaimedWaitsForTheRelease() {
        ptreclaim_layout_add(place, place + 2 * span)
        let place = place
        #expect(claim(place, place + span) == place..<place + span)
        let waited = ptreclaim_layout_waits().count
        let steps = Steps()
        let waiter = Threads(1) { _ in
            // Beside it nobody waits.
            _ = ptreclaim_layout_clear(place + span, place + 2 * span)
            steps.begun.store(true, ordering: .releasing)
            _ = ptreclaim_layout_clear(place + 5 * page, place + 6 * page)
            steps.done.store(true, ordering: .releasing)
        }
        while !steps.begun.load(ordering: .acquiring) { usleep(1000) }
        usleep(30_000)
        #expect(!steps.isDone)
        #expect(word(place) == 512)
        ptreclaim_layout_release(place, place + span)
        waiter.join()
        #expect(word(place) == 0)
        let waits = ptreclaim_layout_waits()
        #expect(waits.count > waited)
        #expect(waits.longest_ns > 20_000_000)
    }

    /// Who stops it waits for the claim; so must who unmaps after that, though nothing is recorded
    /// any more.
    @Test func whoUnmapsWhatIsClaimedWaitsAfterItWasStoppedToo() async {
        await #expect(processExitsWith: .success) {
            let place: UInt = 1 << 45
            unsafe #expect(ptreclaim_map_wiped_on_fork(ptreclaim_live_state()) == 0)
            ptreclaim_layout_add(place, place + 2 * span)
            #expect(LayoutTests.claim(place, place + span) == place..<place + span)
            let steps = Steps()
            let threads = Threads(2) { index in
                if index == 0 {
                    ptreclaim_layout_stop()
                } else {
                    // Beside what is claimed; it waits until the rule is off.
                    while ptreclaim_layout_word(place) != 0 { usleep(1000) }
                    _ = ptreclaim_layout_clear(place + page, place + 2 * page)
                }
                steps.done.store(true, ordering: .releasing)
            }
            usleep(100_000)
            #expect(!steps.isDone)
            ptreclaim_layout_release(place, place + span)
            threads.join()
            #expect(LayoutTests.claim(place, place + 2 * span) == nil)
            ptreclaim_layout_add(place + 4 * span, place + 5 * span)
            #expect(ptreclaim_layout_word(place + 4 * span) == 0)
            #expect(!ptreclaim_layout_mark(place, place + span, 1 << 10, 0))
        }
    }

    // MARK: Against a reference

    /// A span as the rule of the header says it, kept in a dictionary.
    private struct Reference: Equatable {
        var pages = 0
        var marks: UInt32 = 0
        var clears = 0
        var word: UInt32 { UInt32(min(pages, 1023)) | marks }
    }

    private struct Edge {
        let span: UInt
        let pages: Int
        let before: Reference
        let after: Reference
    }

    @Test(arguments: [1, 2, 3, UInt64.random(in: 4 ... .max)])
    func itIsWhatADictionaryOfSpansSays(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var spans: [UInt: Reference] = [:]
        let window = place..<place + 4 * gib
        /// Between a clear and its replace, as in the middle of a call of another thread.
        var pending: [(Range<UInt>, ptreclaim_layout_edges, [Edge])] = []

        func someRange() -> Range<UInt> {
            let unit = [page, page, span, span, gib][random.next(below: 5)]
            let start = window.lowerBound + UInt(random.next(below: Int(4 * gib / unit))) * unit
            let length = UInt(1 + random.next(below: unit == page ? 1500 : 3)) * unit
            return start..<min(start + length, window.upperBound)
        }
        func pieces(_ range: Range<UInt>) -> [(span: UInt, pages: Int)] {
            stride(from: range.lowerBound & ~(span - 1), to: range.upperBound, by: Int(span)).map {
                let (start, end) = (max($0, range.lowerBound), min($0 + span, range.upperBound))
                return ($0, Int((end - start) / page))
            }
        }
        func whole(_ range: Range<UInt>) -> Range<UInt> {
            range.lowerBound & ~(span - 1)..<(range.upperBound + span - 1) & ~(span - 1)
        }
        func runs(_ range: Range<UInt>, _ mask: UInt32, _ wanted: UInt32) -> Range<UInt>? {
            let matching = stride(from: range.lowerBound, to: range.upperBound, by: Int(span)).map {
                ($0, (spans[$0] ?? Reference()).word & (0x3ff | mask) == 512 | wanted)
            }
            guard let first = matching.first(where: { $0.1 })?.0 else { return nil }
            let end = matching.first { $0.0 > first && !$0.1 }?.0 ?? range.upperBound
            return first..<end
        }
        func clearReference(_ range: Range<UInt>) -> [Edge] {
            pieces(range).map { piece in
                let before = spans[piece.span] ?? Reference()
                var after = Reference()
                after.clears = before.clears + 1
                spans[piece.span] = after
                return Edge(span: piece.span, pages: piece.pages, before: before, after: after)
            }
        }

        for step in 0..<1500 {
            let range = someRange()
            switch random.next(below: 8) {
            case 0, 1:
                ptreclaim_layout_add(range.lowerBound, range.upperBound)
                for piece in pieces(range) {
                    spans[piece.span, default: .init()].pages += piece.pages
                }
            case 2:
                clear(range.lowerBound, range.upperBound)
                _ = clearReference(range)
            case 3:
                let edges = ptreclaim_layout_clear(range.lowerBound, range.upperBound)
                pending.append((range, edges, clearReference(range)))
            case 4:
                guard !pending.isEmpty else { continue }
                let (range, edges, old) = pending.remove(at: random.next(below: pending.count))
                ptreclaim_layout_replace(range.lowerBound, range.upperBound, edges)
                for edge in old {
                    let isWhole = edge.pages == 512
                    var now = spans[edge.span]
                    now?.marks &= ~seenEmpty
                    if !isWhole, edge.before.pages == 512, now == edge.after {
                        spans[edge.span]?.pages = 512
                        spans[edge.span]?.marks = edge.before.marks & (off | on)
                    } else {
                        spans[edge.span]?.pages += edge.pages
                    }
                }
            case 5:
                let range = whole(range)
                let marks = [off, on, seenEmpty, off | on]
                let (set, unset) = (marks[random.next(below: 4)], marks[random.next(below: 4)])
                #expect(ptreclaim_layout_mark(range.lowerBound, range.upperBound, set, unset))
                for piece in pieces(range) {
                    let old = spans[piece.span]?.marks ?? 0
                    spans[piece.span, default: .init()].marks = old & ~unset | set
                }
            default:
                let range = whole(range)
                let (mask, wanted) = [
                    (off, 0), (off | on, on), (off | seenEmpty, seenEmpty), (0, 0),
                ][random.next(below: 4)]
                let expected = runs(range, mask, wanted)
                let found = find(range.lowerBound, range.upperBound, mask: mask, wanted: wanted)
                #expect(found == expected, "seed \(seed), step \(step)")
                let claimed = claim(range.lowerBound, range.upperBound, mask: mask, wanted: wanted)
                #expect(claimed == expected, "seed \(seed), step \(step)")
                if let claimed {
                    ptreclaim_layout_release(claimed.lowerBound, claimed.upperBound)
                }
            }
            for address in stride(from: window.lowerBound, to: window.upperBound, by: Int(span)) {
                let expected = spans[address]?.word ?? 0
                guard word(address) == expected else {
                    let number = (address - place) / span
                    let difference = "\(word(address)), not \(expected), at span \(number)"
                    Issue.record("seed \(seed), step \(step): \(difference)")
                    return
                }
            }
        }
    }

    // MARK: Threads

    // Four threads own a quarter of each span, map and unmap it all the time, and say so in a flag.
    // While a span is claimed, all of its quarters are mapped.
    @Test func whatIsClaimedIsMappedWhateverThreadsDo() {
        let race = Race(place: place)
        let claimed = race.run(seconds: 2)
        #expect(race.holeCount == 0)
        #expect(claimed > 100, "it was claimed while nobody was unmapping")
        #expect(race.changeCount > 1000)
    }
}

/// Flags of threads of one test.
private final class Steps: Sendable {
    let begun = Atomic(false)
    let done = Atomic(false)
    var isDone: Bool { done.load(ordering: .acquiring) }
}

/// Threads of the kernel's, not of Swift's pool: they block.
private struct Threads {
    private let group = DispatchGroup()

    init(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
        for index in 0..<count {
            group.enter()
            Thread.detachNewThread { [group] in
                body(index)
                group.leave()
            }
        }
    }

    func join() { group.wait() }
}

/// Everybody waits until all are there.
private final class Barrier: Sendable {
    private let count: Int
    private let arrived = Atomic(0)
    private let round = Atomic(0)

    init(_ count: Int) { self.count = count }

    func wait() {
        let mine = round.load(ordering: .acquiring)
        if arrived.wrappingAdd(1, ordering: .acquiringAndReleasing).newValue == count {
            arrived.store(0, ordering: .relaxed)
            round.wrappingAdd(1, ordering: .releasing)
            return
        }
        while round.load(ordering: .acquiring) == mine { sched_yield() }
    }
}

@safe private final class Race: Sendable {
    private static let threads = 4
    private static let spans = 2
    private static let quarter = span / 4

    private let holes = Atomic(0)
    private let changes = Atomic(0)
    var holeCount: Int { holes.load(ordering: .relaxed) }
    var changeCount: Int { changes.load(ordering: .relaxed) }
    private let place: UInt
    private let barrier = Barrier(threads)
    private let stop = Atomic(false)
    /// The last one that is told to stop is told in the same round as the first.
    private let lastRound = Atomic(false)
    /// Sound: written by `init`, freed by `deinit`, atomics otherwise.
    private nonisolated(unsafe) let isMapped: UnsafeMutablePointer<Atomic<Bool>>

    init(place: UInt) {
        self.place = place
        unsafe isMapped = .allocate(capacity: Self.spans * Self.threads)
        for index in 0..<Self.spans * Self.threads {
            unsafe (isMapped + index).initialize(to: Atomic(false))
        }
    }

    deinit { unsafe isMapped.deallocate() }

    private func set(_ span: Int, _ thread: Int, _ value: Bool) {
        unsafe isMapped[span * Self.threads + thread].store(value, ordering: .releasing)
    }

    private func range(_ index: Int, _ thread: Int) -> Range<UInt> {
        let start = place + UInt(index) * span + UInt(thread) * Self.quarter
        return start..<start + Self.quarter
    }

    private func unmap(_ index: Int, _ thread: Int) {
        let range = range(index, thread)
        _ = ptreclaim_layout_clear(range.lowerBound, range.upperBound)
        set(index, thread, false)
    }

    private func map(_ index: Int, _ thread: Int) {
        let range = range(index, thread)
        set(index, thread, true)
        ptreclaim_layout_add(range.lowerBound, range.upperBound)
    }

    private func replace(_ index: Int, _ thread: Int) {
        let range = range(index, thread)
        let edges = ptreclaim_layout_clear(range.lowerBound, range.upperBound)
        set(index, thread, false)
        set(index, thread, true)
        ptreclaim_layout_replace(range.lowerBound, range.upperBound, edges)
    }

    private func work(_ thread: Int) {
        var random = SplitMix64(seed: UInt64(thread))
        var isLast = false
        while !isLast {
            for index in 0..<Self.spans { unmap(index, thread) }
            if thread == 0 {
                lastRound.store(stop.load(ordering: .relaxed), ordering: .relaxed)
            }
            barrier.wait()
            isLast = lastRound.load(ordering: .relaxed)
            for index in 0..<Self.spans { map(index, thread) }
            barrier.wait()  // all of it is mapped, and seen
            for _ in 0..<100 {
                // Not all at once, or nothing is ever whole.
                if random.next(below: 4) == 0 { usleep(UInt32(random.next(below: 20))) }
                let index = random.next(below: Self.spans)
                if random.next(below: 64) == 0 {
                    unmap(index, thread)
                    map(index, thread)
                } else {
                    replace(index, thread)
                }
                changes.wrappingAdd(1, ordering: .relaxed)
            }
        }
    }

    /// Returns how many spans were claimed.
    func run(seconds: Double) -> Int {
        let threads = Threads(Self.threads) { [self] in work($0) }
        let end = ContinuousClock.now + .seconds(seconds)
        var count = 0
        while ContinuousClock.now < end {
            var first: UInt = 0
            var last: UInt = 0
            guard
                unsafe ptreclaim_layout_claim(
                    place, place + UInt(Self.spans) * span, 0, 0, &first, &last)
            else { continue }
            for _ in 0..<8 { look(first..<last) }
            count += Int((last - first) / span)
            ptreclaim_layout_release(first, last)
        }
        stop.store(true, ordering: .relaxed)
        threads.join()
        return count
    }

    private func look(_ claimed: Range<UInt>) {
        let first = Int((claimed.lowerBound - place) / span) * Self.threads
        let last = Int((claimed.upperBound - place) / span) * Self.threads
        for index in first..<last where unsafe !isMapped[index].load(ordering: .acquiring) {
            holes.wrappingAdd(1, ordering: .relaxed)
        }
    }
}
