// SPDX-License-Identifier: Apache-2.0

public import CLinuxMM

// The doors of the service thread of the preload library. C decides when; which tables, and whether,
// is decided behind these doors.

/// Makes a pass, on the service thread. Returns 0, or an errno: procfs is not to be had.
@c(ptreclaim_core_serve)
public func coreServe(
    _ service: UnsafeMutablePointer<ptreclaim_service>,
    _ pass: UnsafeMutablePointer<ptreclaim_pass>
) -> Int32 {
    do throws(ReclaimError) {
        let asked = unsafe pass.pointee
        let spans = AddressRange(start: asked.start, end: asked.end).wholeSpans
        let report = try unsafe walk(service, asked).serve(
            spans,
            PassTerms(
                maximumTables: Int(clamping: asked.most_tables), frees: asked.frees,
                isImmediate: asked.is_immediate))
        unsafe pass.pointee.resume = report.resumeAddress ?? 0
        unsafe pass.pointee.tables_looked_at = UInt64(report.tablesLookedAt)
        unsafe pass.pointee.tables_empty = UInt64(report.tablesEmpty)
        unsafe pass.pointee.tables_freed = UInt64(report.tablesFreed)
        unsafe setKept(pass, report.kept)
        return 0
    } catch {
        return error.errno
    }
}

/// Walks all of the range as `ptReclaim` does, with a reason for each table that stays.
@c(ptreclaim_core_reclaim_whole)
public func coreReclaimWhole(
    _ service: UnsafeMutablePointer<ptreclaim_service>,
    _ pass: UnsafeMutablePointer<ptreclaim_pass>
) -> Int32 {
    do throws(ReclaimError) {
        let asked = unsafe pass.pointee
        let report = try unsafe walk(service, asked).reclaim(
            AddressRange(start: asked.start, end: asked.end), access: .shared)
        unsafe pass.pointee.tables_looked_at = UInt64(report.tablesLookedAt)
        unsafe pass.pointee.tables_freed = UInt64(report.tablesFreed)
        unsafe setKept(pass, report.kept)
        return 0
    } catch {
        return error.errno
    }
}

private func walk(
    _ service: UnsafeMutablePointer<ptreclaim_service>, _ asked: ptreclaim_pass
) throws(ReclaimError) -> ReclaimWalk<LiveSpace> {
    var space = try unsafe LiveSpace(
        backend: .dontneed, stackAddress: 0, service: service,
        range: AddressRange(start: asked.start, end: asked.end))
    space.servable = Servable(
        mask: asked.mark_mask, wanted: asked.mark_wanted, deadline: asked.deadline_ns)
    var walk = ReclaimWalk(space: space)
    walk.longestFencedRun = max(1, Int(asked.longest_fenced_run))
    return walk
}

private func setKept(_ pass: UnsafeMutablePointer<ptreclaim_pass>, _ counts: KeptCounts) {
    unsafe withUnsafeMutableBytes(of: &pass.pointee.kept) { bytes in
        let words = unsafe bytes.assumingMemoryBound(to: UInt64.self)
        for number in 0..<UInt8(KeptReason.count) {
            guard let reason = KeptReason(rawValue: number) else { continue }
            unsafe words[Int(number)] = UInt64(counts[reason])
        }
    }
}
