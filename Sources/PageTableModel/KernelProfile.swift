// SPDX-License-Identifier: Apache-2.0

/// What differs between kernels, as far as page tables can tell.
public struct KernelProfile: Equatable, Sendable {
    /// One `MADV_DONTNEED` over a whole span frees its PTE table: PT_RECLAIM, Linux 6.14.
    public var dontneedFreesTables: Bool
    /// An empty table can be told from a missing one: PAGEMAP_SCAN, Linux 6.7.
    public var showsEmptyTables: Bool

    public init(dontneedFreesTables: Bool, showsEmptyTables: Bool) {
        self.dontneedFreesTables = dontneedFreesTables
        self.showsEmptyTables = showsEmptyTables
    }

    /// Linux 6.1.
    public static let beforePagemapScan = KernelProfile(
        dontneedFreesTables: false, showsEmptyTables: false)
    /// Linux 6.12.
    public static let beforePTReclaim = KernelProfile(
        dontneedFreesTables: false, showsEmptyTables: true)
    /// Linux 6.14 and newer with CONFIG_PT_RECLAIM.
    public static let ptReclaim = KernelProfile(
        dontneedFreesTables: true, showsEmptyTables: true)
}
