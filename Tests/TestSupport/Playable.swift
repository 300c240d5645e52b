// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

/// An address space in which a test may do what programs do, inside a window that is the test's
/// alone: the running process or a model.
public protocol Playable: AddressSpace {
    /// Whole spans, nothing mapped at first, a boundary between PUD tables in the middle.
    var window: AddressRange { get }
    /// Whether nobody else changes this address space, so that VmPTE can be compared to the byte.
    var isAlone: Bool { get }
    /// How tables are freed.
    var backend: Backend { get }
    /// Whether memory is mapped with an attribute that keeps huge pages away.
    var isMappedWithAttributes: Bool { get }
    /// Whether a fence is to be had.
    var hasFence: Bool { get }

    /// Whether `guardPages` works on this memory: Linux 6.13 for anonymous memory, 6.15 for files.
    func hasGuards(_ memory: PlayMemory) -> Bool
    /// Whether memory can be registered with a userfaultfd here.
    var hasUserfaultfd: Bool { get }
    /// Whether `writeProtectUnpopulated` works, Linux 6.4.
    var hasWriteProtectMarkers: Bool { get }
    /// Whether `pageOut` has somewhere to put pages.
    var hasSwap: Bool { get }

    /// Maps memory, and replaces what was there.
    /// - Parameter marked: with an attribute that keeps it from merging with unmarked neighbours.
    func map(_ range: AddressRange, _ memory: PlayMemory, marked: Bool) throws(PlayError)
    /// Maps something that nobody reclaims from.
    func mapSpecial(_ range: AddressRange) throws(PlayError)
    func unmap(_ range: AddressRange) throws(PlayError)
    /// - Precondition: of both, a page that is mapped and not guarded.
    func read(at address: UInt) throws(PlayError) -> UInt8
    func write(_ byte: UInt8, at address: UInt) throws(PlayError)
    /// Writes into the file behind `.shared` and `.privateFile` memory, past all mappings.
    func writeFile(_ byte: UInt8, behind address: UInt) throws(PlayError)
    func guardPages(_ range: AddressRange) throws(PlayError)
    func unguardPages(_ range: AddressRange) throws(PlayError)
    /// Keeps what is present, and what will be, from leaving memory.
    func lock(_ range: AddressRange) throws(PlayError)
    /// Moves the pages of `range` to swap.
    func pageOut(_ range: AddressRange) throws(PlayError)
    /// Registers memory with a userfaultfd of the test's own.
    func register(_ range: AddressRange, writeProtect: Bool) throws(PlayError)
    /// Protects registered memory from being written; where nothing is mapped by markers.
    func writeProtectUnpopulated(_ range: AddressRange) throws(PlayError)
    /// The state of a table, for the test's own eyes: never wrong, whatever `look` says, and
    /// `.emptyOrAbsent` where nobody can tell these two.
    func trueState(of span: Span) throws(PlayError) -> TableState
}

/// Kinds of memory to play with.
public enum PlayMemory: String, CaseIterable, Codable, Sendable {
    case anonymous
    /// A shared mapping of a memfd.
    case shared
    /// A private mapping of the same memfd.
    case privateFile
}

/// What a played operation fails with: the kernel's errno, positive.
public struct PlayError: Error, Equatable, Sendable {
    public let errno: Int32
    public init(errno: Int32) { self.errno = errno }
}

extension Playable {
    /// Maps private anonymous memory.
    public func map(_ range: AddressRange, marked: Bool) throws(PlayError) {
        try map(range, .anonymous, marked: marked)
    }

    public func states() throws -> [TableState] {
        var states: [TableState] = []
        let spans = window.wholeSpans
        for index in 0..<spans.count { states.append(try trueState(of: spans[index])) }
        return states
    }

    /// The range from one page of the window to another: half-open, in pages.
    public func pages(_ range: Range<Int>) -> AddressRange {
        AddressRange(
            start: window.start + UInt(range.lowerBound) * PageGeometry.pageByteCount,
            end: window.start + UInt(range.upperBound) * PageGeometry.pageByteCount)
    }

    public func address(ofPage page: Int) -> UInt {
        window.start + UInt(page) * PageGeometry.pageByteCount
    }

    public func span(_ index: Int) -> Span { window.wholeSpans[index] }

    /// Purges as allocators do, in pieces of 64 pages: no call covers a span.
    public func discardInPieces(_ range: Range<Int>) throws {
        for first in stride(from: range.lowerBound, to: range.upperBound, by: 64) {
            try discard(pages(first..<min(first + 64, range.upperBound)))
        }
    }
}

extension [TableState] {
    /// One character a span: `.` no table, `E` empty, `P` populated, `?` one of the first two.
    public var picture: String {
        String(
            map { state in
                switch state {
                case .absent: "."
                case .empty: "E"
                case .populated: "P"
                case .emptyOrAbsent: "?"
                }
            })
    }

    /// Whether these states are those of `picture`, as far as they can be told.
    public func agree(with picture: String) -> Bool {
        self.picture.count == picture.count
            && zip(self.picture, picture).allSatisfy { found, expected in
                found == expected || expected == "*" || found == "?" && expected != "P"
            }
    }
}
