// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

/// An address space in which a test may do what programs do, inside a window that is the test's
/// alone: the running process or a model.
public protocol Playable: AddressSpace {
    /// Whole spans, nothing mapped at first, a boundary between PMD tables in the middle.
    var window: AddressRange { get }
    /// Whether nobody else changes this address space, so that VmPTE can be compared to the byte.
    var isAlone: Bool { get }

    /// Whether `guardPages` works, Linux 6.13.
    var hasGuards: Bool { get }

    /// Whether memory can be registered with a userfaultfd here.
    var hasUserfaultfd: Bool { get }

    /// Maps memory, and replaces what was there.
    /// - Parameter marked: with an attribute that keeps it from merging with unmarked neighbours.
    func map(_ range: AddressRange, _ memory: PlayMemory, marked: Bool) throws(PlayError)
    func unmap(_ range: AddressRange) throws(PlayError)
    /// - Precondition: of both, a page that is mapped and not guarded.
    func read(at address: UInt) throws(PlayError) -> UInt8
    func write(_ byte: UInt8, at address: UInt) throws(PlayError)
    func guardPages(_ range: AddressRange) throws(PlayError)
    func unguardPages(_ range: AddressRange) throws(PlayError)
    /// Registers memory with a userfaultfd of the test's own.
    func register(_ range: AddressRange, writeProtect: Bool) throws(PlayError)
    /// The state of a table, for the test's own eyes: never wrong, whatever `look` says.
    func trueState(of span: Span) throws(PlayError) -> TableState
}

/// Kinds of memory to play with.
public enum PlayMemory: Equatable, Sendable {
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

/// A law that did not hold.
public struct LawViolation: CustomStringConvertible, Sendable {
    public let law: String
    public let detail: String
    public var description: String { "\(law): \(detail)" }
}

/// The laws of a walk over owned memory, for any space whose backend frees tables.
///
/// Every scenario is checked by the same laws; `walk` is what is under test.
public struct LawSuite<Space: Playable> {
    public typealias Walk = (Space, AddressRange) throws -> ReclaimReport

    private let makeSpace: () throws -> Space
    private let walk: Walk
    private static var pagesPerSpan: Int { PageGeometry.entriesPerTable }

    public init(
        makeSpace: @escaping () throws -> Space,
        walk: @escaping Walk = { space, range in
            try ReclaimWalk(space: space).reclaim(range, access: .owned)
        }
    ) {
        self.makeSpace = makeSpace
        self.walk = walk
    }

    /// Runs every scenario, each in a fresh space.
    public func violations() throws -> [LawViolation] {
        var violations: [LawViolation] = []
        for scenario in Self.scenarios {
            let space = try makeSpace()
            var written: [UInt: UInt8] = [:]
            func put(_ byte: UInt8, _ page: Int) throws {
                try space.write(byte, at: space.address(ofPage: page))
                written[space.address(ofPage: page)] = byte
            }
            try scenario.prepare(space, put)
            let range = space.pages(scenario.range)
            violations += try check(scenario.name, space, range, written, scenario.expected)
            let spans = space.window
            try space.unmap(spans)
        }
        return violations
    }

    /// Walks `range` twice and names each law that does not hold.
    private func check(
        _ name: String, _ space: Space, _ range: AddressRange, _ written: [UInt: UInt8],
        _ expected: [KeptReason: Int]
    ) throws -> [LawViolation] {
        var violations: [LawViolation] = []
        func expect(_ law: String, _ holds: Bool, _ detail: @autoclosure () -> String) {
            if !holds { violations.append(LawViolation(law: law, detail: "\(name): \(detail())")) }
        }

        let before = try space.states()
        var after = before
        var freed = 0
        for (index, state) in before.enumerated() {
            let span = space.span(index)
            guard state == .empty, range.contains(span.range),
                try space.eligibility(of: span) == nil
            else { continue }
            after[index] = .absent
            freed += 1
        }

        let report = try walk(space, range)
        let found = try space.states()
        expect("frees exactly the all-none tables", found == after, "\(before) became \(found)")
        for (address, byte) in written {
            let now = try space.read(at: address)
            expect("never changes a readable byte", now == byte, "\(address): \(byte), now \(now)")
        }

        let whole = range.wholeSpans.count
        expect(
            "examines each whole span once", report.tablesExamined == whole,
            "\(report.tablesExamined) of \(whole)")
        expect(
            "counts what it freed", report.tablesFreed == freed,
            "\(report.tablesFreed), not \(freed)")
        let kept = KeptReason.allCases.filter { $0 != .partial }.reduce(0) {
            $0 + report.kept[$1]
        }
        expect(
            "the report adds up", report.tablesExamined == report.tablesFreed + kept,
            "\(report.tablesExamined) != \(report.tablesFreed) + \(kept)")
        for reason in KeptReason.allCases {
            expect(
                "kept for the right reason", report.kept[reason] == expected[reason, default: 0],
                "\(reason): \(report.kept[reason])")
        }
        if space.isAlone, let start = report.vmPTEBefore, let end = report.vmPTEAfter {
            expect(
                "VmPTE falls by one page a table",
                start == end + UInt(freed) * PageGeometry.pageByteCount, "\(start) to \(end)")
        }

        let again = try walk(space, range)
        expect("a second walk frees nothing", again.tablesFreed == 0, "\(again.tablesFreed)")
        expect(
            "a second walk finds what was freed absent",
            again.kept[.absent] == report.kept[.absent] + freed, "\(again.kept[.absent])")
        let last = try space.states()
        expect("a second walk changes nothing", last == found, "\(found) became \(last)")
        return violations
    }
}

// MARK: - Scenarios

extension LawSuite {
    private struct Scenario {
        let name: String
        /// Pages of the window.
        let range: Range<Int>
        let expected: [KeptReason: Int]
        let prepare: (Space, (UInt8, Int) throws -> Void) throws -> Void
    }

