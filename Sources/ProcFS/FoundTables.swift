// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

/// Neighbouring spans whose tables are in the same state.
public struct TableRun: Equatable, Sendable {
    public enum State: Sendable {
        /// A PTE table with at least one entry that is not none.
        case live
        /// A PTE table whose 512 entries are all none.
        case empty
        /// No PTE table: the span is mapped by a huge page.
        case huge
    }

    public let spans: SpanRun
    public let state: State
}

/// The tables found in one pass over a process. In runs: 28 million tables have been seen in one.
struct FoundTables {
    /// Lowest first, no two of them overlap.
    private(set) var runs: [TableRun]
    /// Anonymous huge pages have a table deposited for the day they split.
    let depositedTableCount: Int

    /// - Parameter runs: in any order.
    init(runs: [TableRun], depositedTableCount: Int) {
        self.runs = runs.sorted { $0.spans.start < $1.spans.start }
        self.depositedTableCount = depositedTableCount
    }

    var liveCount: Int { count(.live) }
    var emptyCount: Int { count(.empty) }

    private func count(_ state: TableRun.State) -> Int {
        runs.lazy.filter { $0.state == state }.reduce(0) { $0 + $1.spans.count }
    }

    /// PMD and PUD tables that exist.
    var upperTableCount: Int { Self.upperTableCount(above: runs) }

    /// The tables of all levels that the live pages need.
    var neededTableCount: Int {
        liveCount + depositedTableCount
            + Self.upperTableCount(above: runs.lazy.filter { $0.state != .empty })
    }

    var tableCount: Int { liveCount + emptyCount + depositedTableCount + upperTableCount }

    /// One for each GiB and one for each 512 GiB in which something lies.
    private static func upperTableCount(above runs: some Sequence<TableRun>) -> Int {
        var count = 0
        var nextGigabyte: UInt = 0
        var nextPUD: UInt = 0
        func add(_ run: SpanRun, _ byteCount: UInt, after next: inout UInt) {
            let first = max(run.start / byteCount, next)
            let end = (run.end - 1) / byteCount + 1
            guard first < end else { return }
            count += Int(end - first)
            next = end
        }
        for run in runs {
            add(run.spans, PageGeometry.pmdTableByteCount, after: &nextGigabyte)
            add(run.spans, PageGeometry.pudTableByteCount, after: &nextPUD)
        }
        return count
    }

    /// Forgets the empty tables that one of `ranges` touches.
    mutating func removeEmptyTables(in ranges: [AddressRange]) {
        runs = runs.flatMap { run -> [TableRun] in
            guard run.state == .empty else { return [run] }
            return (0..<run.spans.count).lazy.map { run.spans[$0] }
                .filter { span in
                    !ranges.contains { $0.start < span.end && span.start < $0.end }
                }
                .map { TableRun(spans: SpanRun($0), state: .empty) }
        }
    }
}
