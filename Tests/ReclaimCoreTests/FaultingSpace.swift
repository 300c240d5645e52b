// SPDX-License-Identifier: Apache-2.0

import ReclaimCore

/// A space in which one requirement fails a few times, and then works.
final class FaultingSpace<Base: AddressSpace>: AddressSpace {
    enum Requirement { case look, eligibility, discard, freeTable }

    private let base: Base
    private let failing: Requirement
    private let errno: Int32
    private var timesLeft: Int
    private var callsLeft: Int

    /// - Parameter skipping: how many calls work first.
    init(
        wrapping base: Base, failing: Requirement, times: Int, skipping: Int = 0,
        errno: Int32 = 12
    ) {
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
    func look(at span: Span) throws(ReclaimError) -> TableState {
        try fault(.look, .lookFailed, span.range)
        return try base.look(at: span)
    }
    func eligibility(of span: Span) throws(ReclaimError) -> KeptReason? {
        try fault(.eligibility, .lookFailed, span.range)
        return try base.eligibility(of: span)
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
