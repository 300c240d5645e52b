// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import ProcFS

/// A process on a terminal, looked at again and again.
struct WatchScreen {
    let interval: Duration
    /// Samples, at most; nil for no end.
    let limit: Int?
    let screen: LiveScreen
    private var watcher: Watcher
    private var history = WatchHistory()
    private var request: PassRequest?

    init(_ watcher: Watcher, interval: Duration, limit: Int?, on screen: LiveScreen) {
        self.watcher = watcher
        self.interval = interval
        self.limit = limit
        self.screen = screen
    }

    mutating func run() {
        defer { screen.close() }
        var due = ContinuousClock.now
        var count = 0
        while true {
            if ContinuousClock.now >= due {
                let sample = watcher.sample()
                history.add(sample)
                count += 1
                guard sample.glance != nil, count < limit ?? .max else { return leave() }
                due = max(due + interval, .now)
            }
            take(answer: request?.result)
            draw()
            switch screen.wait(until: request == nil ? due : min(due, .now + .milliseconds(100))) {
            case .key(.character("q")), .key(.character("Q")): return
            case .key(.character("n")) where request == nil:
                request = PassRequest(pid: watcher.pid)
            case .key, .stale, .due: break
            case .ending(let number): screen.end(by: number)
            }
        }
    }

    private mutating func take(answer: String?) {
        guard let answer else { return }
        request = nil
        history.note("now: \(answer)")
        watcher.hurry()
    }

    private func frame(in size: Terminal.Size) -> [ScreenLine] {
        guard let sample = history.last, let glance = sample.glance else { return [] }
        return WatchFrame(
            history: history, sample: sample, glance: glance, interval: interval,
            censusPeriod: watcher.censusPace.period, size: size
        ).lines
    }

    private func draw() {
        let size = screen.size
        var lines = Array(frame(in: size).prefix(size.rows - 1))
        while lines.count < size.rows - 1 { lines.append("") }
        let now = request == nil ? "n frees now" : "n: asked, waiting for the answer"
        lines.append(ScreenLine(ScreenText.joined(["q quits", now], to: size.columns), .faint))
        screen.draw(lines)
    }

    /// The last figures stay on the terminal.
    private func leave() {
        let size = screen.size
        screen.close()
        for line in frame(in: size) {
            print(line.text(columns: size.columns, isColored: Terminal.isColored))
        }
    }
}
