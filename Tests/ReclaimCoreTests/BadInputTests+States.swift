// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import LiveSpace
import PTReclaim
import ReclaimCore
import TestSupport
import Testing

private let flags = TestMemory.anonymous

/// Memory in a state that a free could undo, or that nobody can fence.
extension BadInputTests {
    /// The table goes, the lock stays, and what is locked stays where it is.
    @Test(arguments: Weather.accesses)
    func lockedMemoryStaysLocked(access: Access) throws {
        func lockOnFault(_ memory: TestMemory) throws {
            try check(
                ptreclaim_syscall(
                    Int(SYS_mlock2), Int(memory.spans.start), Int(memory.spans.range.byteCount), 1,
                    0, 0, 0))
        }
        let memory = TestMemory(3)
        try memory.map()
        try lockOnFault(memory)
        try Self.emptyFullEmpty(memory)
        #expect(ptreclaim_vma_flags(memory.spans.start) & Int(PTRECLAIM_VMA_LOCKED) != 0)
        let report = try ptReclaim(range: memory.range, access: access)
        #expect(report.told == ["freed": 2, "populated": 1])
        for index in 0..<3 {
            let flags = ptreclaim_vma_flags(memory.spans[index].start)
            #expect(flags & Int(PTRECLAIM_VMA_LOCKED) != 0)
        }
        #expect(try memory.states() == [.absent, .populated, .absent])
        #expect(memory.changedBytes() == [])
    }

