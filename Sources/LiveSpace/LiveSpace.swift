// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

#if !SHIM_SINGLE_MODULE
    public import ReclaimCore
#endif

/// This process, owned part: memory that the caller guarantees nobody else uses meanwhile.
///
/// A value costs nothing to make. Descriptors are opened by `openDescriptors` and belong to one
/// call: none is kept, so none can be inherited by a child, closed by the application, or show
/// another process.
public struct LiveSpace: AddressSpace {
    /// How tables are freed.
    public let backend: Backend
    private var pagemap: Int32 = -1
    private var maps: Int32 = -1

    public init(backend: Backend) {
        self.backend = backend
    }

    /// Opens what `look` and `eligibility` need.
    /// - Throws: `.lookFailed` with the errno of open; procfs is missing or closed to us.
    public mutating func openDescriptors() throws(ReclaimError) {
        pagemap = ptreclaim_open_self_pagemap()
        maps = ptreclaim_open_self_maps()
        guard pagemap >= 0, maps >= 0 else {
            let failed = pagemap < 0 ? pagemap : maps
            closeDescriptors()
            throw ReclaimError(.lookFailed, errno: -failed, range: AddressRange(start: 0, end: 0))
        }
    }

    public mutating func closeDescriptors() {
        if pagemap >= 0 { _ = ptreclaim_close(pagemap) }
        if maps >= 0 { _ = ptreclaim_close(maps) }
        pagemap = -1
        maps = -1
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
            case .remap: moveAwayAndDrop(span)
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
    public func look(at span: Span) throws(ReclaimError) -> TableState {
        guard pagemap >= 0 else {
            throw ReclaimError(.lookFailed, errno: EBADF, range: span.range)
        }
        let answer = ptreclaim_look(pagemap, span.start)
        switch answer {
        case Int(PTRECLAIM_LOOK_ABSENT): return .absent
        case Int(PTRECLAIM_LOOK_EMPTY): return .empty
        case Int(PTRECLAIM_LOOK_POPULATED): return .populated
        case Int(PTRECLAIM_LOOK_EMPTY_OR_ABSENT): return .emptyOrAbsent
        default:
            throw ReclaimError(.lookFailed, errno: Int32(-answer), range: span.range)
        }
    }

    public func eligibility(of span: Span) throws(ReclaimError) -> KeptReason? {
        guard maps >= 0 else {
            throw ReclaimError(.lookFailed, errno: EBADF, range: span.range)
        }
        var vma = ptreclaim_vma()
        let result = unsafe ptreclaim_find_vma(maps, span.start, &vma)
        if result == -Int(ENOENT) { return .crossesVMA }
        guard result == 0 else {
            throw ReclaimError(.lookFailed, errno: Int32(-result), range: span.range)
        }
        guard vma.start <= span.start, span.end <= vma.end else { return .crossesVMA }
        return vma.is_special ? .specialVMA : nil
    }
}

// MARK: - Backend remap

extension LiveSpace {
    /// Moves the table of `span` to a scratch span and maps the scratch over.
    ///
    /// The scratch is never unmapped: in the gap another thread's mmap could land there and be
    /// destroyed by the next move (measured: SEGV). Over-mapping leaves no gap.
    private func moveAwayAndDrop(_ span: Span) -> Int32? {
        // From 6.17 on mremap moves across VMAs; before, it refuses by itself (EFAULT).
        if unsafe ptreclaim_live_state().pointee.has_procmap_query, !isInsideOneVMA(span) {
            return EFAULT
        }
        guard let scratch = ScratchSpans.claim() else { return EBUSY }
        defer { ScratchSpans.release(scratch) }
        if let errno = Syscalls.moveTable(from: span, to: scratch.span) { return errno }
        return Syscalls.mapOver(scratch.span.range, protection: Syscalls.noAccess)
    }

    private func isInsideOneVMA(_ span: Span) -> Bool {
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
