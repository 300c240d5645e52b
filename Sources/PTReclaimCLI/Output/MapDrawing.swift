// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import Markup
internal import Mustache
internal import ProcFS

/// A map as an SVG document: for light and dark pages, and for paper. What is empty is crossed out.
struct MapDrawing {
    let map: PageTableMap
    let census: PageTableCensus
    /// What made it, where and when.
    let origin: String

    static let cellsPerRow = 64
    static let rowLimit = 64

    private static let step = 13
    private static let side = 12
    private static let left = 112
    private static let top = 84
    private static let right = 320

    func document() throws -> String {
        var y = Self.top
        var expected = map.rows.first?.start
        var rows: [Row] = []
        for row in map.rows {
            var gap: String?
            if let expected, row.start > expected {
                gap = "\(Format.binary(row.start - expected)) without tables"
                y += 2 * Self.step
            }
            rows.append(self.row(row, y: y, gap: gap))
            y += Self.step
            expected = row.start + map.grid.bytesPerRow
        }
        let legendTop = y + 3 * Self.step
        let legend = MapCell.allCases.enumerated().map { number, kind in
            let x = Self.left + number % 4 * 250
            let y = legendTop + number / 4 * 20
            return Legend(
                kind: "k\(kind.rawValue)", meaning: kind.meaning, textX: x + 18, textY: y + 10,
                path: Self.shape(kind, x: x, y: y))
        }
        let page = Page(
            title: "Page tables of \(census.command), PID \(census.pid)",
            figures: Format.figures(census), scale: MapText.scale(map.grid), origin: origin,
            width: Self.left + Self.cellsPerRow * Self.step + Self.right, height: legendTop + 72,
            originTop: legendTop + 60, left: Self.left, rows: rows, legend: legend)
        Markup.register()
        return try MustacheTemplate(string: Self.template).render(page)
    }

    private func row(_ row: PageTableMap.Row, y: Int, gap: String?) -> Row {
        var paths: [MapCell: String] = [:]
        for (number, cell) in row.cells.enumerated() {
            let kind = MapCell(cell)
            paths[kind, default: ""] += Self.shape(kind, x: Self.left + number * Self.step, y: y)
        }
        return Row(
            address: Format.hexadecimal(row.start), baseline: y + Self.side - 2, gap: gap,
            gapBaseline: y - Self.step / 2 - 1, end: Self.left + Self.cellsPerRow * Self.step + 8,
            empty: row.emptyCount, tables: row.tableCount,
            name: row.shortName(26, isUTF8: true),
            paths: MapCell.allCases.compactMap { kind in
                paths[kind].map { Path(kind: "k\(kind.rawValue)", data: $0) }
            })
    }

    /// A square, or a cross where tables are empty, or a dot where there is none.
    private static func shape(_ kind: MapCell, x: Int, y: Int) -> String {
        switch kind {
        case .nothing: "M\(x + 5) \(y + 5)h2v2h-2z"
        case .empty: "M\(x) \(y)l\(side) \(side)m0-\(side)l-\(side) \(side)"
        case .mostlyEmpty: "M\(x) \(y)l\(side) \(side)"
        default: "M\(x) \(y)h\(side)v\(side)h-\(side)z"
        }
    }

    private struct Page {
        let title: String
        let figures: String
        let scale: String
        let origin: String
        let width: Int
        let height: Int
        let originTop: Int
        let left: Int
        let rows: [Row]
        let legend: [Legend]
    }

    private struct Row {
        let address: String
        let baseline: Int
        let gap: String?
        let gapBaseline: Int
        let end: Int
        let empty: Int
        let tables: Int
        let name: String
        let paths: [Path]
    }

    private struct Path {
        let kind: String
        let data: String
    }

    private struct Legend {
        let kind: String
        let meaning: String
        let textX: Int
        let textY: Int
        let path: String
    }

    /// What stands in braces is escaped by the library: names may hold anything.
    private static let template = """
        {{% CONTENT_TYPE: MARKUP}}\
        <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{width}} {{height}}" role="img" \
        aria-labelledby="title figures" font-family="ui-monospace, monospace" font-size="11">
        <title id="title">{{title}}</title>
        <desc id="figures">{{figures}}</desc>
        <style>
        svg { background: #fff; color: #222; }
        text { fill: currentColor; } .soft { opacity: .65; }
        .k0 { fill: #aaa; } .k1 { fill: #cfe3f2; } .k2 { fill: #8fbcdd; } .k3 { fill: #4a8fc0; }
        .k4 { fill: #1b5a8a; } .k5 { fill: #7a7a7a; }
        .k6 { stroke: #b36b00; stroke-width: 2; fill: none; }
        .k7 { stroke: #c00020; stroke-width: 1.6; fill: none; }
        @media (prefers-color-scheme: dark) {
        svg { background: #16181c; color: #e6e6e6; }
        .k0 { fill: #555; } .k1 { fill: #1d3a52; } .k2 { fill: #2f6690; } .k3 { fill: #57a0d3; }
        .k4 { fill: #b5dcf7; } .k5 { fill: #999; } .k6 { stroke: #ffb84d; } .k7 { stroke: #ff5d73; }
        }
        @media print { svg { background: none; color: #000; } }
        </style>
        <text x="{{left}}" y="28" font-size="18">{{title}}</text>
        <text x="{{left}}" y="48" font-size="13">{{figures}}</text>
        <text x="{{left}}" y="66" class="soft">{{scale}}</text>
        {{#rows}}
        <g>{{#gap}}<text x="{{left}}" y="{{gapBaseline}}" class="soft">{{gap}}</text>{{/gap}}\
        <text x="8" y="{{baseline}}" class="soft">{{address}}</text>
        {{#paths}}
        <path class="{{kind}}" d="{{data}}"/>
        {{/paths}}
        <text x="{{end}}" y="{{baseline}}">{{empty}} of {{tables}} empty</text>\
        <text x="{{end}}" dx="140" y="{{baseline}}" class="soft">{{name}}</text></g>
        {{/rows}}
        {{#legend}}
        <path class="{{kind}}" d="{{path}}"/><text x="{{textX}}" y="{{textY}}">{{meaning}}</text>
        {{/legend}}
        <text x="{{left}}" y="{{originTop}}" class="soft">{{origin}}</text>
        </svg>

        """
}
