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
    public var hasGuards: Bool { KernelAbilities.hasGuards }
    private let number: UInt
    private var space: LiveSpace
    private var file: Int32 = -1
    private var userfaultfd: Int32 = -1
    /// Without it memory has no attribute that keeps huge pages away: for a process in which they
    /// are off.
    private let hasHugePages: Bool

    /// - Parameter isAlone: in a process of its own, where nobody else changes VmPTE.
    public init(_ backend: Backend, isAlone: Bool = false, hasHugePages: Bool = true) throws {
        self.hasHugePages = hasHugePages
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
    }

    deinit {
        _ = ptreclaim_munmap(window.start, Int(window.byteCount))
        space.closeDescriptors()
        if file >= 0 { _ = ptreclaim_close(file) }
        if userfaultfd >= 0 { _ = ptreclaim_close(userfaultfd) }
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
        if hasHugePages { try advise(range, 15) }  // MADV_NOHUGEPAGE: a huge page has no table
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

    public var hasUserfaultfd: Bool { Self.canRegister }
    private static let canRegister: Bool = {
        let descriptor = ptreclaim_open_userfaultfd()
        if descriptor >= 0 { _ = ptreclaim_close(descriptor) }
        return descriptor >= 0
    }()
    public func register(_ range: AddressRange, writeProtect: Bool) throws(PlayError) {
        if userfaultfd < 0 {
            userfaultfd = ptreclaim_open_userfaultfd()
            try check(Int(userfaultfd))
        }
        var registration = ptreclaim_uffd_register()
        registration.range.start = UInt64(range.start)
        registration.range.len = UInt64(range.byteCount)
        registration.mode =
            writeProtect ? PTRECLAIM_UFFD_REGISTER_WP : PTRECLAIM_UFFD_REGISTER_MISSING
        try check(unsafe ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_REGISTER, &registration))
    }
    public func trueState(of span: Span) throws(PlayError) -> TableState {
        do { return try space.look(at: span) } catch { throw PlayError(errno: error.errno) }
    }

    public func advise(_ range: AddressRange, _ advice: Int32) throws(PlayError) {
        try check(ptreclaim_madvise(range.start, Int(range.byteCount), advice))
    }
    private func check(_ result: Int) throws(PlayError) {
        if (-4095...(-1)).contains(result) { throw PlayError(errno: Int32(-result)) }
    }
}
