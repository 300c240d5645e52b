// SPDX-License-Identifier: Apache-2.0

internal import ProcFS
internal import Rainbow

/// A map as lines for a terminal. What is empty differs in its letter, not in its colour alone.
struct MapText {
    let map: PageTableMap
    /// Room for names right of the cells.
    let columns: Int
    let isUTF8: Bool
    let isColored: Bool

    private static let addressWidth = 14

    /// As many cells as `columns` have room for; a power of two, so that rows begin at round
    /// addresses.
    static func cellsPerRow(columns: Int) -> Int {
        var cells = 16
        while addressWidth + cells * 2 <= columns { cells *= 2 }
        return cells
    }

    var lines: [String] {
        var lines = [Self.scale(map.grid)]
        var expected = map.rows.first?.start
        for row in map.rows {
            if let expected, row.start > expected {
                let gap = Format.binary(row.start - expected)
                let dots = isUTF8 ? "⋮" : ":"
                lines.append("\(indent)\(dots) \(gap) without tables")
            }
            lines.append(line(row))
            expected = row.start + map.grid.bytesPerRow
        }
        return lines + [""] + legend
    }

    private var indent: String { String(repeating: " ", count: Self.addressWidth) }

    /// What a cell and a row stand for.
    static func scale(_ grid: PageTableMap.Grid) -> String {
        let spans = grid.spansPerCell
        return "a cell is \(Format.binary(grid.bytesPerCell)), "
            + (spans == 1 ? "one table" : "\(spans) tables at most")
            + "; a row \(Format.binary(grid.bytesPerRow))"
    }

    private func line(_ row: PageTableMap.Row) -> String {
        let address = Format.hexadecimal(row.start).padded(to: Self.addressWidth)
        let cells = row.cells.map { cell(MapCell($0)) }.joined()
        let room = columns - Self.addressWidth - row.cells.count
        let empty = "  \(row.emptyCount) of \(row.tableCount) empty"
        guard room >= empty.count else { return address + cells }
        let rest = room - max(empty.count, 24) - 2
        guard rest >= 12 else { return address + cells + empty }
        return address + cells + empty.padded(to: 24) + row.shortName(rest)
    }

    private func symbol(_ cell: MapCell) -> String {
        switch cell {
        case .nothing: isUTF8 ? "·" : "."
        case .quarter: isUTF8 ? "░" : "1"
        case .half: isUTF8 ? "▒" : "2"
        case .threeQuarters: isUTF8 ? "▓" : "3"
        case .full: isUTF8 ? "█" : "4"
        case .huge: "H"
        case .mostlyEmpty: "o"
        case .empty: "x"
        }
    }

    private func cell(_ cell: MapCell) -> String {
        let symbol = symbol(cell)
        guard isColored else { return symbol }
        switch cell {
        case .nothing: return symbol.dim
        case .quarter, .half, .threeQuarters, .full, .huge: return symbol.cyan
        case .mostlyEmpty: return symbol.yellow.bold
        case .empty: return symbol.red.bold
        }
    }

    private var legend: [String] {
        let words = MapCell.allCases.map { ($0, $0.meaning) }
        var lines = [""]
        var width = 0
        for (kind, meaning) in words {
            // Escape sequences have no width.
            let length = 2 + meaning.count + 3
            if width + length > columns {
                lines.append("")
                width = 0
            }
            lines[lines.count - 1] += (width == 0 ? "" : "   ") + "\(cell(kind)) \(meaning)"
            width += length
        }
        return lines
    }
}
