// SPDX-License-Identifier: Apache-2.0

import PageTableModel
import ReclaimCore
import TestSupport
import Testing

@Suite struct OwnershipRuleTests {
    private static let span = PageGeometry.spanByteCount
    private static let page = PageGeometry.pageByteCount
    private let space = ModelPlayground(.linux618, .dontneed)

    /// Spans and quarters of spans from the start of the window.
    private func range(_ start: Double, _ end: Double) -> AddressRange {
        func address(_ spans: Double) -> UInt {
            space.window.start + UInt(spans * Double(Self.span))
        }
        return AddressRange(start: address(start), end: address(end))
    }

    //   span 0    span 1    span 2    span 3
    // |---------|---------|---------|---------|
    //      [ extent            ]                    0.5 ..< 2.5: span 1
    // [ extent                ]                     0   ..< 2.5: spans 0, 1
    //      [ ]                                      none
    @Test(arguments: [(0.5, 2.5, 1...1), (0, 2.5, 0...1), (0, 4, 0...3), (1, 2, 1...1)])
    func decommitOwnsWholeSpans(start: Double, end: Double, expected: ClosedRange<Int>) {
        let unowned = OwnershipRule.unowned(byDecommit: range(start, end), in: space)
        #expect(unowned == range(start, end))
        #expect(unowned.wholeSpans.count == expected.count)
        #expect(unowned.wholeSpans[0] == space.span(expected.lowerBound))
    }

    @Test(arguments: [(0.25, 0.75), (0.5, 1.5), (0.25, 1), (0, 0.75)])
    func decommitOfLessThanASpanOwnsNone(start: Double, end: Double) {
        let unowned = OwnershipRule.unowned(byDecommit: range(start, end), in: space)
        #expect(unowned.wholeSpans.count == 0)
    }

    // |---------|---------|---------|
    // [ extent               ][ res ]     the extent covers span 2 up to the reserve: with it
    //                [ extent][ res ]     from the span's start: with it
    //                     [ e][ res ]     something else lies below in span 2: without it
    @Test(arguments: [(0, 2.75, true), (2, 2.75, true), (2.25, 2.75, false), (1.5, 2.75, true)])
    func theReserveGoesWithTheWholeLastSpan(start: Double, end: Double, withReserve: Bool) {
        space.model.reserveEnds = [range(0, 2.75).end]
        let unowned = OwnershipRule.unowned(byDecommit: range(start, end), in: space)
        #expect(unowned == range(start, withReserve ? 3 : end))
    }

    // |---------|---------|---------|
    // [ lower       ][ upper   ]        joint in span 1
    @Test(
        arguments: [
            (0, 1.5, 2.5, 1),
            (1, 1.5, 2, 1),
            (0.5, 1.25, 2, 1),
            // The joint is on a boundary: nothing is new.
            (0, 1, 2, nil),
            // An end of the span belongs to somebody else.
            (0, 1.5, 1.75, nil), (1.25, 1.5, 2, nil), (1.25, 1.5, 1.75, nil),
        ] as [(Double, Double, Double, Int?)])
    func mergeOwnsTheSpanAtTheJoint(lower: Double, joint: Double, upper: Double, expected: Int?) {
        let (low, high) = (range(lower, joint), range(joint, upper))
        let found = OwnershipRule.straddlingSpan(
            lower: low, upper: high, committed: false, in: space)
        #expect(found == expected.map(space.span))
        let committed = OwnershipRule.straddlingSpan(
            lower: low, upper: high, committed: true, in: space)
        #expect(committed == nil)
    }

    // |---------|---------|
    //     [ lower ][ u ][r]      the reserve completes span 1
    @Test func theReserveCompletesTheSpanAtTheJoint() {
        space.model.reserveEnds = [range(0, 1.75).end]
        func found(_ lower: Double) -> Span? {
            OwnershipRule.straddlingSpan(
                lower: range(lower, 1.5), upper: range(1.5, 1.75), committed: false, in: space)
        }
        #expect(found(0.5) == space.span(1))
        #expect(found(1) == space.span(1))
        #expect(found(1.25) == nil)
    }

    @Test func mappingsAreRoundedUpToSpans() {
        #expect(OwnershipRule.reservedByteCount(for: 1) == Self.span)
        #expect(OwnershipRule.reservedByteCount(for: Self.span) == Self.span)
        #expect(OwnershipRule.reservedByteCount(for: Self.span + 1) == 2 * Self.span)
        #expect(OwnershipRule.reservedByteCount(for: .max) == nil)
    }

    /// An allocator on paper: one mapping with a reserve behind it, cut into extents that are
    /// committed or not. It splits, commits, decommits and merges at random. Whatever span the rule
    /// hands out, no byte of it is committed.
    @Test func aSpanIsOnlyHandedOutWhenAllItsBytesAreNobodys() {
        let seed = UInt64.random(in: 0...UInt64(UInt32.max))
        print("OwnershipRuleTests: seed \(seed)")
        var random = SplitMix64(seed: seed)
        var handedOut = 0
        for _ in 0..<200 {
            // In quarters of a span; the reserve is what is missing to a whole span.
            let end = Int.random(in: 5...40, using: &random)
            let space = ModelPlayground(.linux618, .dontneed)
            func address(_ quarter: Int) -> UInt {
                space.window.start + UInt(quarter) * (Self.span / 4)
            }
            func range(_ quarters: Range<Int>) -> AddressRange {
                AddressRange(
                    start: address(quarters.lowerBound), end: address(quarters.upperBound))
            }
            if end % 4 != 0 { space.model.reserveEnds = [address(end)] }
            var committed = [Bool](repeating: false, count: end)
            var extents = [0..<end]
            func isNobodys(_ span: Span) -> Bool {
                !committed.indices.contains { quarter in
                    committed[quarter] && address(quarter) < span.end
                        && span.start < address(quarter + 1)
                }
            }
            for _ in 0..<100 {
                let index = extents.indices.randomElement(using: &random)!
                let extent = extents[index]
                switch Int.random(in: 0..<4, using: &random) {
                case 0 where extent.count > 1:
                    let cut = Int.random(
                        in: extent.lowerBound + 1..<extent.upperBound, using: &random)
                    extents[index] = extent.lowerBound..<cut
                    extents.insert(cut..<extent.upperBound, at: index + 1)
                case 1:
                    for quarter in extent { committed[quarter] = true }
                case 2:
                    for quarter in extent { committed[quarter] = false }
                    let unowned = OwnershipRule.unowned(byDecommit: range(extent), in: space)
                    let spans = unowned.wholeSpans
                    for number in 0..<spans.count {
                        handedOut += 1
                        #expect(isNobodys(spans[number]))
                    }
                case 3 where index + 1 < extents.count:
                    let upper = extents[index + 1]
                    let flag = committed[extent.lowerBound]
                    guard flag == committed[upper.lowerBound] else { continue }
                    let span = OwnershipRule.straddlingSpan(
                        lower: range(extent), upper: range(upper), committed: flag, in: space)
                    if let span {
                        handedOut += 1
                        #expect(isNobodys(span))
                    }
                    extents[index] = extent.lowerBound..<upper.upperBound
                    extents.remove(at: index + 1)
                default: break
                }
            }
        }
        // The property says nothing where nothing was handed out.
        #expect(handedOut > 1000)
    }
}
