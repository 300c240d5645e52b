// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import ReclaimCore
import Synchronization
import Testing

private let page = PageGeometry.pageByteCount
private let span = PageGeometry.spanByteCount

/// Who waits for a claim, and until when.
extension LayoutTests {
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
}

/// Flags of threads of one test.
private final class Steps: Sendable {
    let begun = Atomic(false)
    let done = Atomic(false)
    var isDone: Bool { done.load(ordering: .acquiring) }
}
