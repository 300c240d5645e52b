// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import PTReclaim
import ReclaimCore
import TestSupport
import Testing

private let flags = TestMemory.anonymous

/// Ranges that are wrong, and memory that is not for us: each has a clear answer, and nothing
/// that anyone can read changes.
@Suite(.enabled(if: Weather.freesAndShows, Weather.needsFreesAndShows))
struct BadInputTests {

    // MARK: Wrong ranges

    @Test(arguments: Weather.bothAccesses)
    func refusesWrongRanges(access: Access) throws {
        let memory = TestMemory(2)
        try memory.map()
        try memory.makeEmptyTables(0..<1)
        memory.write(1)
        let (start, end) = (memory.spans.start, memory.spans.end)
        let wrong: [Range<UInt>] = [
            start + 1..<end, start + 2048..<end, start + 1..<start + 1,
            start..<(1 << 47) + 1, start..<UInt.max, start..<UInt.max - 4095,
            1 << 47..<1 << 48, 1 << 48..<1 << 48, UInt.max - 4095..<UInt.max,
        ]
        let before = try memory.states()
        for range in wrong {
            let said = ReclaimError(
                .invalidRange, errno: EINVAL,
                range: AddressRange(start: range.lowerBound, end: range.upperBound))
            #expect(throws: said) { try ptReclaim(range: range, access: access) }
        }
        #expect(try memory.states() == before)
        // Not because nothing could be freed there.
        #expect(try ptReclaim(range: start..<end, access: .owned).tablesFreed == 1)
        #expect(memory.changedBytes() == [])
    }

    @Test(arguments: Weather.bothAccesses)
    func anEmptyRangeDoesNothing(access: Access) throws {
        for address in [0, 4096, 1 << 44, 1 << 47] as [UInt] {
            let report = try ptReclaim(range: address..<address, access: access)
            #expect(report == ReclaimReport())
        }
    }

