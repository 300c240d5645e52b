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

/// A law that did not hold.
public struct LawViolation: CustomStringConvertible, Sendable {
    public let law: String
    public let detail: String
    /// Whether VmPTE told, which counts every table of the process: a heap that grows or shrinks
    /// at this moment shows too.
    fileprivate var isToldByVmPTE = false
    public var description: String { "\(law): \(detail)" }
}

/// What came of a run of a suite.
public struct LawRun: Sendable {
    public fileprivate(set) var violations: [LawViolation] = []
    /// Scenarios that were played.
    public fileprivate(set) var played: [String] = []
    /// Scenarios that this space cannot play, each with the reason.
    public fileprivate(set) var skipped: [String] = []

    /// The violations, a line each; empty where there is none.
    public var text: String { violations.map(\.description).joined(separator: "\n") }
}

/// The laws of a walk, for any space whose backend frees tables, one kind of memory and one
/// access.
///
/// Every scenario is checked by the same laws. What is expected follows from the scenario and
/// the rules of the call, written here once more: nothing of the code under test is asked.
public struct LawSuite<Space: Playable> {
    public typealias Walk = (Space, AddressRange, ReclaimAccess) throws -> ReclaimReport

    private let memory: PlayMemory
    private let access: ReclaimAccess
    private let makeSpace: () throws -> Space
    private let walk: Walk

    public init(
        _ memory: PlayMemory, _ access: ReclaimAccess, makeSpace: @escaping () throws -> Space,
        walk: @escaping Walk = { space, range, access in
            try ReclaimWalk(space: space).reclaim(range, access: access)
        }
    ) {
        self.memory = memory
        self.access = access
        self.makeSpace = makeSpace
        self.walk = walk
    }

    /// Runs every scenario, or those that are named, each in a fresh space.
    public func run(only names: [String]? = nil) throws -> LawRun {
        var run = LawRun()
        let scenarios = Scenario.all(memory).filter { names?.contains($0.name) ?? true }
        precondition(names.map { $0.count == scenarios.count } ?? true, "no such scenario")
        for scenario in scenarios {
            if let reason = reasonToSkip(scenario, try makeSpace()) {
                run.skipped.append("\(scenario.name): \(reason)")
                continue
            }
            run.played.append(scenario.name)
            // What only VmPTE tells must be wrong each time.
            var violations: [LawViolation] = []
            for _ in 0..<3 {
                violations = try play(scenario)
                if violations.contains(where: { !$0.isToldByVmPTE }) || violations.isEmpty { break }
            }
            run.violations += violations
        }
        return run
    }

    public func violations() throws -> [LawViolation] { try run().violations }

    /// Why the space cannot play the scenario of this name; nil: it can.
    public func reasonToSkip(_ name: String) throws -> String? {
        let space = try makeSpace()
        return Scenario.all(memory).first { $0.name == name }.flatMap { reasonToSkip($0, space) }
    }

    private func play(_ scenario: Scenario) throws -> [LawViolation] {
        let space = try makeSpace()
        do {
            let contents = try prepare(scenario, space)
            let violations = try check(scenario, space, contents)
            try space.unmap(space.window)
            return violations
        } catch let error as PlayError {
            return [
                LawViolation(
                    law: "the scenario can be played",
                    detail: "\(scenario.name): errno \(error.errno)")
            ]
        }
    }

    private func reasonToSkip(_ scenario: Scenario, _ space: Space) -> String? {
        for keeper in scenario.keepers {
            switch keeper.kind {
            case .guarded where !space.hasGuards(memory): return "no guard pages here"
            case .marker where !space.hasWriteProtectMarkers: return "no uffd-wp markers here"
            case .swap where memory == .shared: return "a shared page in swap leaves no entry"
            case .swap where !space.hasSwap: return "no swap here"
            case .page, .zeroPage, .guarded, .marker, .swap: break
            }
        }
        if !scenario.registered.isEmpty, !space.hasUserfaultfd { return "no userfaultfd here" }
        // Freed is told by VmPTE, which threads of other tests change.
        if scenario.hidesTables, !space.isAlone { return "needs a process alone" }
        if !space.showsTables, !space.isAlone { return "needs a process alone" }
        return nil
    }
}

