// SPDX-License-Identifier: Apache-2.0

/// Looks along a run of spans, lowest first, and says what it sees: one or two calls of the kernel
/// for each table, nothing for holes of any size.
struct TableScan<Space: AddressSpace> {
    enum Sighting {
        case absent(SpanRun)
        case empty(SpanRun)
        case populated(Span)
    }

    private let space: Space
    private(set) var rest: SpanRun
    /// The lowest populated span of `rest`, or its end; nil: to be looked up.
    private var nextPopulated: UInt?
    /// Empty tables below it that were seen and not yet told.
    private var nextEmpty: SpanRun?

    init(_ spans: SpanRun, in space: Space) {
        self.space = space
        self.rest = spans
    }

    mutating func next() throws(ReclaimError) -> Sighting? {
        guard !rest.isEmpty else { return nil }
        let populated = try lookForPopulated()
        let gap = rest.prefix(upTo: populated)
        if gap.isEmpty {
            nextPopulated = nil
            let span = rest[0]
            rest = rest.suffix(from: span.end)
            return .populated(span)
        }
        let empty: SpanRun?
        if let nextEmpty { empty = nextEmpty } else { empty = try space.firstTables(in: gap) }
        nextEmpty = nil
        guard let empty else {
            rest = rest.suffix(from: gap.end)
            return .absent(gap)
        }
        if gap.start < empty.start {
            nextEmpty = empty
            rest = rest.suffix(from: empty.start)
            return .absent(gap.prefix(upTo: empty.start))
        }
        rest = rest.suffix(from: empty.end)
        return .empty(empty)
    }

    private mutating func lookForPopulated() throws(ReclaimError) -> UInt {
        if let nextPopulated { return nextPopulated }
        let page = try space.firstPopulatedPage(in: rest.range)
        let start = page.map { Span(containing: $0).start } ?? rest.end
        nextPopulated = start
        return start
    }
}