    /// Writes the first and the last page of each span in `spans`, then purges them.
    private static func empty(
        _ spans: Range<Int>, _ space: Space, _ put: (UInt8, Int) throws -> Void
    ) throws {
        for span in spans {
            let first = span * pagesPerSpan
            try space.write(1, at: space.address(ofPage: first))
            try space.write(1, at: space.address(ofPage: first + pagesPerSpan - 1))
            try space.discardInPieces(first..<first + pagesPerSpan)
        }
    }

    private static var scenarios: [Scenario] {
        let span = pagesPerSpan
        return [
            Scenario(name: "nothing mapped", range: 0..<4 * span, expected: [.unmapped: 4]) {
                _, _ in
            },
            Scenario(name: "never touched", range: 0..<4 * span, expected: [.absent: 4]) {
                space, _ in try space.map(space.pages(0..<4 * span), marked: false)
            },
            Scenario(name: "all empty", range: 0..<4 * span, expected: [:]) { space, put in
                try space.map(space.pages(0..<4 * span), marked: false)
                try empty(0..<4, space, put)
            },
            // | partial | whole | whole | partial |
            Scenario(name: "partial ends", range: 7..<3 * span + 1, expected: [.partial: 2]) {
                space, put in
                try space.map(space.pages(0..<4 * span), marked: false)
                try empty(0..<4, space, put)
            },
            Scenario(name: "within one span", range: 5..<9, expected: [.partial: 1]) {
                space, put in
                try space.map(space.pages(0..<span), marked: false)
                try empty(0..<1, space, put)
            },
            Scenario(
                name: "a page, a zero page, a guard", range: 0..<5 * span,
                expected: [.populated: 3]
            ) { space, put in
                try space.map(space.pages(0..<5 * span), marked: false)
                try empty(0..<5, space, put)
                try put(0xA5, span - 1)
                _ = try space.read(at: space.address(ofPage: 2 * span))
                if space.hasGuards {
                    try space.guardPages(space.pages(4 * span + 3..<4 * span + 4))
                } else {
                    try put(0x5A, 4 * span + 3)
                }
            },
            //     |  VMA                | hole |  VMA          |
            // |  span 0  |  span 1  |  span 2  |  span 3  |
            Scenario(name: "a hole", range: 0..<4 * span, expected: [.crossesVMA: 1]) {
                space, put in
                try space.map(space.pages(0..<4 * span), marked: false)
                try empty(0..<4, space, put)
                try space.unmap(space.pages(2 * span + 100..<2 * span + 200))
            },
            // |  VMA           ||  marked VMA    |
            // |  span 0  |  span 1  |  span 2  |
            Scenario(name: "a VMA boundary", range: 0..<3 * span, expected: [.crossesVMA: 1]) {
                space, put in
                try space.map(space.pages(0..<span + 17), marked: false)
                try space.map(space.pages(span + 17..<3 * span), marked: true)
                try empty(0..<3, space, put)
            },
            Scenario(name: "a boundary between spans", range: 0..<2 * span, expected: [:]) {
                space, put in
                try space.map(space.pages(0..<span), marked: false)
                try space.map(space.pages(span..<2 * span), marked: true)
                try empty(0..<2, space, put)
            },
            Scenario(
                name: "every other span live, over a PMD table's end", range: 0..<24 * span,
                expected: [.populated: 12]
            ) { space, put in
                try space.map(space.pages(0..<24 * span), marked: false)
                try empty(0..<24, space, put)
                for index in stride(from: 0, to: 24, by: 2) {
                    try put(UInt8(index + 1), index * span + index)
                }
            },
        ]
    }
}

// MARK: - Randomness

/// Random numbers that a printed seed brings back.
public struct SplitMix64: RandomNumberGenerator, Sendable {
    private var state: UInt64

    public init(seed: UInt64) { self.state = seed }

    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
