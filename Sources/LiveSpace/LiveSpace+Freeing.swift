// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

#if !SHIM_SINGLE_MODULE
    public import ReclaimCore
#endif

extension LiveSpace {
    public func free(_ run: SpanRun, in mapping: Mapping, fenced: Bool) -> KeptReason? {
        if servable != nil { return freeClaimed(run) }
        return fenced ? freeBehindFence(run, mapping) : freeUnfenced(run, mapping)
    }

    func freeUnfenced(_ run: SpanRun, _ mapping: Mapping) -> KeptReason? {
        switch backend {
        case .dontneed:
            // Also for mlocked memory: nothing that is locked is in these tables.
            guard let errno = Syscalls.madvise(run.range, PTRECLAIM_MADV_DONTNEED_LOCKED) else {
                return nil
            }
            return errno == EINVAL ? .specialVMA : .backendFailed
        case .remap:
            // mremap would take the mlock flag with the table. This advice does nothing to empty
            // tables, and is refused for what is locked, PFN-mapped or hugetlb.
            if let errno = Syscalls.madvise(run.range, PTRECLAIM_MADV_COLD) {
                return errno == EINVAL ? lockedOrSpecial(run.start) : .backendFailed
            }
            for index in 0..<run.count {
                if let errno = moveAwayAndDrop(run[index]) {
                    return errno == ENOMEM ? .tooManyMappings : .backendFailed
                }
            }
            return nil
        case .mapfixed:
            guard let plain = plainMapping(at: run.start, mapping) else { return .losesAttributes }
            let errno = Syscalls.mapOver(
                run.range, protection: plain.protection, isNoReserve: plain.isNoReserve)
            return errno == nil ? nil : .backendFailed
        }
    }

    private func lockedOrSpecial(_ address: UInt) -> KeptReason {
        let flags = ptreclaim_vma_flags(address)
        return flags >= 0 && flags & Int(PTRECLAIM_VMA_LOCKED) != 0
            ? .locked : .specialVMA
    }

    func freeBehindFence(_ run: SpanRun, _ mapping: Mapping) -> KeptReason? {
        guard let service = unsafe service, unsafe ptreclaim_service_userfaultfd(service) >= 0
        else { return .fenceUnavailable }
        var fence = unsafe fence(of: service)
        unsafe fence.may_wait_for_forks =
            unsafe !service.pointee.has_met_forks && !service.pointee.must_not_wait
        if backend != .dontneed {
            // Behind a fence mremap moves entries one by one and leaves the table.
            guard let plain = plainMapping(at: run.start, mapping) else {
                return registration(at: run.start) ?? .losesAttributes
            }
            unsafe fence.how = UInt32(PTRECLAIM_FENCED_MAPFIXED.rawValue)
            unsafe fence.protection = plain.protection
            unsafe fence.is_noreserve = plain.isNoReserve
        }
        // What is claimed is no stack, and its mapping is as it was looked at.
        let mayGrow = servable == nil || mapping.range.end <= run.end
        let neighbors = mayGrow ? Neighbors(of: run, maps: maps) : nil
        let result = unsafe ptreclaim_fenced_free(&fence, run.start, run.end)
        unsafe service.pointee.userfaultfd = fence.userfaultfd
        if let neighbors { unsafe letGoOfWhatGrew(out: run, since: neighbors, service) }
        guard result < 0 else { return nil }
        if result == -Int(ECANCELED) { return .fenceUnavailable }
        if unsafe fence.was_up { return .backendFailed }
        switch Int32(-result) {
        case EBUSY: return registration(at: run.start) ?? .registered
        case ENOMEM: return .tooManyMappings
        case EINVAL: return .specialVMA
        case EAGAIN:
            unsafe service.pointee.has_met_forks = true
            return .forking
        default: return .fenceUnavailable
        }
    }

    /// A VMA that grows out of a fence, by mremap or as a stack (MAP_GROWSDOWN), takes the
    /// registration along; no query tells which VMA has one. So what has changed is let go of,
    /// until nothing has.
    private func letGoOfWhatGrew(
        out run: SpanRun, since before: Neighbors,
        _ service: UnsafeMutablePointer<ptreclaim_service>
    ) {
        let userfaultfd = unsafe service.pointee.userfaultfd
        var known = before
        while userfaultfd >= 0 {
            let neighbors = Neighbors(of: run, maps: maps)
            if neighbors == known { return }
            known = neighbors
            letGo(of: known.beneath, userfaultfd)
            letGo(of: known.behind, userfaultfd)
        }
    }