// MARK: - Scenarios

/// A layout of memory, what is done to it, and the range that is walked. Numbers are pages of the
/// window, but for `emptied`: spans.
struct Scenario {
    struct Piece {
        let pages: Range<Int>
        /// Nil: special.
        let memory: PlayMemory?
        var marked = false
        var locked = false
    }
    struct Keeper {
        enum Kind {
            case page, zeroPage, guarded, marker, swap
        }
        let kind: Kind
        let page: Int
    }
    enum Registration {
        case missing, writeProtect
    }

    let name: String
    let range: Range<Int>
    /// VMAs, lowest first.
    var pieces: [Piece]
    /// Whose pages were written, first and last, and purged in pieces.
    var emptied: [Int]
    var keepers: [Keeper] = []
    /// By the index of a piece.
    var registered: [Int: Registration] = [:]

    /// Whether looks cannot tell an empty table from a missing one somewhere.
    var hidesTables: Bool { registered.values.contains(.writeProtect) }

    private static let span = PageGeometry.entriesPerTable

    private init(
        _ name: String, _ range: Range<Int>, _ pieces: [Piece], emptied: [Int],
        keepers: [Keeper] = [], registered: [Int: Registration] = [:]
    ) {
        self.name = name
        self.range = range
        self.pieces = pieces
        self.emptied = emptied
        self.keepers = keepers
        self.registered = registered
    }

