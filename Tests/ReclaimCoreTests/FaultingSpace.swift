// SPDX-License-Identifier: Apache-2.0

import ReclaimCore

/// A space in which one requirement fails a few times, and then works; and in which something may
/// happen between the look and the free.
final class FaultingSpace<Base: AddressSpace>: AddressSpace {
    enum Requirement {
        case mapping, firstPopulatedPage, firstTables, free, discard, freeTable
    }

    private let base: Base
    private let failing: Requirement
    private let errno: Int32
    private var timesLeft: Int
    private var callsLeft: Int
    private let beforeFree: () -> Void

    /// - Parameters:
    ///   - skipping: how many calls work first.
    ///   - beforeFree: what another thread does between the look and the free.
    init(
        wrapping base: Base, failing: Requirement, times: Int, skipping: Int = 0,
        errno: Int32 = 12, beforeFree: @escaping () -> Void = {}
    ) {
        self.beforeFree = beforeFree
        self.base = base
        self.failing = failing
        self.timesLeft = times
        self.callsLeft = skipping
        self.errno = errno
    }

    private func fault(
        _ requirement: Requirement, _ code: ReclaimError.Code, _ range: AddressRange
    ) throws(ReclaimError) {
        guard requirement == failing else { return }
        guard callsLeft == 0 else {
            callsLeft -= 1
            return
        }
        guard timesLeft > 0 else { return }
        timesLeft -= 1
        throw ReclaimError(code, errno: errno, range: range)
    }

    var discardFreesTables: Bool { base.discardFreesTables }
    func vmPTEByteCount() -> UInt? { base.vmPTEByteCount() }
    var showsTables: Bool { base.showsTables }
    func mapping(at address: UInt) throws(ReclaimError) -> Mapping {
        try fault(.mapping, .lookFailed, AddressRange(start: address, end: address))
        return try base.mapping(at: address)
    }
    func firstPopulatedPage(in range: AddressRange) throws(ReclaimError) -> UInt? {
        try fault(.firstPopulatedPage, .lookFailed, range)
        return try base.firstPopulatedPage(in: range)
    }
    func firstTables(
        in run: SpanRun, atMost limit: Int
    ) throws(ReclaimError) -> SpanRun? {
        try fault(.firstTables, .lookFailed, run.range)
        return try base.firstTables(in: run, atMost: limit)
    }
    func hidesTables(at address: UInt) throws(ReclaimError) -> Bool {
        try base.hidesTables(at: address)
    }
    func free(_ run: SpanRun, in mapping: Mapping, fenced: Bool) -> KeptReason? {
        beforeFree()
        do { try fault(.free, .freeFailed, run.range) } catch { return .backendFailed }
        return base.free(run, in: mapping, fenced: fenced)
    }
    func discard(_ range: AddressRange) throws(ReclaimError) {
        try fault(.discard, .discardFailed, range)
        try base.discard(range)
    }
    func freeTable(of span: Span) throws(ReclaimError) {
        try fault(.freeTable, .freeFailed, span.range)
        try base.freeTable(of: span)
    }
    func reserveEnd(after end: UInt) -> UInt { base.reserveEnd(after: end) }
}
