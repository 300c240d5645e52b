// SPDX-License-Identifier: Apache-2.0

/// What one look tells about the PTE table of a span.
public enum TableState: UInt8, Sendable {
    /// There is no table.
    case absent
    /// There is a table and all 512 entries are `pte_none`. In a VMA registered for uffd-wp
    /// a missing table looks the same.
    case empty
    /// At least one entry is not none: a page, a zero page, a swap or migration entry, a marker;
    /// or the span is mapped by a huge page.
    case populated
    /// No page is mapped, and this kernel cannot say whether a table is there (before Linux 6.7).
    case emptyOrAbsent
}

/// How a table is freed.
public enum Backend: UInt8, Sendable {
    /// One `MADV_DONTNEED` over the whole span, on kernels with PT_RECLAIM (6.14 and newer).
    case dontneed = 1
    /// `mremap(MREMAP_DONTUNMAP)` of the whole table to a scratch span that is then mapped over.
    /// Linux 5.7 and newer.
    case remap = 2
    /// `mmap(MAP_FIXED)` over the span. Any kernel; the VMA loses every attribute that `mmap`
    /// does not set, so it is never chosen without being asked for.
    case mapfixed = 3
}

/// An address space whose PTE tables can be looked at and freed: the running process, or a model.
///
/// Preconditions of every requirement: addresses are page-aligned and below
/// `PageGeometry.userSpaceEnd`, ranges are not empty. Nothing here allocates, and no requirement
/// decides anything: which spans, and whether, is `OwnershipRule` and `ReclaimWalk`.
public protocol AddressSpace {
    /// True where `discard` over a whole span frees the span's table too.
    var discardFreesTables: Bool { get }

    /// VmPTE in bytes: PTE, PMD and PUD tables. Nil where it cannot be read.
    /// The corresponding kernel function is `mm_pgtables_bytes`.
    func vmPTEByteCount() -> UInt?

    /// Looks at the table of `span`, without stopping anybody. Stale as soon as it returns,
    /// unless nobody else may touch the span.
    func look(at span: Span) throws(ReclaimError) -> TableState

    /// Whether `span` lies wholly inside one VMA that may be reclaimed from, or why not.
    func eligibility(of span: Span) throws(ReclaimError) -> KeptReason?

    /// Drops the pages of `range`: they read as zero afterwards.
    /// - Throws: `.discardFailed`; EINVAL for mlocked memory. What was discarded stays discarded.
    /// The corresponding kernel call is `madvise(MADV_DONTNEED)`.
    func discard(_ range: AddressRange) throws(ReclaimError)

    /// Drops the table of `span` and every page under it.
    /// - Precondition: the caller owns `span`, or knows that it is empty and stays so.
    /// - Throws: `.freeFailed`; nothing has changed then.
    /// The corresponding kernel function is `try_to_free_pte`.
    func freeTable(of span: Span) throws(ReclaimError)

    /// The end of the unused reserve that begins at `end`, or `end` itself where there is none.
    /// A reserve is mapped, belongs to no extent, and reaches up to a span boundary.
    func reserveEnd(after end: UInt) -> UInt
}

// Needs an array, and so cannot be compiled into an allocator's hook.
#if !SHIM_SINGLE_MODULE
    extension Backend: CaseIterable {}
#endif
