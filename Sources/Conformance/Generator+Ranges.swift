// SPDX-License-Identifier: Apache-2.0

internal import PageTableModel
internal import ReclaimCore

/// Where things are done. Pages are counted from the start of the field.
extension Generator {
    private static let spanPages = PageGeometry.entriesPerTable

    static func address(_ page: Int) -> UInt { Field.base + bytes(page) }
    static func bytes(_ pages: Int) -> UInt { UInt(pages) * PageGeometry.pageByteCount }

    static func addresses(_ pages: Range<Int>) -> AddressRange {
        AddressRange(start: address(pages.lowerBound), end: address(pages.upperBound))
    }

    static func pages(_ range: AddressRange) -> Range<Int> {
        let page = PageGeometry.pageByteCount
        return Int((range.start - Field.base) / page)..<Int((range.end - Field.base) / page)
    }

    static func page(_ address: UInt) -> Int {
        Int((address - Field.base) / PageGeometry.pageByteCount)
    }

    /// Around A and around B.
    static let windows = Field.windows.map { pages($0) }

    static func window(of page: Int) -> Range<Int>? {
        windows.first { $0.contains(page) }
    }

    // MARK: - Luck

    mutating func chance(_ percent: UInt64) -> Bool { random.next() % 100 < percent }

    mutating func number(in range: ClosedRange<Int>) -> Int {
        range.lowerBound + Int(random.next() % UInt64(range.count))
    }

    mutating func pick<T>(_ choices: [(T, Int)]) -> T {
        var rest = Int(random.next() % UInt64(choices.reduce(0) { $0 + $1.1 }))
        for (choice, weight) in choices {
            rest -= weight
            if rest < 0 { return choice }
        }
        preconditionFailure("the weights add up")
    }

    // MARK: - Places

    /// Keeps the ends of a range in mind.
    mutating func remember(_ pages: Range<Int>) {
        recent += [pages.lowerBound, pages.upperBound]
        if recent.count > 12 { recent.removeFirst(recent.count - 12) }
    }

    /// A place where something ends or begins; in a window, or one past its last page.
    mutating func edge() -> Int {
        let window = Self.windows[Int(random.next() % 2)]
        let middle = (window.lowerBound + window.upperBound) / 2
        let near = chance(50) ? 0 : number(in: -3...3)
        switch random.next() % 100 {
        case ..<35 where !recent.isEmpty:
            return clamp(recent[Int(random.next() % UInt64(recent.count))] + near)
        case ..<60: return middle + near
        case ..<80:
            return clamp(window.lowerBound + Self.spanPages * number(in: 0...8) + near)
        default: return number(in: window.lowerBound...window.upperBound)
        }
    }

    /// Into the nearer window.
    private func clamp(_ page: Int) -> Int {
        let isBetween = page < Self.windows[1].lowerBound - 1 << 20
        let nearest = Self.windows[isBetween ? 0 : 1]
        return min(max(page, nearest.lowerBound), nearest.upperBound)
    }

    private mutating func length() -> Int {
        switch random.next() % 100 {
        case ..<40: number(in: 1...5)
        case ..<75: Self.spanPages * number(in: 1...3)
        case ..<85: Self.spanPages * number(in: 1...2) + number(in: -3...3)
        default: number(in: 1...1200)
        }
    }

    /// For a new mapping.
    mutating func freshRange() -> Range<Int> {
        while true {
            var start = edge()
            var count = length()
            if mixture == .huge { count = max(count, Self.spanPages * number(in: 0...3)) }
            if chance(mixture == .huge ? 75 : 35) { start &= ~(Self.spanPages - 1) }
            // Some end at the place, or have it in the middle.
            if chance(20) { start -= chance(50) ? count : count / 2 }
            guard let window = Self.windows.first(where: { $0.overlaps(start..<start + count) })
            else { continue }
            return (start..<start + count).clamped(to: window)
        }
    }

    /// From one window into the other.
    mutating func giantRange() -> Range<Int> {
        let ends = Self.windows.map { window in
            (window.lowerBound + window.upperBound) / 2 + number(in: -600...600)
        }
        return ends[0]..<ends[1]
    }

