// SPDX-License-Identifier: Apache-2.0

/// What a look tells about the PTE table of a span.
///
/// The corresponding kernel functions are `pmd_none` and `pte_none`.
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
    /// One `MADV_DONTNEED` over whole spans, on kernels with PT_RECLAIM (6.14 and newer). The
    /// corresponding kernel function is `try_to_free_pte`.
    case dontneed = 1
    /// `mremap(MREMAP_DONTUNMAP)` of the whole table to a scratch span that is then mapped over.
    /// Linux 5.7 and newer. Frees nothing behind a fence. The corresponding kernel function is
    /// `move_normal_pmd`.
    case remap = 2
    /// `mmap(MAP_FIXED)` over the span. Any kernel; the VMA loses every attribute that `mmap`
    /// does not set, so it is used only where there is none to lose. The corresponding kernel
    /// function is `free_pgtables`.
    case mapfixed = 3
}

/// What is mapped around an address: one VMA, or the hole up to the next one.
///
/// The corresponding kernel structure is `vm_area_struct`.
public struct Mapping: Equatable, Sendable {
    /// Where the contents live, which decides what a free could lose.
    public enum Kind: UInt8, Sendable {
        /// Nothing is mapped.
        case hole
        /// `MAP_PRIVATE | MAP_ANONYMOUS`: the contents are in the page tables and nowhere else.
        case anonymous
        /// A shared mapping of memory or of a regular file: the contents are in the page cache.
        case shared
        /// A private mapping of a file or memfd: pages that were written are copies of its own.
        case privateFile
        /// Hugetlb, a device, or made by the kernel ([vdso], [vvar]).
        case special
        /// The stack of the thread that called, from the guard below it up to where it is in use.
        case ownStack
        /// Somebody has asked that it be left alone, whatever it is.
        case switchedOff
    }

    /// From its first address to its end, in bytes; page-aligned.
    public let range: AddressRange
    /// Where its contents live.
    public let kind: Kind

    /// A mapping of an address space of your own. `range` is page-aligned.
    public init(range: AddressRange, kind: Kind) {
        self.range = range
        self.kind = kind
    }

    /// The part around `address` of a mapping that may hold the stack of the thread that called; here
    /// all of it is one anonymous VMA.
    ///
    ///     | guard |  not in use  |  SP   in use  |  memory next to it  |
    ///             |  ownStack            | anonymous                   |
    ///                                    ^ the end of the span of SP
    ///
    /// The thread that frees could itself fill what is empty below. Above, what is in use has pages,
    /// and the rest may be anybody's: a stack merges with memory that is mapped next to it.
    ///
    /// - Parameters:
    ///   - address: inside the mapping.
    ///   - stackAddress: where the stack of the thread that called is in use; 0 where nobody did.
    /// - Returns: the mapping itself where it is not that stack's.
    public func part(at address: UInt, stackAddress: UInt) -> Mapping {
        guard kind == .anonymous, range.start <= stackAddress, stackAddress < range.end else {
            return self
        }
        let end = min(Span(containing: stackAddress).end, range.end)
        return address < end
            ? Mapping(range: AddressRange(start: range.start, end: end), kind: .ownStack)
            : Mapping(range: AddressRange(start: end, end: range.end), kind: .anonymous)
    }
}

/// An address space whose PTE tables can be looked at and freed: the running process, or a model.
///
/// Preconditions of every requirement: addresses are page-aligned and below
/// `PageGeometry.userSpaceEnd`, ranges and runs are not empty. Nothing here allocates, and no
/// requirement decides anything: which spans, and whether, is `OwnershipRule`, `EligibilityRule`
/// and `ReclaimWalk`. A look is stale as soon as it returns, unless nobody may touch the memory.
///
/// One thread at a time uses a value. The errno of each error is the kernel's.
public protocol AddressSpace {
    /// True where `discard` over a whole span frees the span's table too.
    /// The corresponding kernel option is CONFIG_PT_RECLAIM.
    var discardFreesTables: Bool { get }

    /// Whether an empty table can be told from a missing one (Linux 6.7).
    var showsTables: Bool { get }

    /// VmPTE in bytes: PTE, PMD and PUD tables. Nil where it cannot be read.
    ///
    /// The corresponding kernel function is `mm_pgtables_bytes`.
    func vmPTEByteCount() -> UInt?

