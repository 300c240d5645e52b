// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import ReclaimCore
import Testing

private let page = PageGeometry.pageByteCount
private let span = PageGeometry.spanByteCount
private let gib = PageGeometry.pmdTableByteCount
private let seenEmpty = UInt32(PTRECLAIM_MARK_EMPTY.rawValue)

/// What a call that maps over something leaves of the words.
extension LayoutTests {
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
}
