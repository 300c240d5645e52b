// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

#if !SHIM_SINGLE_MODULE
    public import ReclaimCore
#endif

/// This process.
///
/// A value costs nothing to make. On a thread of the application descriptors are opened by
/// `openDescriptors` and belong to one call: none is kept, so none can be inherited by a child,
/// closed by the application, or show another process. On the service thread they are its own.
@safe public struct LiveSpace: AddressSpace {
    /// How tables are freed.
    public let backend: Backend
    private var pagemap: Int32 = -1
    private var maps: Int32 = -1
    /// An address on the stack of the thread that called; 0 where nobody did.
    private let stackAddress: UInt
    /// Nil on a thread that opens no fences.
    private let service: UnsafeMutablePointer<ptreclaim_service>?

    public init(backend: Backend) {
        self.init(backend: backend, stackAddress: 0)
    }

    init(backend: Backend, stackAddress: UInt) {
        self.backend = backend
        self.stackAddress = stackAddress
        unsafe self.service = nil
    }

    /// On the service thread, with its descriptors.
    init(
        backend: Backend, stackAddress: UInt, service: UnsafeMutablePointer<ptreclaim_service>
    ) throws(ReclaimError) {
        self.backend = backend
        self.stackAddress = stackAddress
        unsafe self.service = service
        pagemap = unsafe service.pointee.pagemap
        maps = unsafe service.pointee.maps
        try checkDescriptors()
    }

    /// Opens what looks need.
    /// - Throws: `.lookFailed` with the errno of open; procfs is missing or closed to us.
    public mutating func openDescriptors() throws(ReclaimError) {
        pagemap = ptreclaim_open_self_pagemap()
        maps = ptreclaim_open_self_maps()
        do { try checkDescriptors() } catch {
            closeDescriptors()
            throw error
        }
    }

    public mutating func closeDescriptors() {
        if pagemap >= 0 { _ = ptreclaim_close(pagemap) }
        if maps >= 0 { _ = ptreclaim_close(maps) }
        pagemap = -1
        maps = -1
    }

    private func checkDescriptors() throws(ReclaimError) {
        guard pagemap >= 0, maps >= 0 else {
            let failed = pagemap < 0 ? pagemap : maps
            throw ReclaimError(.lookFailed, errno: -failed, range: AddressRange(start: 0, end: 0))
        }
        let state = unsafe ptreclaim_live_state()
        guard unsafe state.pointee.has_pagemap_scan == 0 else { return }
        let hasScan = ptreclaim_probe_pagemap_scan(pagemap)
        unsafe state.pointee.has_pagemap_scan = hasScan ? 2 : 1
    }

    public var discardFreesTables: Bool { backend == .dontneed }

    public func vmPTEByteCount() -> UInt? {
        let result = ptreclaim_self_vm_pte()
        return result < 0 ? nil : UInt(result)
    }

    public func discard(_ range: AddressRange) throws(ReclaimError) {
        if let errno = Syscalls.dontneed(range) {
            throw ReclaimError(.discardFailed, errno: errno, range: range)
        }
    }

    public func freeTable(of span: Span) throws(ReclaimError) {
        let errno: Int32? =
            switch backend {
            case .dontneed: Syscalls.dontneed(span.range)
            case .remap: isInsideOneVMA(span) ? moveAwayAndDrop(span) : EFAULT
            case .mapfixed: Syscalls.mapOver(span.range, protection: Syscalls.readWrite)
            }
        if let errno {
            throw ReclaimError(.freeFailed, errno: errno, range: span.range)
        }
    }

    public func reserveEnd(after end: UInt) -> UInt {
        ReserveSet.contains(end: end)
            ? Span(containing: end).end : end
    }
}

// MARK: - Looking

extension LiveSpace {
    public var showsTables: Bool {
        unsafe ptreclaim_live_state().pointee.has_pagemap_scan == 2
    }