    /// A range that mostly is mapped, or a part of it; nil where luck ran out.
    /// - Parameter fits: whether an operation on such a piece makes sense; asked nine times of ten.
    mutating func usedRange(
        mayBeGiant: Bool = false, where fits: (Sketch.Piece) -> Bool = { _ in true }
    ) -> AddressRange? {
        if chance(8) {
            let range = freshRange()
            remember(range)
            return Self.addresses(range)
        }
        let isCareless = chance(10)
        let pieces = sketch.pieces.filter { isCareless || fits($0) }
        guard !pieces.isEmpty else { return nil }
        let piece = pieces[Int(random.next() % UInt64(pieces.count))]
        if mayBeGiant, chance(15) {
            remember(piece.pages)
            return Self.addresses(piece.pages)
        }
        guard let visible = visiblePart(of: piece) else { return nil }
        let range = part(of: visible)
        guard !range.isEmpty else { return nil }
        remember(range)
        return Self.addresses(range)
    }

    /// A part of one of `ranges`, nine times of ten; else any.
    mutating func range(amongst ranges: [Range<Int>]) -> AddressRange? {
        guard !ranges.isEmpty, chance(90) else { return usedRange() }
        let range = part(of: ranges[Int(random.next() % UInt64(ranges.count))])
        guard !range.isEmpty else { return nil }
        remember(range)
        return Self.addresses(range)
    }

    /// A span that was written to lately, where there is one: the others have nothing to collapse.
    mutating func collapsibleRange() -> AddressRange? {
        let spans = written.map { $0 & ~511..<($0 & ~511) + Self.spanPages }.filter { span in
            sketch.pieces.contains {
                $0.kind == .anonymousPrivate && $0.pages.clamped(to: span) == span
            }
        }
        guard let last = spans.last, chance(85) else {
            return usedRange { $0.kind == .anonymousPrivate }
        }
        let span = chance(60) ? last : spans[Int(random.next() % UInt64(spans.count))]
        remember(span)
        return Self.addresses(span)
    }

    private mutating func part(of piece: Range<Int>) -> Range<Int> {
        let start = piece.lowerBound
        let end = piece.upperBound
        switch random.next() % 100 {
        case ..<22: return piece
        case ..<42:
            let count = min(number(in: 1...5), piece.count)
            let first = pick([
                (start, 40), (end - count, 30), (number(in: start...end - count), 30),
            ])
            return first..<first + count
        case ..<66:
            let spans = ((start + 511) & ~511)..<max((start + 511) & ~511, end & ~511)
            guard !spans.isEmpty else { return piece }
            let first = spans.lowerBound + Self.spanPages * number(in: 0...spans.count / 512 - 1)
            let count = Self.spanPages * number(in: 1...3)
            return first..<min(first + count, spans.upperBound)
        case ..<88:
            let one = min(max(edge(), start), end)
            let other = min(max(edge(), start), end)
            if one == other { return min(one, end - 1)..<min(one, end - 1) + 1 }
            return min(one, other)..<max(one, other)
        default:
            guard let window = Self.window(of: start) else { return piece }
            let spill = (start - number(in: 0...4))..<(end + number(in: 0...4))
            return spill.clamped(to: window)
        }
    }

    /// What of a piece lies in one of the windows, in either where it reaches into both.
    private mutating func visiblePart(of piece: Sketch.Piece) -> Range<Int>? {
        let window = Self.windows[Int(random.next() % 2)]
        return [window, Self.windows[0], Self.windows[1]].first { $0.overlaps(piece.pages) }
            .map { piece.pages.clamped(to: $0) }
    }

    /// A page that can most likely be touched.
    mutating func touchedAddress(for wanted: VMA.Protection) -> UInt? {
        if chance(5) {
            let window = Self.windows[Int(random.next() % 2)]
            return Self.address(min(edge(), window.upperBound - 1)).inWindow
        }
        let isCareless = chance(10)
        let pieces = sketch.pieces.filter { isCareless || $0.protection.contains(wanted) }
        guard !pieces.isEmpty else { return nil }
        let piece = pieces[Int(random.next() % UInt64(pieces.count))]
        guard let visible = visiblePart(of: piece) else { return nil }
        let last = visible.upperBound - 1
        let page =
            switch random.next() % 100 {
            case ..<20: visible.lowerBound
            case ..<40: last
            case ..<70: min(max(edge(), visible.lowerBound), last)
            default: number(in: visible.lowerBound...last)
            }
        return Self.address(page)
    }
}

extension UInt {
    /// Nil outside the windows.
    fileprivate var inWindow: UInt? { Field.page(at: self) == nil ? nil : self }
}
