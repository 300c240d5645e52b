// SPDX-License-Identifier: Apache-2.0

/// Who else may touch the memory during a call.
///
/// The kernel needs no such promise: `try_to_free_pte` holds the locks of the table.
public enum ReclaimAccess: UInt8, Sendable {
    /// Anybody. The range stays mapped as it is during the call; its contents may be used freely.
    /// What only lives in the page tables is freed behind a fence.
    case shared
    /// Nobody: the caller owns the range, contents included. What another thread writes there
    /// meanwhile may be lost.
    case owned
}

/// The one rule of eligibility: what may be done about the empty tables of a mapping.
public enum EligibilityRule {
    /// What is to be done about empty tables.
    public enum Verdict: Equatable, Sendable {
        /// Free them; nothing can be lost.
        case free
        /// Free them behind a fence.
        case freeFenced
        /// Leave them.
        case keep(KeptReason)
    }

    /// What may be done about the empty tables of a mapping of this kind.
    ///
    ///     | access | anonymous | shared | private file | special, own stack, off |
    ///     | owned  |   free    |  free  |     free     |           keep          |
    ///     | shared |  fenced   |  free  |     keep     |           keep          |
    ///
    /// A write to a shared mapping lands in the page cache, whatever becomes of the table. A write
    /// to a private file mapping does not stop at a fence when the page is in the page cache.
    /// Pure, for any thread.
    ///
    /// - Parameters:
    ///   - kind: what is mapped there.
    ///   - access: who else may touch it during the call.
    public static func verdict(for kind: Mapping.Kind, access: ReclaimAccess) -> Verdict {
        switch (kind, access) {
        case (.hole, _): .keep(.unmapped)
        case (.special, _): .keep(.specialVMA)
        case (.ownStack, _): .keep(.ownStack)
        case (.switchedOff, _): .keep(.switchedOff)
        case (.shared, _), (.anonymous, .owned), (.privateFile, .owned): .free
        case (.anonymous, .shared): .freeFenced
        case (.privateFile, .shared): .keep(.privateFile)
        }
    }
}