    static func all(_ memory: PlayMemory) -> [Scenario] {
        func piece(_ pages: Range<Int>, marked: Bool = false) -> Piece {
            Piece(pages: pages, memory: memory, marked: marked)
        }
        let four = [piece(0..<4 * span)]
        /// Span 1 of four empty ones is kept by its last entry, span 2 by its first.
        func kept(by kind: Keeper.Kind, _ name: String) -> Scenario {
            Scenario(
                name, 0..<4 * span, four, emptied: [0, 1, 2, 3],
                keepers: [
                    Keeper(kind: kind, page: 2 * span - 1), Keeper(kind: kind, page: 2 * span),
                ])
        }
        let other: PlayMemory = memory == .anonymous ? .shared : .anonymous
        return [
            Scenario("nothing mapped", 0..<4 * span, [], emptied: []),
            Scenario("never touched", 0..<4 * span, four, emptied: []),
            Scenario("all empty", 0..<4 * span, four, emptied: [0, 1, 2, 3]),
            // |   E   |   .   |   .   |   E   |   .   |
            Scenario(
                "tables here and there", 0..<5 * span, [piece(0..<5 * span)], emptied: [0, 3]),
            // | partial | whole | whole | partial |
            Scenario("partial ends", 7..<3 * span + 1, four, emptied: [0, 1, 2, 3]),
            Scenario("within one span", 5..<9, four, emptied: [0]),
            kept(by: .page, "pages"),
            kept(by: .zeroPage, "pages that were only read"),
            kept(by: .guarded, "guard markers"),
            kept(by: .swap, "swap entries"),
            //     |  VMA                | hole |  VMA          |
            // |  span 0  |  span 1  |  span 2  |  span 3  |
            Scenario(
                "a hole in a span", 0..<4 * span,
                [piece(0..<2 * span + 100), piece(2 * span + 200..<4 * span)],
                emptied: [0, 1, 2, 3]),
            // |  VMA     |        hole         |   VMA    |
            // |  span 0  |  span 1  |  span 2  |  span 3  |
            Scenario(
                "a hole of two spans", 0..<4 * span,
                [piece(0..<span), piece(3 * span..<4 * span)], emptied: [0, 3]),
            // | hole | VMA                              | hole |
            // |  span 0  |  span 1  |  span 2  |  span 3   |
            Scenario(
                "a VMA that ends within spans", 0..<4 * span, [piece(300..<4 * span - 300)],
                emptied: [0, 1, 2, 3]),
            // |  VMA           ||  marked VMA    |
            // |  span 0  |  span 1  |  span 2  |
            Scenario(
                "a VMA boundary in a span", 0..<3 * span,
                [piece(0..<span + 17), piece(span + 17..<3 * span, marked: true)],
                emptied: [0, 1, 2]),
            // |  VMA     ||  marked VMA  |
            // |  span 0  ||   span 1     |
            Scenario(
                "a VMA boundary between spans", 0..<2 * span,
                [piece(0..<span), piece(span..<2 * span, marked: true)], emptied: [0, 1]),
            // |  anonymous  |  shared  |  private file  |  anonymous   |
            // |   E   |  P  |   E   |  |   E   |   P    |   E   |   E  |
            Scenario(
                "neighbours of all kinds", 0..<8 * span,
                [
                    Piece(pages: 0..<2 * span, memory: .anonymous),
                    Piece(pages: 2 * span..<4 * span, memory: .shared),
                    Piece(pages: 4 * span..<6 * span, memory: .privateFile),
                    Piece(pages: 6 * span..<8 * span, memory: .anonymous),
                ], emptied: [0, 1, 2, 3, 4, 5, 6, 7],
                keepers: [
                    Keeper(kind: .page, page: span + 9), Keeper(kind: .page, page: 5 * span + 9),
                ]),
            // |  VMA        || other kind of memory |
            // |  span 0  |  span 1  |  span 2  |
            Scenario(
                "two kinds of memory in a span", 0..<3 * span,
                [piece(0..<span + 99), Piece(pages: span + 99..<3 * span, memory: other)],
                emptied: [0, 1, 2]),
            // |  VMA  | special                |  VMA                |
            // |  span 0  |  span 1  |  span 2  |  span 3  |  span 4  |
            Scenario(
                "special memory", 0..<5 * span,
                [
                    piece(0..<span - 1), Piece(pages: span - 1..<3 * span, memory: nil),
                    piece(3 * span..<5 * span),
                ], emptied: [0, 4]),
            Scenario(
                "locked memory", 0..<4 * span,
                [Piece(pages: 0..<4 * span, memory: memory, locked: true)],
                emptied: [0, 1, 2, 3], keepers: [Keeper(kind: .page, page: span)]),
            // |  VMA              ||  registered        |
            // |  span 0  | span 1 ||  span 2  | span 3  |
            Scenario(
                "watched for missing pages", 0..<4 * span,
                [piece(0..<2 * span), piece(2 * span..<4 * span)], emptied: [0, 1, 2, 3],
                registered: [1: .missing]),
            // Nothing looks missing where everything is written: freed is told by VmPTE.
            // |  VMA              ||  registered            |
            // |  span 0  | span 1 ||  span 2 E  | span 3 .  |
            Scenario(
                "watched for writes", 0..<4 * span,
                [piece(0..<2 * span), piece(2 * span..<4 * span)], emptied: [0, 1, 2],
                registered: [1: .writeProtect]),
            Scenario(
                "watched for writes, with markers", 0..<4 * span, four, emptied: [0, 1, 2, 3],
                keepers: [
                    Keeper(kind: .marker, page: 2 * span - 1),
                    Keeper(kind: .marker, page: 2 * span),
                ], registered: [0: .writeProtect]),
            Scenario(
                "every other span live, over the end of a PUD table", 0..<24 * span,
                [piece(0..<24 * span)], emptied: Array(0..<24),
                keepers: stride(from: 0, to: 24, by: 2).map {
                    Keeper(kind: .page, page: $0 * span + $0)
                }),
        ]
    }
}