    @Test(arguments: Weather.accesses)
    func roundsTheLengthUpToPages(access: Access) throws {
        let memory = TestMemory(2)
        try memory.map()
        try memory.makeEmptyTables()
        let (start, end) = (memory.spans.start, memory.spans.end)
        #expect(
            try ptReclaim(range: start..<end - 4096, access: access).told
                == ["freed": 1, "partial": 1])
        #expect(try memory.states() == [.absent, .empty])
        #expect(
            try ptReclaim(range: start..<end - 4095, access: access).told
                == ["freed": 1, "absent": 1])
        #expect(memory.changedBytes() == [])
    }

    /// A buffer is rounded inward: the page that it covers in part is somebody else's too.
    @Test(arguments: Weather.accesses)
    func roundsBuffersInward(access: Access) throws {
        func told(_ start: UInt, _ count: Int) throws -> [String: Int] {
            let mutable = unsafe UnsafeMutableRawBufferPointer(
                start: UnsafeMutableRawPointer(bitPattern: start), count: count)
            let constant = UnsafeRawBufferPointer(mutable)
            // Twice the same: first through the one, then through the other.
            let first = try unsafe ptReclaim(range: constant, access: access).told
            let second = try unsafe ptReclaim(range: mutable, access: access).told
            #expect(second == (first["freed"] == nil ? first : ["absent": 1]))
            return first
        }
        let memory = TestMemory(1)
        try memory.map()
        try memory.makeEmptyTables()
        let start = memory.spans.start
        let byteCount = memory.spans.range.byteCount
        for (offset, count) in [(1, Int(byteCount) - 1), (0, Int(byteCount) - 1)] {
            #expect(try told(start + UInt(offset), count) == ["partial": 1])
        }
        // Shorter than a page, and a page's length that holds no whole page.
        for (offset, count) in [(0, 0), (0, 4095), (1, 4094), (1, 4096), (4095, 2)] {
            #expect(try told(start + UInt(offset), count) == [:])
        }
        #expect(try told(0, 0) == [:])
        #expect(try memory.states() == [.empty])
        #expect(try told(start, Int(byteCount)) == ["freed": 1])
        #expect(memory.changedBytes() == [])
    }

    @Test func aBufferBeyondUserSpaceIsRefused() throws {
        let buffer = unsafe UnsafeRawBufferPointer(
            start: UnsafeRawPointer(bitPattern: UInt(1) << 47), count: 8192)
        let error = #expect(throws: ReclaimError.self) { try unsafe ptReclaim(range: buffer) }
        #expect(error?.code == .invalidRange)
        #expect(error?.errno == EINVAL)
    }

    // MARK: Holes

    // |  empty | empty |  hole  | half | page | empty |
    @Test(arguments: Weather.accesses)
    func holesAreReportedAndTheRestIsDone(access: Access) throws {
        let memory = TestMemory(6)
        try memory.map()
        try memory.makeEmptyTables()
        memory.write(4)
        try memory.unmap(2..<3)
        memory.forget(2)
        _ = ptreclaim_munmap(memory.spans[3].start, 1 << 20)
        memory.forget(3)
        let report = try ptReclaim(range: memory.range, access: access)
        #expect(report.told == ["freed": 3, "unmapped": 1, "crossesVMA": 1, "populated": 1])
        #expect(
            try memory.states() == [.absent, .absent, .absent, .empty, .populated, .absent])
        #expect(memory.changedBytes() == [])
    }

    @Test(arguments: Weather.bothAccesses)
    func aRangeThatIsAllHoleIsNoError(access: Access) throws {
        let memory = TestMemory(64)
        #expect(try ptReclaim(range: memory.range, access: access).told == ["unmapped": 64])
        // Up to the end of user space, hundreds of GiB of it.
        let end = PageGeometry.userSpaceEnd
        let report = try ptReclaim(range: end - (1 << 21)..<end, access: access)
        #expect(report.tablesFreed == 0)
        #expect(report.tablesExamined == 1)
    }

    /// |        10 TiB, of which every 5120th span has a table: 1 GiB      |
    @Test(.timeLimit(.minutes(1)), arguments: Weather.accesses)
    func tenTerabytesOfWhichOneGigabyteWasTouched(access: Access) async {
        await #expect(processExitsWith: .success) { [name = "\(access)"] in
            let access: Access = name == "owned" ? .owned : .shared
            let (start, byteCount) = (UInt(0x3000_0000_0000), UInt(10) << 40)
            try check(
                ptreclaim_mmap(start, Int(byteCount), PROT_NONE, flags | MAP_FIXED, -1, 0))
            try check(
                ptreclaim_syscall(
                    Int(SYS_mprotect), Int(start), Int(byteCount), Int(PROT_READ | PROT_WRITE), 0,
                    0, 0))
            _ = ptreclaim_madvise(start, Int(byteCount), MADV_NOHUGEPAGE)
            let tables: UInt = 512
            for number in 0..<tables {
                let address = start + number * (byteCount / tables)
                // Sound: mapped above.
                unsafe UnsafeMutablePointer<UInt8>(bitPattern: address)?.pointee = 7
                if number % 8 != 0 {
                    try check(ptreclaim_madvise(address, 4096, PTRECLAIM_MADV_DONTNEED))
                }
            }
            let report = try ptReclaim(range: start..<start + byteCount, access: access)
            let spanCount = Int(byteCount / PageGeometry.spanByteCount)
            say(
                report.told == ["freed": 448, "populated": 64, "absent": spanCount - 512],
                "\(report.told)")
            for number in stride(from: UInt(0), to: tables, by: 8) {
                let address = start + number * (byteCount / tables)
                let byte = unsafe UnsafePointer<UInt8>(bitPattern: address)?.pointee
                say(byte == 7, "\(number): \(byte ?? 0)")
            }
            // Tens of milliseconds; a walk that visits each of five million spans takes seconds.
            say(report.duration < .seconds(2), "\(report.duration)")
        }
    }
}
