// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

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

    static let span = PageGeometry.entriesPerTable

    init(
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
    func prepare(_ scenario: Scenario, _ space: Space) throws -> [Int: UInt8] {
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
    struct Expectation {
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
    func expectation(_ scenario: Scenario, _ space: Space) -> Expectation {
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
    func refusal(
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
    func upperTables(
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
