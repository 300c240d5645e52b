// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import PageTableModel
import ReclaimCore
import Synchronization
import Testing

private let span = PageGeometry.spanByteCount

/// The promise of a claim while threads map and unmap.
extension LayoutTests {
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