    /// `mremap` would take the lock away.
    @Test(.enabled(if: KernelAbilities.backends.contains(.remap), "needs mremap of Linux 5.7"))
    func remapKeepsTheTableOfLockedMemory() async {
        await #expect(processExitsWith: .success) {
            guard LiveSpace.probeBackend(preferring: .remap) == .remap else { exit(2) }
            let memory = TestMemory(2)
            try memory.map()
            try memory.makeEmptyTables()
            try check(
                ptreclaim_syscall(
                    Int(SYS_mlock2), Int(memory.spans.start), 1 << 21, 1, 0, 0, 0))
            let report = try ptReclaim(range: memory.range, access: .owned)
            say(report.backend == .remap, "\(String(describing: report.backend))")
            say(report.told == ["freed": 1, "locked": 1], "\(report.told)")
            let flags = ptreclaim_vma_flags(memory.spans.start)
            say(flags & Int(PTRECLAIM_VMA_LOCKED) != 0, "\(flags)")
            try say(memory.states() == [.empty, .absent], "\(memory.states())")
            say(memory.changedBytes() == [], "bytes have changed")
        }
    }

    // |  one guard page  |  none any more  |
    @Test(
        .enabled(if: KernelAbilities.hasGuards(.anonymous), "needs MADV_GUARD_INSTALL, Linux 6.13"),
        arguments: Weather.accesses)
    func aGuardPageKeepsItsTable(access: Access) throws {
        let (install, remove): (Int32, Int32) = (102, 103)
        let memory = TestMemory(2)
        try memory.map()
        try memory.makeEmptyTables()
        for span in 0..<2 {
            try check(ptreclaim_madvise(memory.spans[span].start + 8192, 4096, install))
        }
        try check(ptreclaim_madvise(memory.spans[1].start + 8192, 4096, remove))
        let report = try ptReclaim(range: memory.range, access: access)
        #expect(report.told == ["freed": 1, "populated": 1])
        #expect(memory.changedBytes() == [])
        // The guard still refuses: reading from it into a pipe is EFAULT.
        #expect(canRead(memory.spans[0].start + 8192) == false)
        #expect(canRead(memory.spans[0].start + 4096) == true)
    }

    /// Whether the kernel can read a byte there for us.
    private func canRead(_ address: UInt) -> Bool {
        var pipes: [Int32] = [0, 0]
        let made = unsafe pipe(&pipes)
        precondition(made == 0)
        defer { for end in pipes { close(end) } }
        return ptreclaim_syscall(Int(SYS_write), Int(pipes[1]), Int(address), 1, 0, 0, 0) == 1
    }

    // MARK: Special memory

    @Test(
        .enabled(if: Weather.hasHugePages, "needs 2 MiB pages in /proc/sys/vm/nr_hugepages"),
        arguments: Weather.bothAccesses)
    func hugetlbMemoryIsSpecial(access: Access) throws {
        try Self.playHugetlb(access)
    }

    /// - Parameter ofFile: what is told of a file's huge pages.
    static func playHugetlb(
        _ access: Access, ofFile: [String: Int] = ["specialVMA": 2]
    ) throws {
        let pages = try #require(HugePages(3))
        defer { pages.giveBack() }
        let file = Weather.makeHugeFile(byteCount: 4 << 20)
        try check(Int(file))
        defer { _ = ptreclaim_close(file) }
        let huge: Int32 = 0x40000  // MAP_HUGETLB
        for (how, descriptor) in [(flags | huge, -1), (MAP_SHARED, file), (MAP_PRIVATE, file)] {
            let memory = TestMemory(2)
            try memory.map(nil, how | MAP_NORESERVE, file: descriptor)
            memory.write(1)
            let told = try ptReclaim(range: memory.range, access: access).told
            say(told == (descriptor < 0 ? ["specialVMA": 2] : ofFile), "\(told)")
            say(memory.changedBytes() == [], "bytes have changed")
        }
    }

    /// What user space cannot fence, or must not discard, by a decision of its own.
    @Test(
        .enabled(if: Weather.canSeal, "needs mseal, Linux 6.10"), arguments: Weather.accesses)
    func sealedMemoryIsLeftToTheKernel(access: Access) throws {
        // Sealed while it can be written: discarding is allowed. It stays mapped for ever.
        let writable = TestMemory(1)
        try writable.map()
        try writable.makeEmptyTables()
        try check(writable.seal())
        #expect(try ptReclaim(range: writable.range, access: access).told == ["freed": 1])
        #expect(writable.changedBytes() == [])
        // Sealed read-only: it is not, and the fence lets go of it.
        let readOnly = TestMemory(1)
        try readOnly.map()
        try readOnly.makeEmptyTables()
        try readOnly.protect(nil, PROT_READ)
        try check(readOnly.seal())
        #expect(try ptReclaim(range: readOnly.range, access: access).told == ["backendFailed": 1])
        #expect(try readOnly.states() == [.empty])
        #expect(readOnly.changedBytes() == [])
    }

    @Test(
        .enabled(if: Weather.canDrop, "needs MAP_DROPPABLE, Linux 6.11"),
        arguments: Weather.accesses)
    func droppableMemoryCannotBeFenced(access: Access) throws {
        let memory = TestMemory(2)
        try memory.map(nil, Weather.droppable)
        try memory.makeEmptyTables()
        let told = try ptReclaim(range: memory.range, access: access).told
        #expect(told == (access == .owned ? ["freed": 2] : ["specialVMA": 2]))
        #expect(memory.changedBytes() == [])
    }

    /// Pages that the kernel itself cannot reach: their bytes are in no other place.
    @Test(
        .enabled(if: Weather.hasSecretMemory, "needs memfd_secret"), arguments: Weather.accesses)
    func secretMemoryKeepsItsBytes(access: Access) throws {
        let file = Int32(ptreclaim_syscall(Int(SYS_memfd_secret), 0, 0, 0, 0, 0, 0))
        try check(Int(file))
        defer { _ = ptreclaim_close(file) }
        try check(Int(ftruncate(file, 4 << 20)))
        let memory = TestMemory(2)
        try memory.map(nil, MAP_SHARED, file: file)
        try memory.makeEmptyTables(0..<1, keepsContents: true)
        memory.write(1)
        #expect(
            try ptReclaim(range: memory.range, access: access).told
                == ["freed": 1, "populated": 1])
        #expect(memory.changedBytes() == [])
    }

    /// A huge page is mapped by no table, and its deposited one is needed.
    @Test(.enabled(if: Weather.hasTHP, "needs transparent huge pages"), arguments: Weather.accesses)
    func aTransparentHugePageIsKept(access: Access) throws {
        let memory = TestMemory(2)
        try memory.map()
        try memory.makeEmptyTables(1..<2)
        try memory.advise(0..<1, MADV_HUGEPAGE)
        memory.write(0)
        let before = try memory.states()
        #expect(before == [.populated, .empty])
        let report = try ptReclaim(range: memory.range, access: access)
        #expect(report.told == ["freed": 1, "populated": 1])
        #expect(memory.changedBytes() == [])
    }
}
