// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

#if !SHIM_SINGLE_MODULE
    internal import ReclaimCore
#endif

/// Spans of address space that tables are moved to before they are dropped, one for each thread
/// that does it at the moment.
enum ScratchSpans {
    struct Claim {
        let span: Span
        fileprivate let bit: UInt64
    }

    /// Maps the scratch spans. They never hold a page, so they cost one VMA and no table.
    static func prepare() -> Bool {
        let state = unsafe ptreclaim_live_state()
        if unsafe state.pointee.scratch != 0 { return true }
        let byteCount = (UInt(PTRECLAIM_SCRATCH_SLOTS) + 1) * PageGeometry.spanByteCount
        guard
            let range = Syscalls.mapAnywhere(byteCount: byteCount, protection: Syscalls.noAccess)
        else { return false }
        if unsafe !ptreclaim_publish_scratch(state, range.wholeSpans.start) {
            _ = Syscalls.unmap(range)
        }
        return true
    }

    static func claim() -> Claim? {
        let state = unsafe ptreclaim_live_state()
        guard unsafe state.pointee.scratch != 0, let shared = unsafe state.pointee.wiped_on_fork
        else { return nil }
        let word = unsafe ptreclaim_scratch_claims(shared)
        while true {
            let claims = unsafe ptreclaim_load_acquire(word)
            guard claims != .max else { return nil }
            let index = (~claims).trailingZeroBitCount
            let bit = UInt64(1) << UInt64(index)
            if unsafe ptreclaim_compare_exchange(word, claims, claims | bit) {
                let start = unsafe state.pointee.scratch
                return Claim(
                    span: Span(containing: start + UInt(index) * PageGeometry.spanByteCount),
                    bit: bit)
            }
        }
    }

    static func release(_ claim: Claim) {
        guard let shared = unsafe ptreclaim_live_state().pointee.wiped_on_fork else { return }
        _ = unsafe ptreclaim_fetch_and(ptreclaim_scratch_claims(shared), ~claim.bit)
    }
}
