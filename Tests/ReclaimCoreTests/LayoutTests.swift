// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
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
    let place: UInt

    init() {
        place = (1 << 45) + Self.places.wrappingAdd(1, ordering: .relaxed).newValue * 64 * gib
        // A claim is told to waiting threads through this.
        unsafe #expect(ptreclaim_map_wiped_on_fork(ptreclaim_live_state()) == 0)
    }

    func word(_ address: UInt) -> UInt32 { ptreclaim_layout_word(address) }

    func find(
        _ start: UInt, _ end: UInt, mask: UInt32 = off, wanted: UInt32 = 0
    ) -> Range<UInt>? {
        var first: UInt = 0
        var last: UInt = 0
        guard unsafe ptreclaim_layout_find(start, end, mask, wanted, &first, &last) else {
            return nil
        }
        return first..<last
    }

    func claim(
        _ start: UInt, _ end: UInt, mask: UInt32 = off, wanted: UInt32 = 0
    ) -> Range<UInt>? { Self.claim(start, end, mask: mask, wanted: wanted) }

    static func claim(
        _ start: UInt, _ end: UInt, mask: UInt32 = off, wanted: UInt32 = 0
    ) -> Range<UInt>? {
        var first: UInt = 0
        var last: UInt = 0
        guard unsafe ptreclaim_layout_claim(start, end, mask, wanted, &first, &last) else {
            return nil
        }
        return first..<last
    }

    func clear(_ start: UInt, _ end: UInt) { _ = ptreclaim_layout_clear(start, end) }

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
}
