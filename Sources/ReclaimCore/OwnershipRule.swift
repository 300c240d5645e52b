// SPDX-License-Identifier: Apache-2.0

/// The one rule of ownership: which spans an allocator event proves to belong to nobody.
///
/// An extent that jemalloc holds uncommitted is used by no thread until `commit` is called for it,
/// and jemalloc always calls it before the memory is handed out. So a span may be zapped
/// when all 2 MiB of it lie in memory that is uncommitted, or that was never anybody's (a
/// reserve), at the moment of the event. No state of ours is needed: the events carry the proof.
///
///     decommit:   | partial |  span  |  span  | partial |  the two whole spans
///     merge:      | lower extent    | upper extent    |  the one that straddles
///                        |   span   |                      the joint
///     reserve:    | extent          | reserve |          its last span,
///                        |   span            |             reserve included
public enum OwnershipRule {
    /// What belongs to nobody once `extent` is decommitted: the extent, and the reserve that
    /// begins where it ends if the extent covers all of that last span below the reserve. Addresses
    /// in bytes, page-aligned.
    ///
    /// The corresponding kernel code is the ceiling of `free_pgd_range`: a table is freed up to the
    /// next mapping, not up to the end of its own.
    public static func unowned<Space: AddressSpace>(
        byDecommit extent: AddressRange, in space: borrowing Space
    ) -> AddressRange {
        let end = space.reserveEnd(after: extent.end)
        guard end != extent.end, Span(containing: extent.end).start >= extent.start else {
            return extent
        }
        return AddressRange(start: extent.start, end: end)
    }

    /// The span that two merging extents make whole, or nil.
    ///
    /// - Parameters:
    ///   - lower: page-aligned.
    ///   - upper: page-aligned.
    ///   - committed: jemalloc's flag for both extents. Committed memory has an owner.
    ///   - space: knows the reserves.
    /// - Precondition: `lower.end == upper.start`.
    ///
    /// The corresponding kernel code is the floor of `free_pgd_range`.
    public static func straddlingSpan<Space: AddressSpace>(
        lower: AddressRange, upper: AddressRange, committed: Bool, in space: borrowing Space
    ) -> Span? {
        guard !committed else { return nil }
        let span = Span(containing: upper.start)
        // A joint on a span boundary makes no span whole that was not whole before.
        guard span.start != upper.start else { return nil }
        let end = space.reserveEnd(after: upper.end)
        guard AddressRange(start: lower.start, end: end).contains(span.range) else { return nil }
        return span
    }

    /// How many bytes to map for an allocator that asked for `byteCount` bytes of address space:
    /// up to the next span boundary, so that the last span has one owner. Nil where that overflows.
    public static func reservedByteCount(for byteCount: UInt) -> UInt? {
        let mask = PageGeometry.spanByteCount - 1
        let (sum, overflow) = byteCount.addingReportingOverflow(mask)
        return overflow ? nil : sum & ~mask
    }
}