    /// What is mapped at `address`.
    ///
    /// - Throws: `.lookFailed`; the mappings cannot be read.
    ///
    /// The corresponding kernel function is `find_vma`.
    func mapping(at address: UInt) throws(ReclaimError) -> Mapping

    /// The address of the lowest page of `range` whose entry is not none, or nil.
    ///
    /// - Throws: `.lookFailed`; the entries cannot be read.
    ///
    /// The corresponding kernel function is `pagemap_scan_pmd_entry`.
    func firstPopulatedPage(in range: AddressRange) throws(ReclaimError) -> UInt?

    /// The lowest run of spans in `run` that have a table, `limit` of them at most; the head of
    /// `run` where the kernel does not show tables. In a VMA registered for uffd-wp a missing
    /// table counts as one.
    ///
    /// - Throws: `.lookFailed`; the entries cannot be read.
    ///
    /// The corresponding kernel function is `pagemap_scan_pte_hole`, which is told where there is
    /// none.
    func firstTables(in run: SpanRun, atMost limit: Int) throws(ReclaimError) -> SpanRun?

    /// Whether missing tables of the VMA at `address` look like empty ones: it is registered for
    /// uffd-wp.
    ///
    /// - Throws: `.lookFailed`; the flags of the VMA cannot be read.
    ///
    /// The corresponding kernel function is `userfaultfd_wp`.
    func hidesTables(at address: UInt) throws(ReclaimError) -> Bool

    /// Frees the tables of `run`, which lies inside `mapping`.
    ///
    /// - Parameters:
    ///   - run: spans whose tables a look has just found empty.
    ///   - mapping: what the same walk found mapped around them.
    ///   - fenced: keep every thread out of `run` and look again, before anything is freed; what
    ///     has been filled by then stays. Without it the caller owns `run`, or its contents live
    ///     elsewhere.
    /// - Returns: nil when the backend did its work, or why it did not; the memory and what it
    ///   holds are as they were then. Whether a table went is for a look to tell.
    ///
    /// The corresponding kernel function is `try_to_free_pte`.
    func free(_ run: SpanRun, in mapping: Mapping, fenced: Bool) -> KeptReason?

    /// Drops the pages of `range`: they read as zero afterwards.
    ///
    /// - Throws: `.discardFailed`; EINVAL for mlocked memory. What was discarded stays discarded.
    ///
    /// The corresponding kernel call is `madvise(MADV_DONTNEED)`.
    func discard(_ range: AddressRange) throws(ReclaimError)

    /// Drops the table of `span` and every page under it, on the hot path of an allocator.
    ///
    /// - Precondition: the caller owns `span`.
    /// - Throws: `.freeFailed`; nothing has changed then.
    ///
    /// The corresponding kernel function is `zap_pte_range`.
    func freeTable(of span: Span) throws(ReclaimError)

    /// The end of the unused reserve that begins at `end`, or `end` itself where there is none.
    /// A reserve is mapped, belongs to no extent, and reaches up to a span boundary.
    ///
    /// The corresponding kernel notion is the ceiling of `free_pgd_range`.
    func reserveEnd(after end: UInt) -> UInt
}

extension AddressSpace {
    /// Looks at the table of one span.
    ///
    /// - Throws: `.lookFailed`; the entries cannot be read.
    ///
    /// The corresponding kernel function is `try_to_free_pte`, which looks before it frees.
    public func look(at span: Span) throws(ReclaimError) -> TableState {
        if try firstPopulatedPage(in: span.range) != nil { return .populated }
        if try firstTables(in: SpanRun(span), atMost: 1) == nil { return .absent }
        return showsTables ? .empty : .emptyOrAbsent
    }

    /// Why `span` does not lie wholly inside one VMA that its owner may reclaim from, or nil where
    /// it does.
    ///
    /// - Throws: `.lookFailed`; the mappings cannot be read.
    public func eligibility(of span: Span) throws(ReclaimError) -> KeptReason? {
        let mapping = try mapping(at: span.start)
        guard mapping.range.contains(span.range) else { return .crossesVMA }
        if case .keep(let reason) = EligibilityRule.verdict(for: mapping.kind, access: .owned) {
            return reason
        }
        return nil
    }
}

// Needs an array, and so cannot be compiled into an allocator's hook.
#if !SHIM_SINGLE_MODULE
    extension Backend: CaseIterable {}
#endif