    private func letGo(of extent: AddressRange, _ userfaultfd: Int32) {
        if servable == nil {
            ptreclaim_let_go_of(userfaultfd, extent.start, extent.end)
        } else {
            // Who is served has no userfaultfd of its own. And nothing is registered that the
            // watchdog would not know of.
            ptreclaim_fence_open(userfaultfd, extent.start, extent.end)
        }
    }

    /// A fence of the service thread, that frees by DONTNEED.
    func fence(of service: UnsafeMutablePointer<ptreclaim_service>) -> ptreclaim_fence {
        var fence = unsafe ptreclaim_service_fence(service)
        unsafe fence.pagemap = pagemap
        unsafe fence.has_pagemap_scan = showsTables
        unsafe fence.how = UInt32(PTRECLAIM_FENCED_DONTNEED.rawValue)
        return unsafe fence
    }

    /// Whether another userfaultfd has the VMA at `address`, and for what.
    private func registration(at address: UInt) -> KeptReason? {
        let flags = ptreclaim_vma_flags(address)
        guard flags >= 0 else { return nil }
        if flags & Int(PTRECLAIM_VMA_WRITE_PROTECT_REGISTERED) != 0 {
            return .writeProtectRegistered
        }
        return flags & Int(PTRECLAIM_VMA_REGISTERED) != 0 ? .registered : nil
    }

    private struct PlainMapping {
        let protection: Int32
        let isNoReserve: Bool
    }

    /// How to map the VMA at `address` again without losing anything; nil where that cannot be.
    private func plainMapping(at address: UInt, _ mapping: Mapping) -> PlainMapping? {
        guard mapping.kind == .anonymous else { return nil }
        let flags = ptreclaim_vma_flags(address)
        var vma = ptreclaim_vma()
        guard flags >= 0, flags & Int(PTRECLAIM_VMA_UNUSUAL) == 0,
            !ptreclaim_has_memory_policy(address),
            unsafe ptreclaim_find_vma(maps, address, &vma) == 0
        else { return nil }
        let protection =
            (vma.is_readable ? Syscalls.read : 0) | (vma.is_writable ? Syscalls.write : 0)
            | (vma.is_executable ? Syscalls.execute : 0)
        return PlainMapping(
            protection: protection,
            isNoReserve: flags & Int(PTRECLAIM_VMA_NORESERVE) != 0)
    }
}

/// What lies around a run: the rest of its VMA, or at its ends the next VMA.
private struct Neighbors: Equatable {
    let beneath: AddressRange
    let behind: AddressRange

    init(of run: SpanRun, maps: Int32) {
        let own = Self.extent(at: run.start, maps)
        beneath =
            own.start < run.start || run.start == 0 ? own : Self.extent(at: run.start - 1, maps)
        behind = own.end > run.end ? own : Self.extent(at: run.end, maps)
    }

    /// Empty for a hole, and where there is no telling.
    private static func extent(at address: UInt, _ maps: Int32) -> AddressRange {
        var vma = ptreclaim_vma()
        guard unsafe ptreclaim_find_vma(maps, address, &vma) == 0,
            Int(vma.kind) != Int(PTRECLAIM_VMA_HOLE.rawValue)
        else { return AddressRange(start: address, end: address) }
        return AddressRange(start: vma.start, end: vma.end)
    }
}

// MARK: - Backend remap

extension LiveSpace {
    /// Moves the table of `span` to a scratch span and maps the scratch over.
    ///
    /// The scratch is never unmapped: in the gap another thread's mmap could land there and be
    /// destroyed by the next move (measured: SEGV). Over-mapping leaves no gap.
    func moveAwayAndDrop(_ span: Span) -> Int32? {
        guard let scratch = ScratchSpans.claim() else { return EBUSY }
        defer { ScratchSpans.release(scratch) }
        if let errno = Syscalls.moveTable(from: span, to: scratch.span) { return errno }
        // Not with MAP_NORESERVE, as its neighbours were: so it stays a VMA of its own, and there is
        // nothing to split and to merge at the next move (1.16 x the time).
        return Syscalls.mapOver(
            scratch.span.range, protection: Syscalls.noAccess, isNoReserve: false)
    }

    /// From 6.17 on mremap moves across VMAs; before, it refuses by itself (EFAULT).
    func isInsideOneVMA(_ span: Span) -> Bool {
        guard unsafe ptreclaim_live_state().pointee.has_procmap_query else { return true }
        let descriptor = ptreclaim_open_self_maps()
        guard descriptor >= 0 else { return false }
        defer { _ = ptreclaim_close(descriptor) }
        var vma = ptreclaim_vma()
        return unsafe ptreclaim_find_vma(descriptor, span.start, &vma) == 0
            && vma.start <= span.start && span.end <= vma.end
    }
}
