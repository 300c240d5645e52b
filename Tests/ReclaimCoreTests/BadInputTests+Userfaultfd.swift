// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import PTReclaim
import ReclaimCore
import TestSupport
import Testing

/// Memory that somebody else watches.
extension BadInputTests {
    @Test(.enabled(if: Weather.hasFence, Weather.needsFence))
    func memoryOfAnotherUserfaultfdIsKept() throws {
        let memory = TestMemory(3)
        try memory.map()
        try Self.emptyFullEmpty(memory)
        let userfaultfd = try register(memory, PTRECLAIM_UFFD_REGISTER_MISSING)
        defer { _ = ptreclaim_close(userfaultfd) }
        let before = try memory.states()
        #expect(
            try ptReclaim(range: memory.range, access: .shared).told
                == ["registered": 2, "populated": 1])
        #expect(try memory.states() == before)
        #expect(
            ptreclaim_vma_flags(memory.spans.start)
                & Int(PTRECLAIM_VMA_REGISTERED) != 0)
        // Who owns the contents too needs no fence.
        #expect(
            try ptReclaim(range: memory.range, access: .owned).told
                == ["freed": 2, "populated": 1])
        _ = ptreclaim_close(userfaultfd)
        #expect(memory.changedBytes() == [])
    }

    // In a VMA registered for uffd-wp nobody can tell an empty table from none: VmPTE does.
    @Test(.enabled(if: Weather.hasFence, Weather.needsFence))
    func writeProtectedMemoryIsKeptAndItsMarkersToo() async {
        await #expect(processExitsWith: .success) {
            let memory = TestMemory(4)
            try memory.map()
            try memory.makeEmptyTables(0..<2)
            memory.write(2)
            try memory.makeEmptyTables(3..<4)
            let userfaultfd = try BadInputTests().register(memory, PTRECLAIM_UFFD_REGISTER_WP)
            // One entry of the last span is a page that is write-protected.
            unsafe UnsafeMutablePointer<UInt8>(bitPattern: memory.spans[3].start)?.pointee = 0
            var protect = WriteProtect(start: UInt64(memory.spans[3].start), byteCount: 4096)
            let isProtected = unsafe ptreclaim_ioctl(userfaultfd, 0xc018_aa06, &protect)
            try check(isProtected)
            // The first such call starts a thread, which needs memory of its own.
            try ptReclaim(range: 0..<4096, access: .shared)
            let before = ptreclaim_self_vm_pte()
            let shared = try ptReclaim(range: memory.range, access: .shared)
            say(
                shared.told == ["writeProtectRegistered": 2, "populated": 2], "\(shared.told)")
            let between = ptreclaim_self_vm_pte()
            say(between == before, "VmPTE \(before), \(between)")
            let owned = try ptReclaim(range: memory.range, access: .owned)
            say(owned.told == ["freed": 2, "populated": 2], "\(owned.told)")
            let after = ptreclaim_self_vm_pte()
            say(after == before - 2 * 4096, "VmPTE \(before), \(after)")
            let flags = ptreclaim_vma_flags(memory.spans.start)
            say(flags & Int(PTRECLAIM_VMA_WRITE_PROTECT_REGISTERED) != 0, "\(flags)")
            _ = ptreclaim_close(userfaultfd)
            say(memory.changedBytes() == [], "bytes have changed")
        }
    }

    /// `struct uffdio_writeprotect`.
    struct WriteProtect {
        var start: UInt64
        var byteCount: UInt64
        var mode: UInt64 = 1
    }

    func register(_ memory: TestMemory, _ mode: UInt64) throws -> Int32 {
        let userfaultfd = ptreclaim_open_userfaultfd()
        try check(Int(userfaultfd))
        var registration = ptreclaim_uffd_register()
        registration.range.start = UInt64(memory.spans.start)
        registration.range.len = UInt64(memory.spans.range.byteCount)
        registration.mode = mode
        let result = unsafe ptreclaim_ioctl(
            userfaultfd, PTRECLAIM_UFFDIO_REGISTER, &registration)
        try check(result)
        return userfaultfd
    }
}