    public func firstPopulatedPage(in range: AddressRange) throws(ReclaimError) -> UInt? {
        var page: UInt = 0
        let found = unsafe ptreclaim_first_populated(
            pagemap, showsTables, range.start, range.end, &page)
        return try wasFound(found, range) ? page : nil
    }

    public func firstTables(
        in run: SpanRun, atMost limit: Int
    ) throws(ReclaimError) -> SpanRun? {
        guard showsTables else { return run.prefix(limit) }
        var start: UInt = 0
        var end: UInt = 0
        let found = unsafe ptreclaim_first_tables(
            pagemap, run.start, run.end, limit, &start, &end)
        return try wasFound(found, run.range) ? run.prefix(upTo: end).suffix(from: start) : nil
    }

    public func mapping(at address: UInt) throws(ReclaimError) -> Mapping {
        var vma = ptreclaim_vma()
        let result = unsafe ptreclaim_find_vma(maps, address, &vma)
        guard result == 0 else {
            throw ReclaimError(
                .lookFailed, errno: Int32(-result),
                range: AddressRange(start: address, end: address))
        }
        let range = AddressRange(start: vma.start, end: vma.end)
        let kind: Mapping.Kind =
            switch Int(vma.kind) {
            case Int(PTRECLAIM_VMA_HOLE.rawValue): .hole
            case Int(PTRECLAIM_VMA_ANONYMOUS.rawValue):
                vma.start <= stackAddress && stackAddress < vma.end ? .ownStack : .anonymous
            case Int(PTRECLAIM_VMA_SHARED.rawValue): .shared
            case Int(PTRECLAIM_VMA_PRIVATE_FILE.rawValue): .privateFile
            default: .special
            }
        return Mapping(range: range, kind: kind)
    }

    public func hidesTables(at address: UInt) throws(ReclaimError) -> Bool {
        let flags = ptreclaim_vma_flags(address)
        guard flags >= 0 else {
            throw ReclaimError(
                .lookFailed, errno: Int32(-flags), range: AddressRange(start: address, end: address)
            )
        }
        return flags & Int(PTRECLAIM_VMA_WRITE_PROTECT_REGISTERED) != 0
    }

    private func wasFound(_ answer: Int, _ range: AddressRange) throws(ReclaimError) -> Bool {
        guard answer >= 0 else {
            throw ReclaimError(.lookFailed, errno: Int32(-answer), range: range)
        }
        return answer > 0
    }
}

// MARK: - Freeing runs

