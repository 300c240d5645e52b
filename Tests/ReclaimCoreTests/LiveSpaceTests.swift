// SPDX-License-Identifier: Apache-2.0

import Foundation
import LiveSpace
import ReclaimCore
import Synchronization
import TestSupport
import Testing

@Suite struct LiveSpaceTests {
    private let pagesPerSpan = PageGeometry.entriesPerTable

    @Test func theProbeFindsABackendThatFrees() throws {
        let backend = try #require(LiveSpace.probeBackend())
        #expect(LiveSpace.frees(backend))
    }

    /// Two oracles: the look, and VmPTE in a process where nobody else changes it.
    @Test(.enabled(if: KernelAbilities.showsTables, "needs PAGEMAP_SCAN, Linux 6.7"))
    func eachBackendFreesOneTable() async {
        await #expect(processExitsWith: .success) {
            for backend in KernelAbilities.backends {
                let space = try LivePlayground(backend, isAlone: true)
                let span = space.span(3)
                try space.map(space.pages(0..<8 * PageGeometry.entriesPerTable), marked: false)
                try space.write(1, at: span.start)
                try space.discard(AddressRange(start: span.start, end: span.start + 4096))
                let state = try space.look(at: span)
                let before = try #require(space.vmPTEByteCount())
                try space.freeTable(of: span)
                let after = try #require(space.vmPTEByteCount())
                let end = try space.look(at: span)
                if state != .empty || end != .absent || before != after + 4096 {
                    Issue.record("\(backend): \(state), \(end), \(before) to \(after)")
                }
            }
        }
    }

    // |  VMA     ||  marked VMA  |
    //     |   span 1   |
    @Test func remapRefusesASpanOfTwoVMAs() throws {
        let space = try LivePlayground(.remap)
        let joint = pagesPerSpan + 100
        try space.map(space.pages(0..<joint), marked: false)
        try space.map(space.pages(joint..<3 * pagesPerSpan), marked: true)
        try space.write(1, at: space.span(1).start)
        try space.write(2, at: space.span(1).end - 1)
        #expect(throws: ReclaimError(.freeFailed, errno: EFAULT, range: space.span(1).range)) {
            try space.freeTable(of: space.span(1))
        }
        #expect(try space.read(at: space.span(1).start) == 1)
        #expect(try space.read(at: space.span(1).end - 1) == 2)
        #expect(try space.look(at: space.span(1)) == .populated)
    }

    /// Threads that move tables at the same time share the scratch spans.
    @Test func eightThreadsRemapTheirOwnSpans() throws {
        let space = try LivePlayground(.remap)
        let threads = 8
        try space.map(space.pages(0..<2 * threads * pagesPerSpan), marked: false)
        // Every other span is a bystander whose bytes must stay.
        for thread in 0..<threads {
            for page in stride(from: 0, to: pagesPerSpan, by: 37) {
                let address = space.address(ofPage: (2 * thread + 1) * pagesPerSpan + page)
                try space.write(UInt8(thread + 1), at: address)
            }
        }
        let failures = Atomic<Int>(0)
        let spans = (0..<threads).map { space.span(2 * $0) }
        DispatchQueue.concurrentPerform(iterations: threads) { thread in
            let own = LiveSpace(backend: .remap)
            // Sound: mapped above, and this thread's alone.
            guard
                let byte = unsafe UnsafeMutablePointer<UInt8>(
                    bitPattern: spans[thread].start + UInt(thread) * 4096)
            else { return }
            for round in 0..<10_000 {
                unsafe byte.pointee = UInt8(truncatingIfNeeded: round | 1)
                do {
                    try own.freeTable(of: spans[thread])
                } catch {
                    failures.add(1, ordering: .relaxed)
                }
                if unsafe byte.pointee != 0 { failures.add(1, ordering: .relaxed) }
            }
        }
        #expect(failures.load(ordering: .relaxed) == 0)
        for thread in 0..<threads {
            for page in stride(from: 0, to: pagesPerSpan, by: 37) {
                let address = space.address(ofPage: (2 * thread + 1) * pagesPerSpan + page)
                #expect(try space.read(at: address) == UInt8(thread + 1))
            }
        }
    }
}

/// The set is one for the process, so these run one after the other, with ends of their own.
@Suite(.serialized) struct ReserveSetTests {
    @Test func holdsWhatWasInsertedUntilItIsRemoved() {
        let end: UInt = 0x1234_5000
        #expect(!ReserveSet.contains(end: end))
        #expect(ReserveSet.insert(end: end))
        #expect(ReserveSet.insert(end: end))
        #expect(ReserveSet.contains(end: end))
        #expect(LiveSpace(backend: .dontneed).reserveEnd(after: end) == 0x1240_0000)
        #expect(ReserveSet.remove(end: end))
        #expect(!ReserveSet.remove(end: end))
        #expect(!ReserveSet.contains(end: end))
        #expect(LiveSpace(backend: .dontneed).reserveEnd(after: end) == end)
    }

    @Test func neverHoldsASpanBoundary() {
        #expect(!ReserveSet.contains(end: 0x4000_0000))
        #expect(!ReserveSet.remove(end: 0x4000_0000))
    }

    /// Ends that meet in the table: removing one and inserting another again leaves no second copy.
    @Test func holdsNoEndTwice() async {
        await #expect(processExitsWith: .success) {
            let ends = (1...3000).map { UInt($0) * 0x20_0000 + 0x1000 }
            for end in ends { _ = ReserveSet.insert(end: end) }
            for end in ends.filter({ $0 / 0x20_0000 % 2 == 0 }) { _ = ReserveSet.remove(end: end) }
            let odd = ends.filter { $0 / 0x20_0000 % 2 == 1 }
            for end in odd { _ = ReserveSet.insert(end: end) }
            for end in odd { _ = ReserveSet.remove(end: end) }
            let left = ends.filter { ReserveSet.contains(end: $0) }
            if !left.isEmpty { Issue.record("\(left.count) ends outlived their removal") }
        }
    }

    @Test func saysWhenItIsFull() async {
        await #expect(processExitsWith: .success) {
            var held: [UInt] = []
            var refused = 0
            for number in 1...6000 {
                let end = UInt(number) * 0x20_0000 + 0x3000
                if ReserveSet.insert(end: end) { held.append(end) } else { refused += 1 }
            }
            let missing = held.filter { !ReserveSet.contains(end: $0) }
            if refused < 6000 - 4096 || !missing.isEmpty || held.count < 2000 {
                Issue.record("\(held.count) held, \(refused) refused, \(missing.count) missing")
            }
        }
    }
}
