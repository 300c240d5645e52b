// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

#if !SHIM_SINGLE_MODULE
    public import ReclaimCore
#endif

extension LiveSpace {
    /// Finds by measuring which backend frees tables on the running kernel; versions lie, and so
    /// do configurations. Prefers what keeps the attributes of VMAs.
    ///
    /// Costs about a dozen system calls for each backend tried. The result is kept; nil means
    /// that nothing tried works here.
    ///
    /// - Parameter wanted: the only backend to try, where one was asked for.
    public static func probeBackend(preferring wanted: Backend? = nil) -> Backend? {
        let state = unsafe ptreclaim_live_state()
        if let known = unsafe Backend(rawValue: UInt8(state.pointee.backend)) { return known }
        var found: Backend?
        if let wanted {
            found = frees(wanted) ? wanted : nil
        } else if frees(.dontneed) {
            found = .dontneed
        } else if frees(.remap) {
            found = .remap
        }
        if let found { unsafe state.pointee.backend = UInt32(found.rawValue) }
        return found
    }

    /// Makes one empty table, and looks whether it is gone when `backend` has freed it.
    ///
    /// Where the kernel shows no tables (before 6.7, no procfs) VmPTE has to tell. Another thread may change
    /// that in between, so only a difference of exactly one table counts, and a miss is tried
    /// again.
    public static func frees(_ backend: Backend) -> Bool {
        let state = unsafe ptreclaim_live_state()
        guard unsafe ptreclaim_map_wiped_on_fork(state) == 0 else { return false }
        if backend == .remap {
            guard ScratchSpans.prepare() else { return false }
            unsafe state.pointee.has_procmap_query = ptreclaim_probe_procmap_query()
        }
        for _ in 0..<3 where freesOnce(backend) == true { return true }
        return false
    }

    /// Whether a probe has the mapping that it needs (ENOMEM: `vm.max_map_count`, RLIMIT_AS).
    static func hasRoomToProbe() -> Bool {
        guard let area = mapProbeArea() else { return false }
        return Syscalls.unmap(area) == nil
    }

    private static func mapProbeArea() -> AddressRange? {
        Syscalls.mapAnywhere(
            byteCount: 2 * PageGeometry.spanByteCount, protection: Syscalls.readWrite)
    }

    private static func freesOnce(_ backend: Backend) -> Bool? {
        guard let area = mapProbeArea() else { return nil }
        defer { _ = Syscalls.unmap(area) }
        // A huge page has no table to free.
        _ = Syscalls.madvise(area, Syscalls.adviseNoHugePage)
        let span = Span(containing: area.start + PageGeometry.spanByteCount - 1)
        let page = AddressRange(start: span.start, end: span.start + PageGeometry.pageByteCount)
        var space = LiveSpace(backend: backend)
        var canLook = true
        do { try space.openDescriptors() } catch { canLook = false }
        defer { space.closeDescriptors() }
        // Sound: `area` is ours alone, mapped readable and writable.
        unsafe UnsafeMutablePointer<UInt8>(bitPattern: page.start)?.pointee = 1
        guard Syscalls.dontneed(page) == nil else { return nil }
        let vmPTEBefore = space.vmPTEByteCount()
        do throws(ReclaimError) {
            let before = canLook ? try space.look(at: span) : .emptyOrAbsent
            try space.freeTable(of: span)
            if before == .empty { return try space.look(at: span) == .absent }
        } catch {
            return false
        }
        guard let vmPTEBefore, let vmPTEAfter = space.vmPTEByteCount() else { return nil }
        return vmPTEBefore == vmPTEAfter + PageGeometry.pageByteCount
    }
}
