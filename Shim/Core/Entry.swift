// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

// The doors between the C hooks and the core. C tells what happened; which spans, whether, and by
// which backend is decided behind these doors. None of them allocates, locks or touches errno.

private func walk() -> ReclaimWalk<LiveSpace>? {
    guard let backend = unsafe Backend(rawValue: UInt8(ptreclaim_live_state().pointee.backend))
    else { return nil }
    return ReclaimWalk(space: LiveSpace(backend: backend))
}

private func extent(_ address: UInt, _ byteCount: UInt) -> AddressRange? {
    guard byteCount > 0 else { return nil }
    return AddressRange(start: address, byteCount: byteCount)
}

/// Probes the kernel. Returns the backend that will be used, 0 for none.
/// - Parameter wanted: the backend to use if it frees tables here; 0 for the best that does.
@c(ptreclaim_core_probe)
public func coreProbe(_ wanted: UInt32) -> UInt32 {
    let backend = LiveSpace.probeBackend(preferring: Backend(rawValue: UInt8(wanted)))
    return UInt32(backend?.rawValue ?? 0)
}

/// Whether one MADV_DONTNEED over a whole span frees its table, whichever backend is in use.
@c(ptreclaim_core_dontneed_frees_tables)
public func coreDontneedFreesTables() -> Bool {
    LiveSpace.probeBackend() == .dontneed || LiveSpace.frees(.dontneed)
}

/// jemalloc gives up an extent. Returns 0, or the errno for which it must keep it.
@c(ptreclaim_core_decommit)
public func coreDecommit(
    _ address: UInt, _ byteCount: UInt, _ zapped: UnsafeMutablePointer<UInt64>,
    _ skipped: UnsafeMutablePointer<UInt64>
) -> Int32 {
    guard let walk = walk(), let extent = extent(address, byteCount) else { return EINVAL }
    do throws(ReclaimError) {
        let count = try walk.decommit(extent)
        unsafe zapped.pointee = UInt64(count.zapped)
        unsafe skipped.pointee = UInt64(count.skipped)
        return 0
    } catch {
        return error.errno
    }
}

/// jemalloc has merged two neighbouring extents.
@c(ptreclaim_core_merge)
public func coreMerge(
    _ lower: UInt, _ lowerByteCount: UInt, _ upper: UInt, _ upperByteCount: UInt,
    _ committed: Bool, _ zapped: UnsafeMutablePointer<UInt64>,
    _ skipped: UnsafeMutablePointer<UInt64>
) {
    guard let walk = walk(), let lower = extent(lower, lowerByteCount),
        let upper = extent(upper, upperByteCount), lower.end == upper.start
    else { return }
    let count = walk.merge(lower: lower, upper: upper, committed: committed)
    unsafe zapped.pointee = UInt64(count.zapped)
    unsafe skipped.pointee = UInt64(count.skipped)
}

/// How much to map, and at which alignment, for an extent of address space.
/// Returns false where the request is to be passed on as it is.
@c(ptreclaim_core_plan_mapping)
public func corePlanMapping(
    _ byteCount: UnsafeMutablePointer<UInt>, _ alignment: UnsafeMutablePointer<UInt>
) -> Bool {
    guard let rounded = unsafe OwnershipRule.reservedByteCount(for: byteCount.pointee) else {
        return false
    }
    unsafe byteCount.pointee = rounded
    unsafe alignment.pointee = max(alignment.pointee, PageGeometry.spanByteCount)
    return true
}

/// Remembers the reserve behind a mapping of which jemalloc uses `byteCount` bytes.
/// Returns false where there is no room to remember it; it is then a span that stays as it is.
@c(ptreclaim_core_add_reserve)
public func coreAddReserve(_ address: UInt, _ byteCount: UInt) -> Bool {
    guard let extent = extent(address, byteCount) else { return false }
    guard Span(containing: extent.end).start != extent.end else { return true }
    return ReserveSet.insert(end: extent.end)
}

/// jemalloc is about to unmap an extent: forgets and unmaps the reserve behind it.
@c(ptreclaim_core_drop_reserve)
public func coreDropReserve(_ address: UInt, _ byteCount: UInt) {
    guard let extent = extent(address, byteCount), ReserveSet.remove(end: extent.end) else {
        return
    }
    _ = Syscalls.unmap(
        AddressRange(start: extent.end, end: Span(containing: extent.end).end))
}
