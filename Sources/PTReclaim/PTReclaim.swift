// SPDX-License-Identifier: Apache-2.0

internal import LiveSpace
// The report, the reasons and the errors, with their members: a client with MemberImportVisibility
// sees none of them through a mere type alias.
@_exported public import ReclaimCore

/// Frees the PTE tables in `range` that map nothing: a PTE table is a page of 4 KiB that maps a
/// span of 2 MiB, and stays when an allocator gives the pages back.
///
///     | partial |  span  |  span  | hole |  span  || VMA |   candidates are
///               |  look  |  look  |      |  kept             whole spans in one VMA
///
/// A table is freed if all its 512 entries are none and its span lies inside one VMA. A page, the
/// zero page, a swap entry, a uffd-wp marker and a guard marker each keep their table; what was
/// kept, and why, is in the report and is no error. No byte that can be read changes.
///
/// With `.shared`, the default, the contents of the range may be used freely by anyone while the
/// call runs: memory whose contents are in its page tables is freed behind a fence (userfaultfd),
/// at which a thread that touches an empty span waits some microseconds. The call asks one thing:
/// the range stays mapped as it is. Who unmaps a part of it and maps something new at the same
/// address while the call runs may lose what is written there.
///
/// The fence needs CAP_SYS_PTRACE, `vm.unprivileged_userfaultfd` or access to `/dev/userfaultfd`,
/// and no seccomp filter: with one on, neither a thread nor a userfaultfd is tried, for which it
/// might kill. Without a fence only shared mappings are done, and private ones are kept as
/// `.fenceUnavailable`; at `vm.max_map_count` as `.tooManyMappings`. Private mappings of files are
/// kept as `.privateFile`, memory that another userfaultfd watches as `.writeProtectRegistered` or
/// `.registered`. The first such call starts a thread, on which all of them run, one after the
/// other; it keeps its descriptors, so later calls need none. Kernels without PT_RECLAIM free
/// behind a fence only what lies in VMAs without attributes; the rest is kept as
/// `.losesAttributes`.
///
/// With `.owned` nobody uses the contents either: no other thread reads, writes, maps or unmaps
/// any part of the range until the call returns. What another thread writes there meanwhile may be
/// lost. It needs no privilege, no fence and no thread.
///
/// Opens `/proc/self/pagemap` and `/proc/self/maps`. The first call also measures which way of
/// freeing tables works on the running kernel. For any thread, any number at once; not for signal
/// handlers.
///
/// - Parameters:
///   - range: addresses in bytes, half-open. The start is page-aligned; the length is rounded up
///     to whole pages. Spans that lie in it only in part are kept as `.partial`, holes as
///     `.unmapped`. An empty range is no error.
///   - access: who else may touch the range.
/// - Returns: what was done.
/// - Throws: `.invalidRange` with EINVAL: the start is not page-aligned, or the end is above user
///   space (2^47). `.lookFailed` with the errno of open, where procfs is missing or closed to us
///   (ENOENT, EMFILE, ENFILE; EACCES after setuid, until `prctl(PR_SET_DUMPABLE)`), with that of
///   the look, or with ENOMEM where the first call has no mapping left to measure with.
///   `.unsupported` with EOPNOTSUPP: nothing that this version knows frees tables on this kernel.
///   What was freed before stays freed.
///
/// The corresponding kernel call is `madvise(MADV_PT_RECLAIM)`, proposed on linux-mm in June 2024
/// and never merged.
@discardableResult
public func ptReclaim(
    range: Range<UInt>, access: ReclaimAccess = .shared
) throws(ReclaimError) -> ReclaimReport {
    try ReclaimCall.run(from: range.lowerBound, upTo: range.upperBound, access: access)
}

/// Frees the PTE tables under a buffer that map nothing. The buffer is rounded inward to pages.
///
/// As the call for a range of addresses, for those of the buffer's whole pages: a buffer without any
/// is no error. It is not read, and may have holes.
///
/// - Parameters:
///   - buffer: of no alignment. The pages at its ends that it covers only in part are left out.
///   - access: who else may touch the buffer during the call.
/// - Returns: what was done.
/// - Throws: as the call for a range of addresses; `.invalidRange` only where the buffer ends above
///   user space (2^47).
///
/// The corresponding kernel call is `madvise(MADV_PT_RECLAIM)`, proposed on linux-mm in June 2024
/// and never merged.
@discardableResult
public func ptReclaim(
    range buffer: UnsafeRawBufferPointer, access: ReclaimAccess = .shared
) throws(ReclaimError) -> ReclaimReport {
    let start = UInt(bitPattern: buffer.baseAddress)
    let (first, overflow) = start.addingReportingOverflow(pageMask)
    let end = (start &+ UInt(buffer.count)) & ~pageMask
    guard !overflow, first & ~pageMask < end else { return ReclaimReport() }
    return try ptReclaim(range: (first & ~pageMask)..<end, access: access)
}

/// Frees the PTE tables under a buffer that map nothing. The buffer is rounded inward to pages.
///
/// As the call for a range of addresses, for those of the buffer's whole pages: a buffer without any
/// is no error. It is not read, and may have holes.
///
/// - Parameters:
///   - buffer: of no alignment. The pages at its ends that it covers only in part are left out.
///   - access: who else may touch the buffer during the call.
/// - Returns: what was done.
/// - Throws: as the call for a range of addresses; `.invalidRange` only where the buffer ends above
///   user space (2^47).
///
/// The corresponding kernel call is `madvise(MADV_PT_RECLAIM)`, proposed on linux-mm in June 2024
/// and never merged.
@discardableResult
public func ptReclaim(
    range buffer: UnsafeMutableRawBufferPointer, access: ReclaimAccess = .shared
) throws(ReclaimError) -> ReclaimReport {
    try unsafe ptReclaim(range: UnsafeRawBufferPointer(buffer), access: access)
}

private let pageMask = PageGeometry.pageByteCount - 1
