// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import PTReclaim
import ReclaimCore
import TestSupport
import Testing

/// Stacks: of the caller, of another thread, of the main thread.
extension BadInputTests {
    /// Frees what it can of the stack of the calling thread: `byteCount` below the frame, emptied.
    private static func playOwnStack(_ byteCount: UInt, _ access: Access) -> String {
        let here = ptreclaim_stack_address()
        let range = emptyStack(below: here, byteCount)
        do {
            let report = try ptReclaim(range: range.start..<range.end, access: access)
            return report.told == ["ownStack": range.wholeSpans.count] ? "kept" : "\(report.told)"
        } catch {
            return "\(error)"
        }
    }

    /// Whole spans below `here` that once were stack: their tables are empty now.
    private static func emptyStack(below here: UInt, _ byteCount: UInt) -> AddressRange {
        // A stack grows by faults, far below the frames that are in use.
        let end = Span(containing: here - (1 << 16)).start
        let range = AddressRange(start: end - byteCount, end: end)
        for address in stride(from: end - 4096, through: range.start, by: -4096) {
            // Sound: inside the stack's limit, below every frame and its red zone.
            unsafe UnsafeMutablePointer<UInt8>(bitPattern: address)?.pointee = 1
        }
        for piece in stride(from: range.start, to: end, by: 1 << 18) {
            _ = ptreclaim_madvise(piece, 1 << 18, PTRECLAIM_MADV_DONTNEED)
        }
        return range
    }

    @Test(arguments: Weather.bothAccesses)
    func theCallersOwnStackIsKept(access: Access) {
        var answer = ""
        onThread(stackByteCount: 16 << 20) {
            answer = Self.playOwnStack(4 << 20, access)
            return 0
        }
        #expect(answer == "kept")
    }

    /// Since Linux 6.7 a thread's stack looks like any memory without huge pages, and merges with
    /// what is mapped above it.
    // |  stack, 2 spans  |  4 empty tables   |    one VMA
    @Test(arguments: Weather.accesses)
    func memoryThatMergedWithTheCallersStackIsNotKept(access: Access) throws {
        let memory = TestMemory(6)
        try memory.map()
        let above = memory.spans.suffix(from: memory.spans[2].start)
        var told: [String: Int] = [:]
        onThread(stackByteCount: 4 << 20, stack: memory.spans.start) {
            try? memory.makeEmptyTables(2..<6)
            told = (try? ptReclaim(range: above.start..<above.end, access: access).told) ?? [:]
            return 0
        }
        #expect(told == ["freed": 4])
    }

    /// It grows by faults, and is no mapping of pthread's.
    @Test(arguments: Weather.bothAccesses)
    func theMainThreadsOwnStackIsKept(access: Access) async {
        await #expect(processExitsWith: .success) { [name = "\(access)"] in
            var answer = "no answer"
            let isDone = MainThread.run {
                let here = Weather.mapping(at: ptreclaim_stack_address()) ?? ""
                let said = BadInputTests.playOwnStack(2 << 20, name == "owned" ? .owned : .shared)
                answer = "\(said) in \(here.split(separator: " ").last ?? "nothing")"
            }
            say(isDone && answer == "kept in [stack]", answer)
        }
    }

    /// To everybody else it is memory like any other.
    @Test(arguments: Weather.accesses)
    func theStackOfAnotherThreadIsNotKept(access: Access) {
        var told: [String: Int] = [:]
        var bytes: [UInt8] = []
        onThread(stackByteCount: 16 << 20) {
            let kept = (0..<100).map { UInt8($0) }
            let range = Self.emptyStack(below: ptreclaim_stack_address(), 4 << 20)
            onThread {
                told = (try? ptReclaim(range: range.start..<range.end, access: access).told) ?? [:]
                return 0
            }
            bytes = kept
            return 0
        }
        #expect(told == ["freed": 2])
        #expect(bytes == (0..<100).map { UInt8($0) })
    }
}
