// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM
internal import LiveSpace
public import ReclaimCore
internal import Synchronization

private let windowsInUse = Mutex<Set<UInt>>([])

/// A window of this process to play in. Tests run beside each other, so each takes its own.
public final class LivePlayground: Playable {
    public let window: AddressRange
    public let isAlone: Bool
    public let backend: Backend
    private let number: UInt
    private var space: LiveSpace
    private var file: Int32 = -1
    private var userfaultfd: Int32 = -1
    private var specials: [Int32] = []
    public let isMappedWithAttributes: Bool

    /// - Parameters:
    ///   - isAlone: in a process of its own, where nobody else changes VmPTE.
    ///   - hasHugePages: without them memory is mapped without the attribute that keeps them away:
    ///     for a process in which they are off.
    public init(_ backend: Backend, isAlone: Bool = false, hasHugePages: Bool = true) throws {
        self.isMappedWithAttributes = hasHugePages
        self.backend = backend
        // Prepares what the backend needs, its scratch spans too.
        guard LiveSpace.frees(backend) else { throw PlayError(errno: 95) }
        var space = LiveSpace(backend: backend)
        try space.openDescriptors()
        let number = windowsInUse.withLock { inUse in
            let lowest = (1...90).first { !inUse.contains($0) } ?? 91
            inUse.insert(lowest)
            return lowest
        }
        self.space = space
        self.number = number
        self.window = playWindow(number)
        self.isAlone = isAlone
        if backend == .remap {
            // The probe may have left a PMD table beside the scratch spans, which the next move
            // takes away: seen as one table too many, in about one process of 500.
            let first = window.wholeSpans[0]
            try map(first.range, marked: false)
            try space.freeTable(of: first)
            try unmap(first.range)
        }
    }

    deinit {
        _ = ptreclaim_munmap(window.start, Int(window.byteCount))
        space.closeDescriptors()
        if file >= 0 { _ = ptreclaim_close(file) }
        if userfaultfd >= 0 { _ = ptreclaim_close(userfaultfd) }
        for descriptor in specials { _ = ptreclaim_close(descriptor) }
        _ = windowsInUse.withLock { $0.remove(number) }
    }

    public var discardFreesTables: Bool { space.discardFreesTables }
    public func vmPTEByteCount() -> UInt? { space.vmPTEByteCount() }
    public var showsTables: Bool { space.showsTables }
    public func mapping(at address: UInt) throws(ReclaimError) -> Mapping {
        try space.mapping(at: address)
    }
    public func firstPopulatedPage(in range: AddressRange) throws(ReclaimError) -> UInt? {
        try space.firstPopulatedPage(in: range)
    }
    public func firstTables(
        in run: SpanRun, atMost limit: Int
    ) throws(ReclaimError) -> SpanRun? {
        try space.firstTables(in: run, atMost: limit)
    }
    public func hidesTables(at address: UInt) throws(ReclaimError) -> Bool {
        try space.hidesTables(at: address)
    }
    public func free(_ run: SpanRun, in mapping: Mapping, fenced: Bool) -> KeptReason? {
        space.free(run, in: mapping, fenced: fenced)
    }
    public func discard(_ range: AddressRange) throws(ReclaimError) { try space.discard(range) }
    public func freeTable(of span: Span) throws(ReclaimError) { try space.freeTable(of: span) }
    public func reserveEnd(after end: UInt) -> UInt { space.reserveEnd(after: end) }

