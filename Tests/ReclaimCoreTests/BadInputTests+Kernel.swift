// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import PTReclaim
import ReclaimCore
import TestSupport
import Testing

/// Memory that the kernel shares with us.
extension BadInputTests {
    /// Memory that the kernel shares with us through a descriptor: a ring of io_uring, and one of
    /// perf, which is PFN-mapped.
    @Test(.enabled(if: Weather.hasRing, "needs io_uring"), arguments: Weather.bothAccesses)
    func aRingOfIOURingIsSpecial(access: Access) throws {
        try Self.playRing(access)
    }

    static func playRing(_ access: Access) throws {
        let ring = Weather.makeRing()
        try check(Int(ring))
        defer { _ = ptreclaim_close(ring) }
        // The kernel chooses the place, so it takes two spans to have one.
        let (submissions, byteCount) = (0x1000_0000, 4 << 20)  // IORING_OFF_SQES
        let address = UInt(
            try check(
                ptreclaim_mmap(0, byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, ring, submissions))
        )
        defer { _ = ptreclaim_munmap(address, byteCount) }
        let end = address + UInt(byteCount)
        // Sound: mapped above, until this function ends.
        for place in [address, end - 1] {
            unsafe UnsafeMutablePointer<UInt8>(bitPattern: place)?.pointee = 9
        }
        let report = try ptReclaim(range: address..<end, access: access)
        let whole = AddressRange(start: address, end: end).wholeSpans.count
        say(whole > 0 && report.told["specialVMA"] == whole, "\(report.told)")
        say(report.tablesExamined == whole, "\(report.tablesExamined) of \(whole)")
        for place in [address, end - 1] {
            let byte = unsafe UnsafePointer<UInt8>(bitPattern: place)?.pointee
            say(byte == 9, "\(byte ?? 0)")
        }
    }

    @Test(.enabled(if: Weather.hasPerf, "needs perf_event_open"), arguments: Weather.bothAccesses)
    func aPFNMappedRingOfPerfIsSpecial(access: Access) throws {
        let event = Weather.makePerfEvent()
        try check(Int(event))
        defer { _ = ptreclaim_close(event) }
        // A page of control, and 2^n pages of data: two whole spans, and a page that looks pass over.
        let memory = TestMemory(3)
        try check(
            ptreclaim_mmap(
                memory.spans.start, 4096 + 4 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                event, 0))
        let told = try ptReclaim(range: memory.range, access: access).told
        #expect(told == ["specialVMA": 2, "absent": 1])
        // The control page still says where the data begin, and how long they are.
        let control = unsafe UnsafePointer<UInt64>(bitPattern: memory.spans.start)
        let (offset, size) = unsafe (control?[130], control?[131])
        #expect(offset == 4096)
        #expect(size == 4 << 20)
    }

    /// A small mapping of the kernel's own covers no span; what is beside it is not ours to touch.
    @Test(.enabled(if: Weather.hasVDSO, "needs a vdso"), arguments: Weather.bothAccesses)
    func mappingsOfTheKernelAreNotTouched(access: Access) throws {
        for name in ["[vdso]", "[vvar]"] {
            let line = try #require(Weather.mapping(named: name))
            let page = try #require(UInt(line.prefix { $0 != "-" }, radix: 16))
            let span = Span(containing: page)
            let report = try ptReclaim(range: span.start..<span.end, access: access)
            #expect(report.tablesFreed == 0)
            #expect(report.tablesExamined == 1)
            #expect(Weather.mapping(named: name) == line)
        }
        var now = timespec()
        #expect(unsafe clock_gettime(CLOCK_MONOTONIC, &now) == 0)
    }
}
