// SPDX-License-Identifier: Apache-2.0

internal import ProcFS

/// What a cell of a map is drawn as, in the terminal and in SVG.
enum MapCell: Int, CaseIterable {
    /// No table, no huge page.
    case nothing
    /// Live tables, by how full they are: up to a quarter, a half, three quarters, and more.
    case quarter, half, threeQuarters, full
    /// Huge pages only.
    case huge
    /// Half of the tables or more are empty, but not all.
    case mostlyEmpty
    /// Every table is empty.
    case empty

    init(_ cell: PageTableMap.Cell) {
        if cell.tableCount == 0 {
            self = cell.hugeCount > 0 ? .huge : .nothing
        } else if cell.liveCount == 0 {
            self = .empty
        } else if cell.emptyCount >= cell.liveCount {
            self = .mostlyEmpty
        } else {
            let quarters = ((cell.fullness ?? 0) * 4).rounded(.up)
            self = [.quarter, .quarter, .half, .threeQuarters, .full][min(Int(quarters), 4)]
        }
    }

    /// What the legend says of it.
    var meaning: String {
        switch self {
        case .nothing: "no table"
        case .quarter: "up to a quarter full"
        case .half: "a half"
        case .threeQuarters: "three quarters"
        case .full: "more"
        case .huge: "huge pages, no table"
        case .mostlyEmpty: "half or more empty"
        case .empty: "empty tables only"
        }
    }
}

extension PageTableMap.Row {
    /// The mapping's name without its folders, and no longer than `count`.
    func shortName(_ count: Int) -> String {
        guard !name.isEmpty else { return "anonymous" }
        let last = name.hasPrefix("/") ? name.split(separator: "/").last.map(String.init) : nil
        return String((last ?? name).prefix(count))
    }
}