extension LawSuite {
    /// Plays a scenario up to the walk. Returns what every byte that it touched must read as, by
    /// page.
    private func prepare(_ scenario: Scenario, _ space: Space) throws -> [Int: UInt8] {
        let span = PageGeometry.entriesPerTable
        var contents: [Int: UInt8] = [:]
        for piece in scenario.pieces {
            let pages = space.pages(piece.pages)
            if let memory = piece.memory {
                try space.map(pages, memory, marked: piece.marked)
            } else {
                try space.mapSpecial(pages)
            }
        }
        for index in scenario.emptied {
            let pages = index * span..<(index + 1) * span
            for piece in scenario.pieces {
                let part = pages.clamped(to: piece.pages)
                guard !part.isEmpty, let memory = piece.memory else { continue }
                for page in [part.lowerBound, part.upperBound - 1] {
                    let address = space.address(ofPage: page)
                    if memory == .privateFile { try space.writeFile(0x77, behind: address) }
                    try space.write(0x11, at: address)
                    contents[page] =
                        switch memory {
                        case .anonymous: 0
                        case .shared: 0x11
                        case .privateFile: 0x77
                        }
                }
                try space.discardInPieces(part)
            }
        }
        for (index, registration) in scenario.registered {
            try space.register(
                space.pages(scenario.pieces[index].pages),
                writeProtect: registration == .writeProtect)
        }
        for piece in scenario.pieces where piece.locked { try space.lock(space.pages(piece.pages)) }
        for (number, keeper) in scenario.keepers.enumerated() {
            let address = space.address(ofPage: keeper.page)
            let page = space.pages(keeper.page..<keeper.page + 1)
            switch keeper.kind {
            case .page, .swap:
                let byte = UInt8(0xA0 + number)
                try space.write(byte, at: address)
                contents[keeper.page] = byte
                if keeper.kind == .swap { try space.pageOut(page) }
            case .zeroPage:
                contents[keeper.page] = try space.read(at: address)
            case .guarded:
                try space.guardPages(page)
                contents[keeper.page] = nil
            case .marker:
                try space.writeProtectUnpopulated(page)
            }
        }
        // A read at a fence of the test's own would wait for an answer.
        for (index, registration) in scenario.registered where registration == .missing {
            contents = contents.filter { !scenario.pieces[index].pages.contains($0.key) }
        }
        return contents
    }

    /// What a scenario must come to.
    private struct Expectation {
        /// Pictures of the states of all spans of the window; `*`: not looked at.
        var before = ""
        var after = ""
        var freed = 0
        var kept: [KeptReason: Int] = [:]
        /// Among the freed: spans that looks do not tell from those without a table.
        var hidden = 0
        /// Tables that go, of all levels.
        var tables = 0
    }