extension LiveSpace {
    public func free(_ run: SpanRun, in mapping: Mapping, fenced: Bool) -> KeptReason? {
        if fenced { return freeBehindFence(run, mapping) }
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
                if moveAwayAndDrop(run[index]) != nil { return .backendFailed }
            }
            return nil
        case .mapfixed:
            guard let plain = plainMapping(at: run.start, mapping) else { return .losesAttributes }
            let errno = Syscalls.mapOver(run.range, protection: plain.protection)
            return errno == nil ? nil : .backendFailed
        }
    }

    private func lockedOrSpecial(_ address: UInt) -> KeptReason {
        let flags = ptreclaim_vma_flags(address)
        return flags >= 0 && flags & Int(PTRECLAIM_VMA_LOCKED) != 0
            ? .locked : .specialVMA
    }

    private func freeBehindFence(_ run: SpanRun, _ mapping: Mapping) -> KeptReason? {
        guard let service = unsafe service, unsafe ptreclaim_service_userfaultfd(service) >= 0
        else { return .fenceUnavailable }
        var fence = ptreclaim_fence()
        fence.userfaultfd = unsafe service.pointee.userfaultfd
        fence.pagemap = pagemap
        fence.has_pagemap_scan = showsTables
        fence.how = UInt32(PTRECLAIM_FENCED_DONTNEED.rawValue)
        if backend != .dontneed {
            // Behind a fence mremap moves entries one by one and leaves the table.
            guard let plain = plainMapping(at: run.start, mapping) else {
                return registration(at: run.start) ?? .losesAttributes
            }
            fence.how = UInt32(PTRECLAIM_FENCED_MAPFIXED.rawValue)
            fence.protection = plain.protection
            fence.is_noreserve = plain.isNoReserve
        }
        let result = unsafe ptreclaim_fenced_free(&fence, run.start, run.end)
        unsafe service.pointee.userfaultfd = fence.userfaultfd
        guard result < 0 else { return nil }
        if fence.was_up { return .backendFailed }
        switch Int32(-result) {
        case EBUSY: return registration(at: run.start) ?? .registered
        case ENOMEM: return .tooManyMappings
        case EINVAL: return .specialVMA
        case EAGAIN: return .forking
        default: return .fenceUnavailable
        }
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

// MARK: - Backend remap

extension LiveSpace {
    /// Moves the table of `span` to a scratch span and maps the scratch over.
    ///
    /// The scratch is never unmapped: in the gap another thread's mmap could land there and be
    /// destroyed by the next move (measured: SEGV). Over-mapping leaves no gap.
    private func moveAwayAndDrop(_ span: Span) -> Int32? {
        guard let scratch = ScratchSpans.claim() else { return EBUSY }
        defer { ScratchSpans.release(scratch) }
        if let errno = Syscalls.moveTable(from: span, to: scratch.span) { return errno }
        return Syscalls.coverScratch(scratch.span.range)
    }

    /// From 6.17 on mremap moves across VMAs; before, it refuses by itself (EFAULT).
    private func isInsideOneVMA(_ span: Span) -> Bool {
        guard unsafe ptreclaim_live_state().pointee.has_procmap_query else { return true }
        let descriptor = ptreclaim_open_self_maps()
        guard descriptor >= 0 else { return false }
        defer { _ = ptreclaim_close(descriptor) }
        var vma = ptreclaim_vma()
        return unsafe ptreclaim_find_vma(descriptor, span.start, &vma) == 0
            && vma.start <= span.start && span.end <= vma.end
    }
}

/// Spans of address space that tables are moved to before they are dropped, one for each thread
/// that does it at the moment.
enum ScratchSpans {
    struct Claim {
        let span: Span
        fileprivate let bit: UInt64
    }

    /// Maps the scratch spans. They never hold a page, so they cost one VMA and no table.
    static func prepare() -> Bool {
        let state = unsafe ptreclaim_live_state()
        if unsafe state.pointee.scratch != 0 { return true }
        let byteCount = (UInt(PTRECLAIM_SCRATCH_SLOTS) + 1) * PageGeometry.spanByteCount
        guard
            let range = Syscalls.mapAnywhere(byteCount: byteCount, protection: Syscalls.noAccess)
        else { return false }
        if unsafe !ptreclaim_publish_scratch(state, range.wholeSpans.start) {
            _ = Syscalls.unmap(range)
        }
        return true
    }

    static func claim() -> Claim? {
        let state = unsafe ptreclaim_live_state()
        guard unsafe state.pointee.scratch != 0, let shared = unsafe state.pointee.wiped_on_fork
        else { return nil }
        let word = unsafe ptreclaim_scratch_claims(shared)
        while true {
            let claims = unsafe ptreclaim_load_acquire(word)
            guard claims != .max else { return nil }
            let index = (~claims).trailingZeroBitCount
            let bit = UInt64(1) << UInt64(index)
            if unsafe ptreclaim_compare_exchange(word, claims, claims | bit) {
                let start = unsafe state.pointee.scratch
                return Claim(
                    span: Span(containing: start + UInt(index) * PageGeometry.spanByteCount),
                    bit: bit)
            }
        }
    }

    static func release(_ claim: Claim) {
        guard let shared = unsafe ptreclaim_live_state().pointee.wiped_on_fork else { return }
        _ = unsafe ptreclaim_fetch_and(ptreclaim_scratch_claims(shared), ~claim.bit)
    }
}
