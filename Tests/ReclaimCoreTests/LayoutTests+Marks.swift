// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import ReclaimCore
import Testing

private let page = PageGeometry.pageByteCount
private let span = PageGeometry.spanByteCount
private let gib = PageGeometry.pmdTableByteCount
private let off = UInt32(PTRECLAIM_MARK_OFF.rawValue)
private let on = UInt32(PTRECLAIM_MARK_ON.rawValue)
private let seenEmpty = UInt32(PTRECLAIM_MARK_EMPTY.rawValue)

/// What is remembered of a span beside its pages.
extension LayoutTests {
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
}
