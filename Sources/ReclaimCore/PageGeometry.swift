// SPDX-License-Identifier: Apache-2.0

/// Sizes of the x86-64 page tables, in bytes unless the name says otherwise.
public enum PageGeometry {
    /// One page, and one page-table page of any level.
    public static let pageByteCount: UInt = 4096
    /// What one PTE table maps: 512 pages, 2 MiB. The kernel's PMD_SIZE.
    public static let spanByteCount: UInt = 512 * pageByteCount
    /// What one PMD table maps: 1 GiB. The kernel's PUD_SIZE.
    public static let pmdTableByteCount: UInt = 512 * spanByteCount
    /// What one PUD table maps: 512 GiB. The kernel's P4D_SIZE.
    public static let pudTableByteCount: UInt = 512 * pmdTableByteCount
    /// Entries in a table of any level. The kernel's PTRS_PER_PTE.
    public static let entriesPerTable = 512
    /// User addresses end here with four-level tables: one past the last, 2^47. Above it (five
    /// levels) nothing is touched. The kernel's DEFAULT_MAP_WINDOW, which ends one page below.
    public static let userSpaceEnd: UInt = 1 << 47
}

/// The 2 MiB that one PTE table maps, aligned to 2 MiB.
public struct Span: Equatable, Comparable, Sendable {
    /// First address; a multiple of `PageGeometry.spanByteCount`.
    public let start: UInt

    /// The span whose table maps `address`, which needs no alignment.
    public init(containing address: UInt) {
        self.start = address & ~(PageGeometry.spanByteCount - 1)
    }

    /// One past the last address. The corresponding kernel function is `pmd_addr_end`.
    public var end: UInt { start &+ PageGeometry.spanByteCount }

    /// All addresses of the span, `[start, end)`: 2 MiB.
    public var range: AddressRange { AddressRange(start: start, end: end) }

    /// By address: the lower span comes first.
    public static func < (lower: Span, upper: Span) -> Bool { lower.start < upper.start }
}

/// Addresses `[start, end)` in bytes, half-open. Of no alignment by itself.
public struct AddressRange: Equatable, Sendable {
    /// First address.
    public var start: UInt
    /// One past the last address; `start` where the range is empty.
    public var end: UInt

    /// The addresses from `start` up to `end`, in bytes.
    ///
    /// - Precondition: `start <= end`.
    public init(start: UInt, end: UInt) {
        precondition(start <= end)
        self.start = start
        self.end = end
    }

    /// `[start, start + byteCount)` in bytes, or nil where it overflows or ends above
    /// `PageGeometry.userSpaceEnd`. The corresponding kernel function is `access_ok`.
    public init?(start: UInt, byteCount: UInt) {
        let (end, overflow) = start.addingReportingOverflow(byteCount)
        guard !overflow, end <= PageGeometry.userSpaceEnd else { return nil }
        self.start = start
        self.end = end
    }

    /// Length in bytes.
    public var byteCount: UInt { end &- start }
    /// Whether there is no address in it.
    public var isEmpty: Bool { start == end }

    /// Whether all of `other` lies inside; an empty `other` does where its start is not outside.
    public func contains(_ other: AddressRange) -> Bool {
        start <= other.start && other.end <= end
    }

    /// The spans that lie wholly inside, aligned inward.
    ///
    ///     | partial |  span  |  span  | partial |   two spans
    public var wholeSpans: SpanRun {
        let mask = PageGeometry.spanByteCount - 1
        let first = (start &+ mask) & ~mask
        let last = end & ~mask
        return first < last ? SpanRun(start: first, end: last) : SpanRun(start: first, end: first)
    }
}

/// Neighbouring spans, lowest first: addresses `[start, end)` in whole spans.
public struct SpanRun: Equatable, Sendable {
    /// First address; a multiple of `PageGeometry.spanByteCount`.
    public let start: UInt
    /// One past the last address; a multiple of `PageGeometry.spanByteCount`.
    public let end: UInt

    /// - Precondition: both are multiples of `PageGeometry.spanByteCount`, `start <= end`.
    init(start: UInt, end: UInt) {
        self.start = start
        self.end = end
    }

    /// The run of one span.
    public init(_ span: Span) {
        self.init(start: span.start, end: span.end)
    }

    /// From `start`, a multiple of `PageGeometry.spanByteCount`, to the end of this run.
    public func suffix(from start: UInt) -> SpanRun { SpanRun(start: start, end: end) }

    /// From the start of this run to `end`, a multiple of `PageGeometry.spanByteCount`.
    public func prefix(upTo end: UInt) -> SpanRun { SpanRun(start: start, end: end) }

    /// The first spans of this run, at most `count`.
    public func prefix(_ count: Int) -> SpanRun {
        self.count <= count
            ? self : prefix(upTo: start &+ UInt(count) &* PageGeometry.spanByteCount)
    }

    /// Whether there is no span in it.
    public var isEmpty: Bool { start == end }
    /// All addresses of the run, `[start, end)`.
    public var range: AddressRange { AddressRange(start: start, end: end) }

    /// Length in spans, and so in PTE tables.
    public var count: Int { Int((end &- start) / PageGeometry.spanByteCount) }

    /// The span that has `index` spans of the run below it. From 0 up to `count`, unchecked.
    public subscript(index: Int) -> Span {
        Span(containing: start &+ UInt(index) &* PageGeometry.spanByteCount)
    }
}

// Hashing pulls a source of randomness into the preload library.
#if !SHIM_SINGLE_MODULE
    extension Span: Hashable {}
    extension AddressRange: Hashable {}
#endif