    /// The rules of the call, for one scenario.
    private func expectation(_ scenario: Scenario, _ space: Space) -> Expectation {
        let span = PageGeometry.entriesPerTable
        var expectation = Expectation()
        var goes: [Bool] = []
        var exists: [Bool] = []
        for index in 0..<space.window.wholeSpans.count {
            let pages = index * span..<(index + 1) * span
            let piece = scenario.pieces.firstIndex { $0.pages.overlaps(pages) }
            let isInside = piece.map { scenario.pieces[$0].pages.clamped(to: pages) == pages }
            let isSpecial =
                scenario.pieces.contains { $0.memory == nil && $0.pages.overlaps(pages) }
            let isPopulated = scenario.keepers.contains { pages.contains($0.page) }
            let isEmpty = !isPopulated && scenario.emptied.contains(index)
            expectation.before += isSpecial ? "*" : isPopulated ? "P" : isEmpty ? "E" : "."
            exists.append(isSpecial || isPopulated || isEmpty)
            goes.append(false)
            let isExamined =
                scenario.range.lowerBound <= pages.lowerBound
                && pages.upperBound <= scenario.range.upperBound
            defer {
                expectation.after += goes[index] ? "." : String(expectation.before.last ?? " ")
            }
            guard isExamined else {
                if scenario.range.overlaps(pages) { expectation.kept[.partial, default: 0] += 1 }
                continue
            }
            let registration = piece.flatMap { scenario.registered[$0] }
            let cannotTell = !space.showsTables || registration == .writeProtect
            let reason: KeptReason?
            switch (piece, isInside) {
            case (nil, _): reason = .unmapped
            case (_?, true) where isSpecial: reason = .specialVMA
            case _ where isSpecial:
                // A span of which only a part is special is seen for what else it is.
                expectation.kept[.crossesVMA, default: 0] += 1
                continue
            case _ where isPopulated: reason = .populated
            case _ where !isEmpty && !cannotTell: reason = .absent
            case (_?, false): reason = .crossesVMA
            case (let piece?, _):
                reason = refusal(scenario.pieces[piece], registration, space)
            }
            if let reason {
                expectation.kept[reason, default: 0] += 1
                continue
            }
            // mremap moves what a userfaultfd watches entry by entry, and leaves the table.
            let isMoved = space.backend == .remap && registration != nil
            if isMoved, !cannotTell {
                expectation.kept[.stillThere, default: 0] += 1
                continue
            }
            goes[index] = isEmpty && !isMoved
            if cannotTell { expectation.hidden += 1 } else { expectation.freed += 1 }
        }
        expectation.tables = goes.count { $0 }
        let isFenced = access == .shared && memory == .anonymous
        if space.backend == .mapfixed || (space.backend == .remap && isFenced) {
            expectation.tables += upperTables(scenario, space, goes, exists)
        }
        // VmPTE does not say of which level a table is.
        let told = min(expectation.tables - expectation.freed, expectation.hidden)
        expectation.freed += told
        expectation.kept[.absent, default: 0] += expectation.hidden - told
        return expectation
    }

    /// Why the empty table of a span that lies wholly inside `piece` stays; nil: it goes.
    private func refusal(
        _ piece: Scenario.Piece, _ registration: Scenario.Registration?, _ space: Space
    ) -> KeptReason? {
        guard let memory = piece.memory else { return .specialVMA }
        let hasAttributes =
            space.isMappedWithAttributes || piece.marked || piece.locked || registration != nil
        if access == .shared, memory == .privateFile { return .privateFile }
        if access == .shared, memory == .anonymous {
            guard space.hasFence else { return .fenceUnavailable }
            switch registration {
            case .writeProtect: return .writeProtectRegistered
            case .missing: return .registered
            case nil: return space.backend != .dontneed && hasAttributes ? .losesAttributes : nil
            }
        }
        switch space.backend {
        case .dontneed: return nil
        case .mapfixed: return hasAttributes || memory != .anonymous ? .losesAttributes : nil
        case .remap: return piece.locked ? .locked : nil
        }
    }

    /// PMD and PUD tables that go for a moment, and come back with the next fault, when a VMA is
    /// mapped anew over all that is mapped below them.
    private func upperTables(
        _ scenario: Scenario, _ space: Space, _ goes: [Bool], _ exists: [Bool]
    ) -> Int {
        let span = PageGeometry.entriesPerTable
        let middle = goes.count / 2
        var tables = 0
        // The window is the only thing near: a PMD table and a PUD table on each side.
        for side in [0..<middle, middle..<goes.count] {
            let pages = side.lowerBound * span..<side.upperBound * span
            let mapped = scenario.pieces.map { $0.pages.clamped(to: pages) }.filter { !$0.isEmpty }
            guard mapped.count == 1, side.contains(where: { exists[$0] }),
                mapped[0].lowerBound % span == 0, mapped[0].upperBound % span == 0
            else { continue }
            let all = mapped[0].lowerBound / span..<mapped[0].upperBound / span
            let isOneRun = all.allSatisfy { index in
                space.showsTables ? goes[index] : goes[index] || !exists[index]
            }
            if isOneRun { tables += 2 }
        }
        return tables
    }
}

