// SPDX-License-Identifier: Apache-2.0

/// An address space whose tables are freed by a thread of its own, with no caller who vouches for a
/// range: it knows which spans may be served, and remembers what it saw at the pass before.
///
/// Only that thread uses a value.
public protocol ServedSpace: AddressSpace {
    /// The lowest run of spans in `run` whose mapping cannot change unseen, and that nobody has
    /// switched off. `free` frees only such.
    func firstServable(in run: SpanRun) -> SpanRun?

    /// The lowest run of such spans that were remembered as empty.
    func firstRemembered(in run: SpanRun) -> SpanRun?

    /// Remembers that the tables of `run` were seen empty.
    func remember(_ run: SpanRun)

    /// Forgets what was remembered of `run`.
    func forget(_ run: SpanRun)

    /// Whether the pass has had its time.
    var isTimeUp: Bool { get }
}

/// How a pass is to be made.
public struct PassTerms: Sendable {
    /// Stop after about as many existing tables, empty or not.
    public let maximumTables: Int
    /// False: look and remember only.
    public let frees: Bool
    /// False: free only what was empty at the pass before, too, so that hot spans are left alone.
    public let isImmediate: Bool

    /// Terms of one pass.
    ///
    /// - Parameters:
    ///   - maximumTables: stop after about as many existing tables.
    ///   - frees: false to look and remember only.
    ///   - isImmediate: false to free only what was empty at the pass before, too.
    public init(maximumTables: Int, frees: Bool, isImmediate: Bool) {
        self.maximumTables = maximumTables
        self.frees = frees
        self.isImmediate = isImmediate
    }
}

/// What a pass did.
public struct PassReport: Sendable {
    /// Existing tables that were looked at.
    public internal(set) var tablesLookedAt = 0
    /// Of these, empty when they were looked at.
    public internal(set) var tablesEmpty = 0
    /// Of these, freed: a second look found them gone.
    public internal(set) var tablesFreed = 0
    /// Why those that were to be freed were not, in tables.
    public internal(set) var kept = KeptCounts()
    /// Where the pass stopped early, an address on a span boundary; nil: it came to the end.
    public internal(set) var resumeAddress: UInt?
}

// MARK: - The pass

extension ReclaimWalk where Space: ServedSpace {
    /// Looks at every table of `spans` that may be served, and frees the empty ones.
    ///
    ///     pass n      | empty | pages | empty |   remembered: the first and the last
    ///     pass n + 1  | empty | empty | pages |   freed: the first; remembered: the next
    ///
    /// - Parameters:
    ///   - spans: where to look.
    ///   - terms: how much, and what is freed.
    /// - Throws: `.lookFailed` with the errno of the space. What was freed before stays freed.
    ///
    /// The corresponding kernel function is the scanner of the proposal on linux-mm, July 2024
    /// (asynchronous reclaim of PTE pages by task_work); never merged.
    public func serve(_ spans: SpanRun, _ terms: PassTerms) throws(ReclaimError) -> PassReport {
        var report = PassReport()
        var rest = spans
        while let run = space.firstServable(in: rest) {
            var scan = TableScan(run, in: space)
            while let sighting = try scan.next() {
                switch sighting {
                case .absent: continue
                case .populated(let span):
                    report.tablesLookedAt += 1
                    space.forget(SpanRun(span))
                case .empty(let tables):
                    report.tablesLookedAt += tables.count
                    report.tablesEmpty += tables.count
                    try serveEmpty(tables, terms, &report)
                }
                if report.tablesLookedAt >= terms.maximumTables || space.isTimeUp {
                    report.resumeAddress = scan.rest.start
                    return report
                }
            }
            rest = rest.suffix(from: run.end)
        }
        return report
    }

    private func serveEmpty(
        _ tables: SpanRun, _ terms: PassTerms, _ report: inout PassReport
    ) throws(ReclaimError) {
        var rest = tables
        while !rest.isEmpty {
            var run: SpanRun?
            if terms.frees { run = terms.isImmediate ? rest : space.firstRemembered(in: rest) }
            let end = run?.start ?? rest.end
            if rest.start < end { space.remember(rest.prefix(upTo: end)) }
            guard let run else { return }
            let result = try reclaim(run)
            report.tablesFreed += result.tablesFreed
            report.kept.add(result.kept)
            // What was kept has to wait for two more passes.
            space.forget(run)
            rest = rest.suffix(from: run.end)
        }
    }
}
