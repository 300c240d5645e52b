// SPDX-License-Identifier: Apache-2.0

/// What a look tells about the PTE table of a span.
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
    /// One `MADV_DONTNEED` over whole spans, on kernels with PT_RECLAIM (6.14 and newer).
    case dontneed = 1
    /// `mremap(MREMAP_DONTUNMAP)` of the whole table to a scratch span that is then mapped over.
    /// Linux 5.7 and newer. Frees nothing behind a fence.
    case remap = 2
    /// `mmap(MAP_FIXED)` over the span. Any kernel; the VMA loses every attribute that `mmap`
    /// does not set, so it is used only where there is none to lose.
    case mapfixed = 3
}

/// What is mapped around an address: one VMA, or the hole up to the next one.
public struct Mapping: Equatable, Sendable {
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

    public let range: AddressRange
    public let kind: Kind

    public init(range: AddressRange, kind: Kind) {
        self.range = range
        self.kind = kind
    }

    /// The part around `address` of a mapping that may hold the stack of the thread that called.
    ///
    ///     | guard |  not in use  |  SP   in use  |  memory next to it  |     one anonymous VMA
    ///             |  ownStack            | anonymous                   |
    ///                                    ^ the end of the span of SP
    ///
    /// The thread that frees could itself fill what is empty below. Above, what is in use has pages,
    /// and the rest may be anybody's: a stack merges with memory that is mapped next to it.
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
public protocol AddressSpace {
    /// True where `discard` over a whole span frees the span's table too.
    var discardFreesTables: Bool { get }

    /// Whether an empty table can be told from a missing one (Linux 6.7).
    var showsTables: Bool { get }

    /// VmPTE in bytes: PTE, PMD and PUD tables. Nil where it cannot be read.
    /// The corresponding kernel function is `mm_pgtables_bytes`.
    func vmPTEByteCount() -> UInt?

    /// What is mapped at `address`.
    /// The corresponding kernel function is `find_vma`.
    func mapping(at address: UInt) throws(ReclaimError) -> Mapping

    /// The lowest page of `range` whose entry is not none, or nil.
    func firstPopulatedPage(in range: AddressRange) throws(ReclaimError) -> UInt?

    /// The lowest run of spans in `run` that have a table, `limit` of them at most; the head of
    /// `run` where the kernel does not show tables. In a VMA registered for uffd-wp a missing
    /// table counts as one.
    func firstTables(in run: SpanRun, atMost limit: Int) throws(ReclaimError) -> SpanRun?

    /// Whether missing tables of the VMA at `address` look like empty ones: it is registered for
    /// uffd-wp.
    func hidesTables(at address: UInt) throws(ReclaimError) -> Bool

    /// Frees the tables of `run`, which lies inside `mapping`.
    ///
    /// - Parameter fenced: keep every thread out of `run` and look again, before anything is
    ///   freed; what has been filled by then stays. Without it the caller owns `run`, or its
    ///   contents live elsewhere.
    /// - Returns: nil when the backend did its work, or why it did not; the memory and what it
    ///   holds are as they were then. Whether a table went is for a look to tell.
    /// The corresponding kernel function is `try_to_free_pte`.
    func free(_ run: SpanRun, in mapping: Mapping, fenced: Bool) -> KeptReason?

    /// Drops the pages of `range`: they read as zero afterwards.
    /// - Throws: `.discardFailed`; EINVAL for mlocked memory. What was discarded stays discarded.
    /// The corresponding kernel call is `madvise(MADV_DONTNEED)`.
    func discard(_ range: AddressRange) throws(ReclaimError)

    /// Drops the table of `span` and every page under it, on the hot path of an allocator.
    /// - Precondition: the caller owns `span`.
    /// - Throws: `.freeFailed`; nothing has changed then.
    func freeTable(of span: Span) throws(ReclaimError)

    /// The end of the unused reserve that begins at `end`, or `end` itself where there is none.
    /// A reserve is mapped, belongs to no extent, and reaches up to a span boundary.
    func reserveEnd(after end: UInt) -> UInt
}

extension AddressSpace {
    /// Looks at the table of one span.
    public func look(at span: Span) throws(ReclaimError) -> TableState {
        if try firstPopulatedPage(in: span.range) != nil { return .populated }
        if try firstTables(in: SpanRun(span), atMost: 1) == nil { return .absent }
        return showsTables ? .empty : .emptyOrAbsent
    }

    /// Whether `span` lies wholly inside one VMA that its owner may reclaim from, or why not.
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
