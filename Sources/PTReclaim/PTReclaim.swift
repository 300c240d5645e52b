// SPDX-License-Identifier: Apache-2.0

internal import LiveSpace
public import ReclaimCore

/// What a call did: tables examined, freed, kept by reason, VmPTE before and after in bytes.
public typealias ReclaimReport = ReclaimCore.ReclaimReport
/// Why a table was kept.
public typealias KeptReason = ReclaimCore.KeptReason
/// What a call failed with: a code, the kernel's errno and the range.
public typealias ReclaimError = ReclaimCore.ReclaimError

/// Who else may touch the range during a call.
public enum ReclaimAccess: Sendable {
    /// Nobody: the caller owns the range. No thread reads, writes, maps or unmaps any part of it
    /// until the call returns. What another thread writes there meanwhile may be lost.
    case owned
}

/// Measured once; any number of threads may be first.
private let backend = LiveSpace.probeBackend()

/// Frees the PTE tables in `range` that map nothing: a PTE table is a page of 4 KiB that maps a
/// span of 2 MiB, and stays when an allocator gives the pages back.
///
///     | partial |  span  |  span  | partial |     only the two whole spans are candidates
///
/// A table is freed if all its 512 entries are none and its span lies inside one VMA. A page, the
/// zero page, a swap entry, a uffd-wp marker and a guard marker each keep their table; what was
/// kept, and why, is in the report and is no error. No byte that can be read changes.
///
/// Opens `/proc/self/pagemap` and `/proc/self/maps`, and closes them before it returns. The first
/// call also measures which way of freeing tables works on the running kernel.
///
/// - Parameters:
///   - range: addresses in bytes, half-open. The start is page-aligned; the length is rounded up
///     to whole pages. An empty range is no error.
///   - access: who else may touch the range. There is no default, because a wrong guess loses
///     data. Access shared with other threads, kept out by a fence, comes next; until it is there
///     and the safe answer, every call has to say that it owns its range.
/// - Returns: what was done.
/// - Throws: `.invalidRange` with EINVAL: the start is not page-aligned, or the end is above user
///   space (2^47). `.lookFailed` with the errno of open, where procfs is missing or closed to us
///   (ENOENT, EACCES, EMFILE, ENFILE), or of the look. `.freeFailed` with EOPNOTSUPP: nothing that
///   this version knows frees tables on this kernel.
///
/// The corresponding kernel call is `madvise(MADV_PT_RECLAIM)`, proposed on linux-mm in June 2024
/// and never merged.
@discardableResult
public func ptReclaim(
    range: Range<UInt>, access: ReclaimAccess
) throws(ReclaimError) -> ReclaimReport {
    let pages = try wholePages(of: range)
    guard !pages.isEmpty else { return ReclaimReport() }
    let notSupported: Int32 = 95  // EOPNOTSUPP
    guard let backend else { throw ReclaimError(.freeFailed, errno: notSupported, range: pages) }
    var space = LiveSpace(backend: backend)
    try space.openDescriptors()
    defer { space.closeDescriptors() }
    switch access {
    case .owned: return try ReclaimWalk(space: space).reclaimOwned(pages)
    }
}

private func wholePages(of range: Range<UInt>) throws(ReclaimError) -> AddressRange {
    let mask = PageGeometry.pageByteCount - 1
    let (end, overflow) = range.upperBound.addingReportingOverflow(mask)
    guard range.lowerBound & mask == 0, !overflow, end & ~mask <= PageGeometry.userSpaceEnd else {
        let invalid: Int32 = 22  // EINVAL
        throw ReclaimError(
            .invalidRange, errno: invalid,
            range: AddressRange(start: range.lowerBound, end: range.upperBound))
    }
    // An empty range ends where it starts, wherever that is.
    return AddressRange(start: range.lowerBound, end: end & ~mask)
}
