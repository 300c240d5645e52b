// SPDX-License-Identifier: Apache-2.0

/// What a scan comes to next. Not inside the generic type: each would have metadata of its own.
enum TableSighting {
    case absent(SpanRun)
    case empty(SpanRun)
    case populated(Span)
}

/// Looks along a run of spans, lowest first, and says what it sees: some calls of the kernel for
/// each table, next to nothing for holes of any size.
struct TableScan<Space: AddressSpace> {
    /// A look holds the mmap lock for as many tables: 0.5 ms.
    private static var longestLook: Int { 512 }

    private let space: Space
    private(set) var rest: SpanRun
    /// Where the tables end that begin at the start of `rest`; nil: to be looked up.
    private var tablesEnd: UInt?
    /// The first populated span of those tables, once it is known that there is one.
    private var populated: Span?

    init(_ spans: SpanRun, in space: Space) {
        self.space = space
        self.rest = spans
    }

    mutating func next() throws(ReclaimError) -> TableSighting? {
        guard !rest.isEmpty else { return nil }
        if tablesEnd == nil {
            guard let tables = try space.firstTables(in: rest, atMost: Self.longestLook) else {
                return .absent(take(upTo: rest.end))
            }
            tablesEnd = tables.end
            if rest.start < tables.start { return .absent(take(upTo: tables.start)) }
        }
        let tables = rest.prefix(upTo: tablesEnd ?? rest.end)
        if populated == nil, let page = try space.firstPopulatedPage(in: tables.range) {
            populated = Span(containing: page)
        }
        guard let span = populated else { return .empty(take(upTo: tables.end)) }
        if tables.start < span.start { return .empty(take(upTo: span.start)) }
        populated = nil
        _ = take(upTo: span.end)
        return .populated(span)
    }

    private mutating func take(upTo end: UInt) -> SpanRun {
        let taken = rest.prefix(upTo: end)
        rest = rest.suffix(from: end)
        if end == tablesEnd { tablesEnd = nil }
        return taken
    }
}