    public func map(
        _ range: AddressRange, _ memory: PlayMemory, marked: Bool
    ) throws(PlayError) {
        let fixed: Int32 = 0x10
        let byteCount = Int(range.byteCount)
        switch memory {
        case .anonymous:
            let privateAnonymous: Int32 = 0x4022
            try check(ptreclaim_mmap(range.start, byteCount, 3, privateAnonymous | fixed, -1, 0))
        case .shared, .privateFile:
            let offset = Int(range.start - window.start)
            try check(
                ptreclaim_mmap(
                    range.start, byteCount, 3, (memory == .shared ? 1 : 2) | fixed,
                    try memoryFile(), offset))
        }
        // MADV_NOHUGEPAGE: a huge page has no table.
        if isMappedWithAttributes { try advise(range, 15) }
        if marked { try advise(range, 16) }  // MADV_DONTDUMP
    }
    /// A memfd as big as the window, made on first need.
    private func memoryFile() throws(PlayError) -> Int32 {
        if file < 0 {
            let made = ptreclaim_memfd(Int(window.byteCount))
            try check(Int(made))
            file = made
        }
        return file
    }
    public func unmap(_ range: AddressRange) throws(PlayError) {
        try check(ptreclaim_munmap(range.start, Int(range.byteCount)))
    }
    public func read(at address: UInt) throws(PlayError) -> UInt8 {
        // Sound: the caller has mapped the page.
        unsafe UnsafePointer<UInt8>(bitPattern: address)?.pointee ?? 0
    }
    public func write(_ byte: UInt8, at address: UInt) throws(PlayError) {
        // Sound: the caller has mapped the page.
        unsafe UnsafeMutablePointer<UInt8>(bitPattern: address)?.pointee = byte
    }
    public func guardPages(_ range: AddressRange) throws(PlayError) { try advise(range, 102) }
    public func unguardPages(_ range: AddressRange) throws(PlayError) { try advise(range, 103) }

