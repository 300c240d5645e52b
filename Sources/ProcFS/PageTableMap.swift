// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

/// The address space of a process as a picture: rows of cells, a cell for a span or for a group of
/// neighbouring spans. Rows without a table are left out.
public struct PageTableMap: Sendable {
    /// What a group of `spansPerCell` spans holds.
    public struct Cell: Equatable, Sendable {
        /// PTE tables with at least one entry that is not none.
        public var liveCount = 0
        /// PTE tables whose 512 entries are all none.
        public var emptyCount = 0
        /// Spans mapped by a huge page, without a PTE table.
        public var hugeCount = 0
        /// Entries of the live tables that are not none.
        public var populatedCount = 0

        public var tableCount: Int { liveCount + emptyCount }

        /// How full the live tables are, 0 to 1; nil where there is none.
        public var fullness: Double? {
            liveCount == 0
                ? nil
                : Double(populatedCount) / Double(liveCount * PageGeometry.entriesPerTable)
        }
    }

    public struct Row: Sendable {
        /// What the first cell begins with. A multiple of the row's length.
        public let start: UInt
        public var cells: [Cell]
        /// The mapping in which most tables of the row begin; empty where it has no name.
        public var name: String

        public var emptyCount: Int { cells.reduce(0) { $0 + $1.emptyCount } }
        public var tableCount: Int { cells.reduce(0) { $0 + $1.tableCount } }
    }

    /// Where in the picture a span is.
    public struct Grid: Equatable, Sendable {
        /// Both powers of two.
        public let spansPerCell: Int
        public let cellsPerRow: Int

        public var bytesPerCell: UInt { UInt(spansPerCell) * PageGeometry.spanByteCount }
        public var bytesPerRow: UInt { UInt(cellsPerRow) * bytesPerCell }

        /// The row's start, the cell's number in it, and the part of `range` that lies in it.
        func forEachCell(in range: AddressRange, _ body: (UInt, Int, AddressRange) -> Void) {
            var position = range.start
            while position < range.end {
                let end = min((position / bytesPerCell + 1) * bytesPerCell, range.end)
                let row = position / bytesPerRow * bytesPerRow
                let part = AddressRange(start: position, end: end)
                body(row, Int((position - row) / bytesPerCell), part)
                position = end
            }
        }
    }

    public let grid: Grid
    /// Lowest addresses first; only such with a table or a huge page.
    public private(set) var rows: [Row]

    /// Looks at `pid`, as a census does, and then once more at how full the tables are.
    ///
    /// - Parameters:
    ///   - cellsPerRow: a power of two.
    ///   - rowLimit: the picture gets the finest scale at which it has at most so many rows.
    /// - Returns: a nil map where this kernel cannot tell.
    /// - Throws: as `PageTableCensus.take(pid:)`.
    public static func take(
        pid: Int32, cellsPerRow: Int, rowLimit: Int
    ) throws(ProcFSError) -> (census: PageTableCensus, map: PageTableMap?) {
        let survey = try PageTableSurvey.take(pid: pid)
        let census = PageTableCensus(survey)
        guard let found = survey.found else { return (census, nil) }
        var map = PageTableMap(found, cellsPerRow: cellsPerRow, rowLimit: rowLimit)
        map.name(after: found, survey.maps)
        let scanner = try PageScanner(pid: pid)
        var cursor = 0
        try scanner.forEach(in: PageScanner.userSpace, PageScanner.live) { region in
            map.addPopulated(AddressRange(start: region.start, end: region.end), &cursor)
        }
        return (census, map)
    }

    init(_ found: FoundTables, cellsPerRow: Int, rowLimit: Int) {
        precondition(cellsPerRow.nonzeroBitCount == 1 && rowLimit > 0)
        var scale = 1
        while Self.rowCount(of: found.runs, spans: scale * cellsPerRow, limit: rowLimit) > rowLimit
        {
            scale *= 2
        }
        grid = Grid(spansPerCell: scale, cellsPerRow: cellsPerRow)
        rows = []
        for run in found.runs {
            grid.forEachCell(in: run.spans.range) { start, number, part in
                if rows.last?.start != start {
                    let cells = [Cell](repeating: Cell(), count: cellsPerRow)
                    rows.append(Row(start: start, cells: cells, name: ""))
                }
                let count = Int(part.byteCount / PageGeometry.spanByteCount)
                let path: WritableKeyPath<Cell, Int> =
                    switch run.state {
                    case .live: \.liveCount
                    case .empty: \.emptyCount
                    case .huge: \.hugeCount
                    }
                rows[rows.count - 1].cells[number][keyPath: path] += count
            }
        }
    }

    /// Rows of `spans` spans with something in them; counted up to one more than `limit`.
    private static func rowCount(of runs: [TableRun], spans: Int, limit: Int) -> Int {
        let length = UInt(spans) * PageGeometry.spanByteCount
        var count = 0
        var next: UInt = 0
        for run in runs {
            let first = max(run.spans.start / length, next)
            let end = (run.spans.end - 1) / length + 1
            if first < end { count += Int(end - first) }
            next = max(next, end)
            if count > limit { break }
        }
        return count
    }

    /// - Parameter cursor: the row at which to begin; regions come in order.
    mutating func addPopulated(_ region: AddressRange, _ cursor: inout Int) {
        grid.forEachCell(in: region) { start, number, part in
            while cursor < rows.count, rows[cursor].start < start { cursor += 1 }
            // Came after the survey: no table is known there.
            guard cursor < rows.count, rows[cursor].start == start else { return }
            let count = Int(part.byteCount / PageGeometry.pageByteCount)
            var cell = rows[cursor].cells[number]
            // Of huge pages there is no table to fill.
            let room = cell.liveCount * PageGeometry.entriesPerTable - cell.populatedCount
            cell.populatedCount += min(count, max(room, 0))
            rows[cursor].cells[number] = cell
        }
    }

    private mutating func name(after found: FoundTables, _ maps: [MemoryMapEntry]) {
        // By the VMA first: names are dear to look up.
        var counts = [[Int: Int]](repeating: [:], count: rows.count)
        var vma = 0
        var row = 0
        for run in found.runs {
            for number in 0..<run.spans.count {
                let span = run.spans[number]
                while vma < maps.count, maps[vma].end <= span.start { vma += 1 }
                while rows[row].start + grid.bytesPerRow <= span.start { row += 1 }
                guard vma < maps.count, maps[vma].start < span.end else { continue }
                counts[row][vma, default: 0] += 1
            }
        }
        for (row, vmas) in counts.enumerated() {
            let names = Dictionary(vmas.map { (maps[$0.key].name, $0.value) }) { $0 + $1 }
            rows[row].name = names.max { ($0.value, $1.key) < ($1.value, $0.key) }?.key ?? ""
        }
    }
}
