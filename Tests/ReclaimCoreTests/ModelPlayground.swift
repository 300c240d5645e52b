// SPDX-License-Identifier: Apache-2.0

import PageTableModel
import ReclaimCore
import TestSupport

/// 24 spans, twelve on each side of a 512 GiB boundary, so that there are two tables of every level,
/// in address space that nothing else is near.
func playWindow(_ number: UInt) -> AddressRange {
    let boundary = (UInt(1) << 44) + number * PageGeometry.pudTableByteCount
    return AddressRange(
        start: boundary - 12 * PageGeometry.spanByteCount,
        end: boundary + 12 * PageGeometry.spanByteCount)
}

/// A model to play on.
struct ModelPlayground: Playable {
    let model: ModelSpace
    let window = playWindow(0)
    let isAlone = true
    let hasGuards = true

    init(_ profile: KernelProfile, _ backend: Backend) {
        model = ModelSpace(profile: profile, backend: backend)
    }

    var discardFreesTables: Bool { model.discardFreesTables }
    func vmPTEByteCount() -> UInt? { model.vmPTEByteCount() }
    func look(at span: Span) throws(ReclaimError) -> TableState { model.look(at: span) }
    func eligibility(of span: Span) throws(ReclaimError) -> KeptReason? {
        model.eligibility(of: span)
    }
    func discard(_ range: AddressRange) throws(ReclaimError) { try model.discard(range) }
    func freeTable(of span: Span) throws(ReclaimError) { try model.freeTable(of: span) }
    func reserveEnd(after end: UInt) -> UInt { model.reserveEnd(after: end) }

    func map(_ range: AddressRange, marked: Bool) throws(PlayError) {
        try play { () throws(ModelError) in
            // One step after the other, as the live playground: each may merge VMAs.
            try model.mmap(range)
            try model.setAttributes(.noHugePage, true, of: range)
            if marked { try model.setAttributes(.dontDump, true, of: range) }
        }
    }
    func unmap(_ range: AddressRange) throws(PlayError) {
        try play { () throws(ModelError) in try model.munmap(range) }
    }
    func read(at address: UInt) throws(PlayError) -> UInt8 {
        try play { () throws(ModelError) in try model.read(at: address) }
    }
    func write(_ byte: UInt8, at address: UInt) throws(PlayError) {
        try play { () throws(ModelError) in try model.write(byte, at: address) }
    }
    func guardPages(_ range: AddressRange) throws(PlayError) {
        try play { () throws(ModelError) in try model.installGuards(range) }
    }
    func unguardPages(_ range: AddressRange) throws(PlayError) {
        try play { () throws(ModelError) in try model.removeGuards(range) }
    }
    func trueState(of span: Span) throws(PlayError) -> TableState { model.look(at: span) }

    private func play<Result>(_ body: () throws(ModelError) -> Result) throws(PlayError) -> Result {
        do { return try body() } catch { throw PlayError(errno: error.errno) }
    }
}
