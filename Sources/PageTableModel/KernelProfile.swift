// SPDX-License-Identifier: Apache-2.0

/// What differs between kernels, as far as page tables and VMAs can tell. Everything else in the
/// model is the same for all.
public struct KernelProfile: Equatable, Sendable, CustomStringConvertible {
    // MARK: Page tables

    /// One `MADV_DONTNEED` over a whole span frees its PTE table: PT_RECLAIM, Linux 6.14.
    public var dontneedFreesTables = false
    /// An empty table can be told from a missing one: PAGEMAP_SCAN, Linux 6.7.
    public var showsEmptyTables = false
    /// mremap moves a table as a whole although the range begins inside it, where nothing else is
    /// in it: `try_realign_addr`, Linux 6.7.
    public var movesFromWithinTables = false
    /// From 6.12 a huge page that
    /// `MADV_FREE` has offered goes with its deposited table.
    public var lazyFreeFreesTables = false

    // MARK: Huge pages

    /// A write to the huge page of zeros makes a huge page: `do_huge_zero_wp_pmd`, Linux 6.13.
    public var writesHugeZeroPageHuge = false
    /// `MADV_COLLAPSE` of a range that begins and ends inside one span is EINVAL; 0 from Linux 7.2.
    public var collapseWithinSpanFails = true
    /// `MADV_COLLAPSE` wants a page that is mapped writable (SCAN_PAGE_RO), until Linux 6.17.
    public var collapseWantsWritable = true
    /// `MADV_COLLAPSE` over none entries that a userfaultfd watches is EBUSY; before, EINVAL.
    public var collapseOfWatchedIsBusy = false
    /// `MADV_COLLAPSE` stops at the first span without a PTE table (SCAN_PMD_NONE), until
    /// Linux 7.1.
    public var collapseStopsWithoutTable = true
    /// Splitting a huge page maps what is zero in it to the page of zeros.
    public var splitMapsZeroPages = false

    /// A page of a split huge page that a child had is copied when it is written; from 6.15 the
    /// parent takes it back (`__wp_can_reuse_large_anon_folio`).
    public var copiesOncePagesWereShared = true

    // MARK: VMAs

    /// A VMA that has been written to merges with a neighbour that has not, whichever of both
    /// changes: Linux 6.16. Before, only the unwritten one could join.
    public var mergesIntoUnwritten = false
    /// A new mapping merges with the VMA below and then with that above; in 6.1 with that above
    /// first.
    public var newMappingPrefersLower = true
    /// `mprotect` to read-only takes VM_ACCOUNT from what has not been written: Linux 6.12.
    public var uncommitsUnwritten = false
    /// UFFDIO_REGISTER merges by the page offset of the part; 6.1 takes that of the whole VMA.
    public var registersByPageOffset = true
    /// `MAP_FIXED` over a part of a huge page of hugetlb is ENOMEM; EINVAL later.
    public var mapFixedOverHugetlbIsNoMemory = false

    /// VmFlags in smaps shows `lf`.
    public var showsLockOnFault = true

    // MARK: mremap

    /// mremap checks its arguments before it unmaps the target, and moves several VMAs: Linux 6.17.
    public var movesSeveralVMAs = false
    /// MREMAP_DONTUNMAP takes the mlock flag of the whole source VMA.
    public var dontunmapUnlocksWhole = false
    /// MREMAP_DONTUNMAP of a whole VMA gives it the page offset of fresh memory.
    public var dontunmapResetsOffset = true
    /// MREMAP_DONTUNMAP of what was never written may merge with its source.
    public var dontunmapMergesWithSource = false
    /// MREMAP_DONTUNMAP beside its source merges with the other neighbour; 6.1 with none.
    public var dontunmapMergesBesideSource = true

    // MARK: Advice, userfaultfd

    /// `MADV_GUARD_INSTALL`: for anonymous memory Linux 6.13, for files 6.15.
    public var hasGuards = false
    /// Guards mark their VMA (VM_MAYBE_GUARD), which fork then copies.
    public var guardsMarkVMAs = false
    /// `MADV_DOFORK` of hugetlb is EINVAL.
    public var refusesDoforkOfHugetlb = false
    /// POPULATE goes on behind holes, as other advice; later it stops at the first.
    public var populateWalksPastHoles = false
    /// UFFD_FEATURE_WP_UNPOPULATED, Linux 6.4.
    public var hasWriteProtectUnpopulated = false
    /// UFFDIO_WRITEPROTECT takes a range of several VMAs.
    public var writeProtectsSeveralVMAs = true

    /// Linux 6.1.
    public static let linux61: KernelProfile = {
        var profile = KernelProfile()
        profile.newMappingPrefersLower = false
        profile.showsLockOnFault = false
        profile.registersByPageOffset = false
        profile.mapFixedOverHugetlbIsNoMemory = true
        profile.dontunmapMergesBesideSource = false
        profile.populateWalksPastHoles = true
        profile.writeProtectsSeveralVMAs = false
        return profile
    }()

    /// Linux 6.12.
    public static let linux612: KernelProfile = {
        var profile = KernelProfile()
        profile.showsEmptyTables = true
        profile.movesFromWithinTables = true
        profile.lazyFreeFreesTables = true
        profile.collapseOfWatchedIsBusy = true
        profile.splitMapsZeroPages = true
        profile.uncommitsUnwritten = true
        profile.hasWriteProtectUnpopulated = true
        return profile
    }()

    /// Linux 6.18, with CONFIG_PT_RECLAIM.
    public static let linux618: KernelProfile = {
        var profile = linux612
        profile.dontneedFreesTables = true
        profile.writesHugeZeroPageHuge = true
        profile.copiesOncePagesWereShared = false
        profile.collapseWantsWritable = false
        profile.mergesIntoUnwritten = true
        profile.movesSeveralVMAs = true
        profile.dontunmapUnlocksWhole = true
        profile.dontunmapMergesWithSource = true
        profile.dontunmapResetsOffset = false
        profile.hasGuards = true
        profile.guardsMarkVMAs = true
        return profile
    }()

    /// Linux 7.2, with CONFIG_PT_RECLAIM.
    public static let linux72: KernelProfile = {
        var profile = linux618
        profile.dontunmapUnlocksWhole = false
        profile.collapseWithinSpanFails = false
        profile.refusesDoforkOfHugetlb = true
        profile.collapseStopsWithoutTable = false
        profile.dontunmapResetsOffset = true
        profile.dontunmapMergesWithSource = false
        return profile
    }()

    public static let all: [(name: String, profile: KernelProfile)] = [
        ("6.1", linux61), ("6.12", linux612), ("6.18", linux618), ("7.2", linux72),
    ]

    public var description: String {
        Self.all.first { $0.profile == self }.map { "Linux \($0.name)" } ?? "some Linux"
    }

    public static func named(_ name: String) -> KernelProfile? {
        all.first { $0.name == name }?.profile
    }
}
