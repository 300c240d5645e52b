// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

#if !SHIM_SINGLE_MODULE
    public import ReclaimCore
#endif

/// The ends of mappings behind which an unused reserve reaches up to the next span boundary.
///
/// A fixed, lock-free set: about five members per arena. An entry states a fact about memory (it is
/// mapped, and was handed to nobody), so it stays true whoever manages the extent before it, and
/// fork copies it together with the mapping.
public enum ReserveSet {
    private static let removed: UInt64 = 1
    private static let longestProbe = 64

    /// Remembers that a reserve begins at `end`, once. False where the set is full there.
    ///
    /// - Precondition: `end` is not on a span boundary, and no other thread inserts or
    ///   removes the same `end` meanwhile: it belongs to the one who maps it.
    public static func insert(end: UInt) -> Bool {
        let key = UInt64(end)
        // First look behind removed members too: a second copy would outlive the removal.
        if unsafe find(end: end) != nil { return true }
        for step in 0..<longestProbe {
            let slot = unsafe slot(key, step)
            let found = unsafe ptreclaim_load_acquire(slot)
            if found <= removed, unsafe ptreclaim_compare_exchange(slot, found, key) { return true }
        }
        return false
    }

    public static func contains(end: UInt) -> Bool {
        unsafe find(end: end) != nil
    }

    /// Forgets the reserve at `end`; true for the one caller that removed it, who may unmap it.
    public static func remove(end: UInt) -> Bool {
        guard let slot = unsafe find(end: end) else { return false }
        return unsafe ptreclaim_compare_exchange(slot, UInt64(end), removed)
    }

    private static func find(end: UInt) -> UnsafeMutablePointer<UInt64>? {
        let key = UInt64(end)
        // A mapping that ends on a span boundary has no reserve: most lookups end here.
        guard Span(containing: end).start != end else { return nil }
        for step in 0..<longestProbe {
            let slot = unsafe slot(key, step)
            let found = unsafe ptreclaim_load_acquire(slot)
            if found == key { return unsafe slot }
            if found == 0 { return nil }
        }
        return nil
    }

    private static func slot(_ key: UInt64, _ step: Int) -> UnsafeMutablePointer<UInt64> {
        let hash = (key >> 12) &* 0x9E37_79B9_7F4A_7C15
        let index = (hash >> 52) &+ UInt64(step)
        return unsafe ptreclaim_reserve_slot(
            ptreclaim_live_state(), index & UInt64(PTRECLAIM_RESERVE_SLOTS - 1))
    }
}
