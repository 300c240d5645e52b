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
    private(set) var pagemap: Int32 = -1
    private(set) var maps: Int32 = -1
    /// Whether an empty table can be told from a missing one: PAGEMAP_SCAN is there, and open to us.
    public private(set) var showsTables = false
    /// An address on the stack of the thread that called; 0 where nobody did.
    let stackAddress: UInt
    /// Nil on a thread that opens no fences.
    let service: UnsafeMutablePointer<ptreclaim_service>?
    /// What may be freed without a caller who vouches for the mappings; nil where there is one.
    var servable: Servable?

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
        backend: Backend, stackAddress: UInt, service: UnsafeMutablePointer<ptreclaim_service>,
        range: AddressRange
    ) throws(ReclaimError) {
        self.backend = backend
        self.stackAddress = stackAddress
        unsafe self.service = service
        pagemap = unsafe service.pointee.pagemap
        maps = unsafe service.pointee.maps
        try checkDescriptors(range)
    }

    /// Opens what looks need.
    /// - Parameter range: what is going to be looked at, for the error.
    /// - Throws: `.lookFailed` with the errno of open; procfs is missing or closed to us.
    public mutating func openDescriptors(
        for range: AddressRange = AddressRange(start: 0, end: 0)
    ) throws(ReclaimError) {
        pagemap = ptreclaim_open_self_pagemap()
        maps = ptreclaim_open_self_maps()
        do { try checkDescriptors(range) } catch {
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

    private mutating func checkDescriptors(_ range: AddressRange) throws(ReclaimError) {
        guard pagemap >= 0, maps >= 0 else {
            let failed = pagemap < 0 ? pagemap : maps
            throw ReclaimError(.lookFailed, errno: -failed, range: range)
        }
        // Each time: a seccomp filter may have come, a descriptor may have been closed under us.
        showsTables = ptreclaim_probe_pagemap_scan(pagemap)
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