// MARK: - Laws

extension LawSuite {
    /// Walks twice, and names each law that does not hold.
    private func check(
        _ scenario: Scenario, _ space: Space, _ contents: [Int: UInt8]
    ) throws -> [LawViolation] {
        var violations: [LawViolation] = []
        func expect(
            _ law: String, _ holds: Bool, _ detail: @autoclosure () -> String,
            byVmPTE isToldByVmPTE: Bool = false
        ) {
            guard !holds else { return }
            violations.append(
                LawViolation(
                    law: law, detail: "\(scenario.name): \(detail())",
                    isToldByVmPTE: isToldByVmPTE))
        }
        let range = space.pages(scenario.range)
        let expected = expectation(scenario, space)
        let before = try space.states()
        expect(
            "the scenario is what it says", before.agree(with: expected.before),
            "\(before.picture), not \(expected.before)")
        let isHidden = expected.hidden > 0
        let vmPTEBefore = space.vmPTEByteCount()

        let report = try walk(space, range, access)
        let vmPTEAfter = space.vmPTEByteCount()
        let found = try space.states()
        expect(
            "frees exactly the all-none tables", found.agree(with: expected.after),
            "\(before.picture) became \(found.picture), not \(expected.after)")
        expect(
            "examines each whole span once", report.tablesExamined == range.wholeSpans.count,
            "\(report.tablesExamined) of \(range.wholeSpans.count)")
        expect(
            "counts what it freed", report.tablesFreed == expected.freed,
            "\(report.tablesFreed), not \(expected.freed)", byVmPTE: isHidden)
        let kept = KeptReason.allCases.filter { $0 != .partial }.reduce(0) {
            $0 + report.kept[$1]
        }
        expect(
            "the report adds up", report.tablesExamined == report.tablesFreed + kept,
            "\(report.tablesExamined) != \(report.tablesFreed) + \(kept)")
        for reason in KeptReason.allCases {
            let count = expected.kept[reason, default: 0]
            expect(
                "kept for the right reason", report.kept[reason] == count,
                "\(reason): \(report.kept[reason]), not \(count)", byVmPTE: isHidden)
        }
        if space.isAlone, let vmPTEBefore, let vmPTEAfter {
            let freed = UInt(expected.tables) * PageGeometry.pageByteCount
            expect(
                "VmPTE falls by one page a table", vmPTEBefore == vmPTEAfter + freed,
                "\(vmPTEBefore) to \(vmPTEAfter), not by \(freed)", byVmPTE: true)
            expect(
                "the report tells VmPTE before and after",
                report.vmPTEBefore == vmPTEBefore && report.vmPTEAfter == vmPTEAfter,
                "\(report.vmPTEBefore ?? 0) to \(report.vmPTEAfter ?? 0),"
                    + " not \(vmPTEBefore) to \(vmPTEAfter)", byVmPTE: true)
        }

        let again = try walk(space, range, access)
        expect(
            "a second walk frees nothing", again.tablesFreed == 0, "\(again.tablesFreed)",
            byVmPTE: isHidden)
        expect(
            "a second walk finds what was freed absent",
            again.kept[.absent] == report.kept[.absent] + report.tablesFreed,
            "\(again.kept[.absent])", byVmPTE: isHidden)
        let last = try space.states()
        expect(
            "a second walk changes nothing", last.picture == found.picture,
            "\(found.picture) became \(last.picture)")
        // Now only: reading brings tables.
        for (page, byte) in contents.sorted(by: { $0.key < $1.key }) {
            let now = try space.read(at: space.address(ofPage: page))
            expect(
                "never changes a readable byte", now == byte, "page \(page): \(byte), now \(now)")
        }
        return violations
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
