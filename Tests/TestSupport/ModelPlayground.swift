// SPDX-License-Identifier: Apache-2.0

public import PageTableModel
public import ReclaimCore

/// 24 spans, twelve on each side of a 512 GiB boundary, so that there are two tables of every level,
/// in address space that nothing else is near.
public func playWindow(_ number: UInt) -> AddressRange {
    let boundary = (UInt(1) << 44) + number * PageGeometry.pudTableByteCount
    return AddressRange(
        start: boundary - 12 * PageGeometry.spanByteCount,
        end: boundary + 12 * PageGeometry.spanByteCount)
}

/// A model to play on.
public struct ModelPlayground: Playable {
    public let model: ModelSpace
    public let window = playWindow(0)
    public let isAlone = true
    public let hasUserfaultfd = true
    public let hasSwap = true
    public let isMappedWithAttributes: Bool
    public var backend: Backend { model.backend }
    public var hasWriteProtectMarkers: Bool { model.profile.hasWriteProtectUnpopulated }
    public var hasFence: Bool { model.fenceIsAvailable }

    /// - Parameter hasHugePages: whether memory has to be kept from huge pages by an attribute, as
    ///   the live playground does.
    public init(
        _ profile: KernelProfile, _ backend: Backend, hasHugePages: Bool = true,
        hasFence: Bool = true
    ) {
        self.isMappedWithAttributes = hasHugePages
        model = ModelSpace(profile: profile, backend: backend)
        model.fenceIsAvailable = hasFence
    }

    /// A playground of its own that is as `other` is now.
    public init(copyOf other: ModelPlayground) {
        isMappedWithAttributes = other.isMappedWithAttributes
        model = other.model.copied()
    }

    public func hasGuards(_ memory: PlayMemory) -> Bool { model.profile.hasGuards }

    public var discardFreesTables: Bool { model.discardFreesTables }
    public func vmPTEByteCount() -> UInt? { model.vmPTEByteCount() }
    public var showsTables: Bool { model.showsTables }
    public func mapping(at address: UInt) throws(ReclaimError) -> Mapping {
        model.mapping(at: address)
    }
    public func firstPopulatedPage(in range: AddressRange) throws(ReclaimError) -> UInt? {
        model.firstPopulatedPage(in: range)
    }
    public func firstTables(
        in run: SpanRun, atMost limit: Int
    ) throws(ReclaimError) -> SpanRun? {
        model.firstTables(in: run, atMost: limit)
    }
    public func hidesTables(at address: UInt) throws(ReclaimError) -> Bool {
        model.hidesTables(at: address)
    }
    public func free(_ run: SpanRun, in mapping: Mapping, fenced: Bool) -> KeptReason? {
        model.free(run, in: mapping, fenced: fenced)
    }
    public func discard(_ range: AddressRange) throws(ReclaimError) { try model.discard(range) }
    public func freeTable(of span: Span) throws(ReclaimError) { try model.freeTable(of: span) }
    public func reserveEnd(after end: UInt) -> UInt { model.reserveEnd(after: end) }

    public func map(
        _ range: AddressRange, _ memory: PlayMemory, marked: Bool
    ) throws(PlayError) {
        let kind: VMA.Kind =
            switch memory {
            case .anonymous: .anonymousPrivate
            case .shared: .shared(file: Self.file)
            case .privateFile: .privateFile(file: Self.file)
            }
        try play { () throws(ModelError) in
            // One step after the other, as the live playground: each may merge VMAs.
            try model.mmap(range, kind: kind)
            if isMappedWithAttributes { try model.setAttributes(.noHugePage, true, of: range) }
            if marked { try model.setAttributes(.dontDump, true, of: range) }
        }
    }
    private static let file = 1
    public func mapSpecial(_ range: AddressRange) throws(PlayError) {
        try play { () throws(ModelError) in try model.mmap(range, kind: .special) }
    }
    public func unmap(_ range: AddressRange) throws(PlayError) {
        try play { () throws(ModelError) in try model.munmap(range) }
    }
    public func read(at address: UInt) throws(PlayError) -> UInt8 {
        try play { () throws(ModelError) in try model.read(at: address) }
    }
    public func write(_ byte: UInt8, at address: UInt) throws(PlayError) {
        try play { () throws(ModelError) in try model.write(byte, at: address) }
    }
    public func writeFile(_ byte: UInt8, behind address: UInt) throws(PlayError) {
        model.writeFile(Self.file, byte, at: address)
    }
    public func lock(_ range: AddressRange) throws(PlayError) {
        try play { () throws(ModelError) in try model.setAttributes(.locked, true, of: range) }
    }
    public func pageOut(_ range: AddressRange) throws(PlayError) { model.swapOut(range) }
    public func guardPages(_ range: AddressRange) throws(PlayError) {
        try play { () throws(ModelError) in try model.installGuards(range) }
    }
    public func unguardPages(_ range: AddressRange) throws(PlayError) {
        try play { () throws(ModelError) in try model.removeGuards(range) }
    }
    public func register(_ range: AddressRange, writeProtect: Bool) throws(PlayError) {
        try play { () throws(ModelError) in
            try model.register(range, writeProtect: writeProtect)
        }
    }
    public func writeProtectUnpopulated(_ range: AddressRange) throws(PlayError) {
        try play { () throws(ModelError) in try model.writeProtectUnpopulated(range) }
    }
    public func trueState(of span: Span) throws(PlayError) -> TableState {
        guard model.tables.hasPTETable(at: span.start) else { return .absent }
        return model.tables.populatedCount(inTableAt: span.start) == 0 ? .empty : .populated
    }

    private func play<Result>(_ body: () throws(ModelError) -> Result) throws(PlayError) -> Result {
        do { return try body() } catch { throw PlayError(errno: error.errno) }
    }
}
