// SPDX-License-Identifier: Apache-2.0

/// What a walk did. Plain counters; no text.
///
/// A value, and so of whichever thread holds it.
public struct ReclaimReport: Equatable, Sendable {
    /// Whole spans of the range that were examined: freed plus kept, but for `.partial`. One PTE
    /// table each, where there is one.
    public var tablesExamined = 0
    /// Tables, of 4 KiB each, that a second look found gone. Where looks cannot tell an empty table from a
    /// missing one (uffd-wp, kernels before 6.7) VmPTE tells, for the whole call.
    public var tablesFreed = 0
    /// Spans kept, by reason. Not an error, ever.
    public var kept = KeptCounts()
    /// Tables that were found and looked at, freed or not: what a limited walk counts.
    public var tablesLookedAt = 0
    /// VmPTE in bytes before the call, of the whole process; nil where it cannot be read. Other
    /// threads change it, too. The corresponding kernel function is `mm_pgtables_bytes`.
    public var vmPTEBefore: UInt?
    /// VmPTE in bytes after the call, likewise.
    public var vmPTEAfter: UInt?
    /// How tables were freed, behind a fence by `mapfixed` where this is `remap`; nil where none was.
    public var backend: Backend?
    /// Time of the call in nanoseconds, hand-over to the service thread included.
    public var durationNanoseconds: UInt64 = 0
    /// Where a walk that was limited stopped: an address on a span boundary, at which to go on.
    /// Nil where it reached the end of the range.
    public var resumeAddress: UInt?

    /// The report of a call that found nothing to do: all zero.
    public init() {}
}

#if !SHIM_SINGLE_MODULE
    extension ReclaimReport {
        /// Time of the call, hand-over to the service thread included.
        public var duration: Duration { .nanoseconds(durationNanoseconds) }
    }
#endif
