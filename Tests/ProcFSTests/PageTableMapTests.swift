// SPDX-License-Identifier: Apache-2.0

import Glibc
import ProcFS
import TestSupport
import Testing

/// The cells of `map` that lie in `window`, which is whole cells long.
private func cells(of map: PageTableMap, in window: Window) -> [PageTableMap.Cell] {
    map.rows.flatMap { row in
        row.cells.enumerated().compactMap { number, cell in
            let start = row.start + UInt(number) * map.grid.bytesPerCell
            return window.start <= start && start < window.end ? cell : nil
        }
    }
}

@Suite(.enabled(if: canSeeTables, "this kernel cannot tell empty tables from missing ones"))
struct PageTableMapTests {
    @Test("a cell for each span says whether its table is full, nearly empty, empty or missing")
    func states() async {
        await #expect(processExitsWith: .success) {
            let window = Window(spans: 4, advice: 15)
            window.touch(stride(from: 0, to: Window.spanByteCount, by: 4096))
            window.touch([Window.spanByteCount + 7 * 4096, 2 * Window.spanByteCount])
            window.purge([2 * Window.spanByteCount])
            let (_, taken) = try PageTableMap.take(
                pid: getpid(), cellsPerRow: 64, rowLimit: 10000)
            let map = try #require(taken)
            #expect(map.grid.spansPerCell == 1)
            let found = cells(of: map, in: window)
            #expect(found.map(\.liveCount) == [1, 1, 0, 0])
            #expect(found.map(\.emptyCount) == [0, 0, 1, 0])
            #expect(found.map(\.populatedCount) == [512, 1, 0, 0])
            #expect(found.map(\.fullness) == [1, 1.0 / 512, nil, nil])
        }
    }

    @Test("the cells add up to the census, at any scale", arguments: [1, 3, 12, 1000])
    func sums(rowLimit: Int) async {
        await #expect(processExitsWith: .success) { [rowLimit] in
            let window = Window(spans: 300, advice: 15)
            window.touch(stride(from: 0, to: window.byteCount, by: Window.spanByteCount))
            window.purge(stride(from: 0, to: window.byteCount, by: 3 * Window.spanByteCount))
            let (census, taken) = try PageTableMap.take(
                pid: getpid(), cellsPerRow: 32, rowLimit: rowLimit)
            let map = try #require(taken)
            #expect(map.rows.count <= rowLimit)
            let all = map.rows.flatMap(\.cells)
            #expect(all.reduce(0) { $0 + $1.liveCount } == census.tables.live)
            #expect(all.reduce(0) { $0 + $1.emptyCount } == census.tables.empty)
            #expect(
                map.rows.allSatisfy { $0.tableCount > 0 || $0.cells.contains { $0.hugeCount > 0 } })
            #expect(map.rows.allSatisfy { $0.start % map.grid.bytesPerRow == 0 })
            #expect(all.allSatisfy { $0.populatedCount <= 512 * $0.liveCount })
            // No finer picture would have had room.
            if map.grid.spansPerCell > 1 {
                let (_, finer) = try PageTableMap.take(
                    pid: getpid(), cellsPerRow: 32, rowLimit: rowLimit * 64)
                #expect(try #require(finer).grid.spansPerCell < map.grid.spansPerCell)
            }
        }
    }

    @Test(
        "huge pages are shown as such",
        .enabled(if: mayHaveHugePages, "needs transparent huge pages"))
    func hugePages() async {
        await #expect(processExitsWith: .success) {
            let window = Window(spans: 4, advice: 14)
            window.touch([0, 2 * Window.spanByteCount])
            let (_, taken) = try PageTableMap.take(
                pid: getpid(), cellsPerRow: 64, rowLimit: 10000)
            let found = cells(of: try #require(taken), in: window)
            #expect(found.map(\.hugeCount) == [1, 0, 1, 0])
            #expect(found.map(\.tableCount) == [0, 0, 0, 0])
        }
    }
}