    public func lock(_ range: AddressRange) throws(PlayError) {
        let onFault = 1
        try check(
            ptreclaim_syscall(
                Int(SYS_mlock2), Int(range.start), Int(range.byteCount), onFault, 0, 0, 0))
    }
    public func pageOut(_ range: AddressRange) throws(PlayError) {
        for _ in 0..<100 {
            try advise(range, 21)  // MADV_PAGEOUT
            if try isInSwap(range.start) { return }
        }
        throw PlayError(errno: 11)
    }
    private func isInSwap(_ address: UInt) throws(PlayError) -> Bool {
        let pagemap = ptreclaim_open_self_pagemap()
        defer { _ = ptreclaim_close(pagemap) }
        var word: UInt64 = 0
        try check(
            unsafe ptreclaim_pread(
                pagemap, &word, 8, Int(address / PageGeometry.pageByteCount * 8)))
        return word >> 62 == 1
    }
    public func writeFile(_ byte: UInt8, behind address: UInt) throws(PlayError) {
        var byte = byte
        let file = try memoryFile()
        let result = unsafe withUnsafeMutablePointer(to: &byte) { pointer in
            ptreclaim_syscall(
                Int(SYS_pwrite64), Int(file), Int(bitPattern: pointer), 1,
                Int(address - window.start), 0, 0)
        }
        try check(result)
    }
    /// The ring of a perf event that counts nothing: one page and a power of two of them.
    public func mapSpecial(_ range: AddressRange) throws(PlayError) {
        // struct perf_event_attr: PERF_TYPE_SOFTWARE, size 64, PERF_COUNT_SW_DUMMY.
        var attributes: (UInt32, UInt32, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (
            1, 64, 9, 0, 0, 0, 0, 0, 0
        )
        let descriptor = unsafe withUnsafeMutablePointer(to: &attributes) { pointer in
            ptreclaim_syscall(
                Int(SYS_perf_event_open), Int(bitPattern: pointer), 0, -1, -1, 0, 0)
        }
        try check(descriptor)
        specials.append(Int32(descriptor))
        let sharedFixed: Int32 = 0x11
        try check(
            ptreclaim_mmap(
                range.start, Int(range.byteCount), 3, sharedFixed, Int32(descriptor), 0))
    }

    public func hasGuards(_ memory: PlayMemory) -> Bool { KernelAbilities.hasGuards(memory) }
    public var hasSwap: Bool { KernelAbilities.hasSwap }
    public var hasFence: Bool { KernelAbilities.hasUserfaultfd }
    public var hasUserfaultfd: Bool { KernelAbilities.hasUserfaultfd }
    public var hasWriteProtectMarkers: Bool { KernelAbilities.hasWriteProtectMarkers }

    public func register(_ range: AddressRange, writeProtect: Bool) throws(PlayError) {
        var registration = ptreclaim_uffd_register()
        registration.range.start = UInt64(range.start)
        registration.range.len = UInt64(range.byteCount)
        registration.mode =
            writeProtect ? PTRECLAIM_UFFD_REGISTER_WP : PTRECLAIM_UFFD_REGISTER_MISSING
        try check(
            unsafe ptreclaim_ioctl(
                try ownUserfaultfd(), PTRECLAIM_UFFDIO_REGISTER, &registration))
    }
    public func writeProtectUnpopulated(_ range: AddressRange) throws(PlayError) {
        // struct uffdio_writeprotect: a range and UFFDIO_WRITEPROTECT_MODE_WP.
        var argument: (UInt64, UInt64, UInt64) = (UInt64(range.start), UInt64(range.byteCount), 1)
        let request: UInt = 0xc018_aa06
        try check(unsafe ptreclaim_ioctl(try ownUserfaultfd(), request, &argument))
    }
    private func ownUserfaultfd() throws(PlayError) -> Int32 {
        if userfaultfd < 0 {
            userfaultfd = Self.openUserfaultfd(features: Self.markerFeatures)
            if userfaultfd < 0 { userfaultfd = Self.openUserfaultfd(features: 0) }
            try check(Int(userfaultfd))
        }
        return userfaultfd
    }
    /// UFFD_FEATURE_WP_HUGETLBFS_SHMEM and UFFD_FEATURE_WP_UNPOPULATED.
    static let markerFeatures: UInt64 = 1 << 12 | 1 << 13
    static func openUserfaultfd(features: UInt64) -> Int32 {
        let flags = 0o2004000  // O_CLOEXEC | O_NONBLOCK
        let descriptor = Int32(ptreclaim_syscall(Int(SYS_userfaultfd), flags, 0, 0, 0, 0, 0))
        guard descriptor >= 0 else { return descriptor }
        var api = ptreclaim_uffd_api()
        api.api = UInt64(PTRECLAIM_UFFD_API)
        api.features = features
        let result = unsafe ptreclaim_ioctl(descriptor, PTRECLAIM_UFFDIO_API, &api)
        guard result >= 0 else {
            _ = ptreclaim_close(descriptor)
            return Int32(result)
        }
        return descriptor
    }

    public func trueState(of span: Span) throws(PlayError) -> TableState {
        do throws(ReclaimError) {
            let state = try space.look(at: span)
            // Where writes are watched a missing table looks like an empty one.
            guard state == .empty else { return state }
            var address = span.start
            while address < span.end {
                let mapping = try space.mapping(at: address)
                if mapping.kind != .hole, try space.hidesTables(at: address) {
                    return .emptyOrAbsent
                }
                address = mapping.range.end
            }
            return state
        } catch {
            throw PlayError(errno: error.errno)
        }
    }

    /// Makes `backend` what `ptReclaim` uses in this process: for a process alone.
    public static func use(_ backend: Backend) {
        unsafe ptreclaim_live_state().pointee.backend = UInt32(backend.rawValue)
    }
    /// Switches transparent huge pages off: for a process alone.
    public static func switchHugePagesOff() {
        let disable = 41  // PR_SET_THP_DISABLE
        _ = ptreclaim_syscall(Int(SYS_prctl), disable, 1, 0, 0, 0, 0)
    }
    /// Walks as `ptReclaim` does: with `.shared` on the service thread, behind a fence.
    public func call(
        _ range: AddressRange, _ access: ReclaimAccess
    ) throws(ReclaimError) -> ReclaimReport {
        try ReclaimCall.run(from: range.start, upTo: range.end, access: access)
    }

    public func advise(_ range: AddressRange, _ advice: Int32) throws(PlayError) {
        try check(ptreclaim_madvise(range.start, Int(range.byteCount), advice))
    }
    private func check(_ result: Int) throws(PlayError) {
        if (-4095...(-1)).contains(result) { throw PlayError(errno: Int32(-result)) }
    }
}
