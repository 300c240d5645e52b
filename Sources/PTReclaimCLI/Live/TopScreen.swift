// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// The table on a terminal, looked at again and again.
struct TopScreen {
    let order: ProcessTable.Order
    let interval: Duration
    /// Processes, at most; nil for as many as fit.
    let limit: Int?

    private var pace = Paced(share: 0.1)

    init(order: ProcessTable.Order, interval: Duration, limit: Int?) {
        self.order = order
        self.interval = interval
        self.limit = limit
    }

    mutating func run(on screen: LiveScreen) {
        defer { screen.close() }
        var table = pass()
        var due = ContinuousClock.now + pause
        var isPaused = false
        var first = 0
        while true {
            let room = max(screen.size.rows - frameRowCount(table, screen), 1)
            first = max(min(first, table.rows.count - room), 0)
            screen.draw(lines(table, first: first, room: room, isPaused: isPaused, screen))
            switch screen.wait(until: isPaused ? .now + .seconds(3600) : due) {
            case .key(.character("q")), .key(.character("Q")): return
            case .key(.character(" ")): isPaused.toggle()
            case .key(.up): first -= 1
            case .key(.down): first += 1
            case .key(.pageUp): first -= room
            case .key(.pageDown): first += room
            case .key, .stale: break
            case .ending(let number): screen.end(by: number)
            case .due:
                guard !isPaused else { break }
                table = pass()
                due = .now + pause
            }
        }
    }

    private mutating func pass() -> ProcessTable {
        pace.look(at: .now) { [order] in ProcessTable(by: order) }
    }

    private var pause: Duration { max(interval, pace.period) }

    /// Title, notes, an empty line, the columns' names; an empty line and the keys below.
    private func frameRowCount(_ table: ProcessTable, _ screen: LiveScreen) -> Int {
        5 + notes(table, screen).count
    }

    private func notes(_ table: ProcessTable, _ screen: LiveScreen) -> [ScreenLine] {
        table.notes.flatMap { ScreenText.wrapped($0, to: screen.size.columns) }
            .map { ScreenLine($0) }
    }

    private func lines(
        _ table: ProcessTable, first: Int, room: Int, isPaused: Bool, _ screen: LiveScreen
    ) -> [ScreenLine] {
        let rows = table.rows.prefix(limit ?? .max).dropFirst(first).prefix(room)
        let columns = screen.size.columns
        var lines = [table.heading]
        lines += notes(table, screen) + [""]
        lines += ProcessTable.lines(rows, columns: columns)
        while lines.count < screen.size.rows - 1 { lines.append("") }
        let last = first + rows.count
        let parts = [
            "q quits", isPaused ? "paused: space goes on" : "space pauses", "arrows scroll",
            "\(rows.isEmpty ? 0 : first + 1)-\(last) of \(table.rows.count) by \(order.rawValue)",
            "every \(Format.seconds(pause))", WasteMark.meaning,
        ]
        lines.append(ScreenLine(ScreenText.joined(parts, to: columns), .faint))
        return lines
    }
}
