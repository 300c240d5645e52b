// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import LiveSpace
import ReclaimCore
import Synchronization
import TestSupport

private let windowsInUse = Mutex<Set<UInt>>([])

/// A window of this process to play in. Tests run beside each other, so each takes its own.
final class LivePlayground: Playable {
    let window: AddressRange
    let isAlone: Bool
    var hasGuards: Bool { KernelAbilities.hasGuards }
    private let number: UInt
    private var space: LiveSpace

    /// - Parameter isAlone: in a process of its own, where nobody else changes VmPTE.
    init(_ backend: Backend, isAlone: Bool = false) throws {
        // Prepares what the backend needs, its scratch spans too.
        guard LiveSpace.frees(backend) else { throw PlayError(errno: 95) }
        var space = LiveSpace(backend: backend)
        try space.openDescriptors()
        let number = windowsInUse.withLock { inUse in
            let lowest = (1...90).first { !inUse.contains($0) } ?? 91
            inUse.insert(lowest)
            return lowest
        }
        self.space = space
        self.number = number
        self.window = playWindow(number)
        self.isAlone = isAlone
    }

    deinit {
        _ = ptreclaim_munmap(window.start, Int(window.byteCount))
        space.closeDescriptors()
        _ = windowsInUse.withLock { $0.remove(number) }
    }

    var discardFreesTables: Bool { space.discardFreesTables }
    func vmPTEByteCount() -> UInt? { space.vmPTEByteCount() }
    func look(at span: Span) throws(ReclaimError) -> TableState { try space.look(at: span) }
    func eligibility(of span: Span) throws(ReclaimError) -> KeptReason? {
        try space.eligibility(of: span)
    }
    func discard(_ range: AddressRange) throws(ReclaimError) { try space.discard(range) }
    func freeTable(of span: Span) throws(ReclaimError) { try space.freeTable(of: span) }
    func reserveEnd(after end: UInt) -> UInt { space.reserveEnd(after: end) }

    func map(_ range: AddressRange, marked: Bool) throws(PlayError) {
        let privateAnonymous: Int32 = 0x4022
        let fixed: Int32 = 0x10
        try check(
            ptreclaim_mmap(
                range.start, Int(range.byteCount), 3, privateAnonymous | fixed, -1, 0))
        try advise(range, 15)  // MADV_NOHUGEPAGE: a huge page has no table
        if marked { try advise(range, 16) }  // MADV_DONTDUMP
    }
    func unmap(_ range: AddressRange) throws(PlayError) {
        try check(ptreclaim_munmap(range.start, Int(range.byteCount)))
    }
    func read(at address: UInt) throws(PlayError) -> UInt8 {
        // Sound: the caller has mapped the page.
        unsafe UnsafePointer<UInt8>(bitPattern: address)?.pointee ?? 0
    }
    func write(_ byte: UInt8, at address: UInt) throws(PlayError) {
        // Sound: the caller has mapped the page.
        unsafe UnsafeMutablePointer<UInt8>(bitPattern: address)?.pointee = byte
    }
    func guardPages(_ range: AddressRange) throws(PlayError) { try advise(range, 102) }
    func unguardPages(_ range: AddressRange) throws(PlayError) { try advise(range, 103) }

    func trueState(of span: Span) throws(PlayError) -> TableState {
        do { return try space.look(at: span) } catch { throw PlayError(errno: error.errno) }
    }

    func advise(_ range: AddressRange, _ advice: Int32) throws(PlayError) {
        try check(ptreclaim_madvise(range.start, Int(range.byteCount), advice))
    }
    private func check(_ result: Int) throws(PlayError) {
        if (-4095...(-1)).contains(result) { throw PlayError(errno: Int32(-result)) }
    }
}
