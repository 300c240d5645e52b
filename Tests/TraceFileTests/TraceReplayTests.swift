// SPDX-License-Identifier: Apache-2.0

import CTraceFile
import ReclaimCore
import Testing
import TraceFile

@Suite struct TraceReplayTests {
    private let heap = TraceBytes.heap
    private let page = TraceBytes.page

    private func replay(_ trace: TraceBytes) throws -> TraceReplay {
        try TraceReplay(TraceReader(bytes: trace.bytes))
    }

    private func predicted(_ trace: TraceBytes) throws -> [Int] {
        try replay(trace).samples.map { $0.predicted / 1024 }
    }

    @Test("Every sample of a small workload is predicted exactly")
    func exact() throws {
        let replay = try replay(.fillAndPurge())
        #expect(replay.samples.map(\.predicted) == replay.samples.map(\.measured))
        #expect(replay.samples.map { $0.measured / 1024 } == [0, 28, 20, 12, 8])
        #expect(replay.eventCount == 5)
        #expect(replay.otherZapCount == 0)
        #expect(replay.misfitCount == 0)
        let (median, furthest) = try #require(replay.medianAndFurthest)
        #expect(median.difference == 0 && furthest.difference == 0)
    }

    @Test("The same workload with one event changed is predicted otherwise")
    func oneEventChanged() throws {
        let right = try predicted(.fillAndPurge())
        let changes: [(String, (inout TraceBytes) -> Void)] = [
            ("half is committed", { $0.records[2].page_count = 1152 }),
            ("the last page is kept", { $0.records[6].page_count -= 1 }),
            ("it begins a page later", { $0.records[4].address += 4096 }),
            ("the reserve is unknown", { $0.records[1].flags = 2 }),
            ("no merge", { $0.records[8].kind = UInt8(PTRECLAIM_TRACE_PURGE_LAZY.rawValue) }),
            ("one is kept", { $0.records[6].kind = UInt8(PTRECLAIM_TRACE_COMMIT.rawValue) }),
        ]
        for (name, change) in changes {
            var trace = TraceBytes.fillAndPurge()
            change(&trace)
            #expect(try predicted(trace) != right, "\(name)")
        }
    }

    @Test("Spans that the rule zaps and the library did not are counted")
    func otherZaps() throws {
        var trace = TraceBytes.fillAndPurge()
        trace.records[4].zapped_count = 1
        #expect(try replay(trace).otherZapCount == 1)
    }

    @Test("Before Linux 6.14 a purge leaves the tables, and the backend frees them")
    func remap() throws {
        for backend in [Backend.remap, .mapfixed] {
            var trace = TraceBytes.fillAndPurge()
            trace.header.backend = UInt32(backend.rawValue)
            trace.header.dontneed_frees_tables = 0
            #expect(try predicted(trace) == [0, 28, 20, 12, 8], "\(backend)")
            // jemalloc's own purge has no backend behind it.
            trace.records[4].kind = UInt8(PTRECLAIM_TRACE_PURGE_FORCED.rawValue)
            #expect(try predicted(trace).prefix(3) == [0, 28, 28], "\(backend)")
        }
    }

    @Test("What an event speaks of and none maps was there and in use when the trace began")
    func before() throws {
        var trace = TraceBytes()
        trace.sample(100)
        trace.add(PTRECLAIM_TRACE_DECOMMIT, at: heap, pages: 1024, zapped: 2)
        trace.sample(92)
        let replay = try replay(trace)
        #expect(replay.samples.map(\.predicted) == [0, -8192])
        #expect(replay.misfitCount == 0)
    }

    @Test("What is unmapped takes its tables along, unless the kernel refused")
    func unmapped() throws {
        var trace = TraceBytes()
        trace.sample(100)
        trace.add(
            PTRECLAIM_TRACE_MAP, at: heap, pages: 1100, more: 436,
            flags: PTRECLAIM_TRACE_COMMITTED)
        trace.sample(120)
        trace.add(PTRECLAIM_TRACE_UNMAP, at: heap, pages: 1100)
        trace.add(PTRECLAIM_TRACE_UNMAP, at: heap, pages: 1100, flags: PTRECLAIM_TRACE_FAILED)
        trace.sample(120)
        trace.add(PTRECLAIM_TRACE_DESTROY, at: heap, pages: 1100)
        trace.sample(100)
        let replay = try replay(trace)
        #expect(replay.samples.map(\.predicted) == replay.samples.map(\.measured))
    }

    @Test("Whole spans of what is mapped past the hooks are in use; what was in its place goes")
    func outside() throws {
        var trace = TraceBytes()
        trace.sample(100)
        // Asked for aligned, not got so: jemalloc takes twice as much in its place, and trims it.
        trace.add(PTRECLAIM_TRACE_MAP_OUTSIDE, at: heap + page, pages: 512)
        trace.sample(100)
        trace.add(PTRECLAIM_TRACE_MAP_OUTSIDE, at: heap + page, pages: 1023)
        trace.sample(112)
        let replay = try replay(trace)
        #expect(replay.samples.map(\.predicted) == replay.samples.map(\.measured))
        #expect(replay.misfitCount == 0)
    }

    @Test("The stack of each thread needs a table as long as the thread is there")
    func threads() throws {
        var trace = TraceBytes()
        for threadCount in [UInt32(1), 4, 2, .max] {
            trace.add(PTRECLAIM_TRACE_VM_PTE, at: 100 * 1024, pages: threadCount)
        }
        #expect(try predicted(trace) == [0, 12, 4, 4 * (Int(UInt32.max) - 1)])
    }

    @Test("The trace itself costs a table for each 65,536 records")
    func itself() throws {
        var trace = TraceBytes()
        trace.header.capacity = 140_000
        for _ in 0..<140_000 { trace.sample(100) }
        let predicted = try predicted(trace)
        #expect(predicted.first == 0 && predicted.last == 8)
    }

    @Test("A trace that needs more tables than allowed is an error that names its event")
    func tooLarge() throws {
        var trace = TraceBytes.fillAndPurge()
        trace.records[2].page_count = .max
        #expect(throws: TraceError(.tooLarge(index: 2), what: "trace")) { try replay(trace) }
        #expect(throws: TraceError.self) {
            try TraceReplay(
                TraceReader(bytes: TraceBytes.fillAndPurge().bytes), mostTables: 3)
        }
    }

    @Test("Thinned samples are the first, the last, and some between")
    func thinned() throws {
        var trace = TraceBytes()
        for kibibytes in UInt(1)...100 { trace.sample(kibibytes * 4) }
        let replay = try replay(trace)
        let thinned = replay.thinned(to: 7)
        #expect(thinned.count == 7)
        #expect(thinned.first == replay.samples.first && thinned.last == replay.samples.last)
        #expect(replay.thinned(to: 1000) == replay.samples)
    }
}
