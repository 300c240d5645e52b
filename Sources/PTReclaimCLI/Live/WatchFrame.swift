// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import ProcFS

/// The screen of `watch`, as lines.
struct WatchFrame {
    let history: WatchHistory
    let sample: WatchSample
    let glance: ProcessGlance
    let interval: Duration
    /// From one census to the next, at least.
    let censusPeriod: Duration
    let size: Terminal.Size

    /// Name, figure, and what belongs to it: `waste       1276 kB  45.6 % !`
    private static let labelColumns = 28
    private static let noteCount = 3
    private static let rowsAtMost = 8

    /// All but the line of the keys.
    var lines: [ScreenLine] {
        let empty = ScreenLine("")
        let head = [title, library, empty]
        let below = [empty, scale] + age
        let counters = self.counters
        let notes = self.notes
        // Space between the charts, or two would look like one; then the counters, then taller
        // charts: a figure says more than a picture of it.
        let left = size.rows - 1 - head.count - below.count - (notes.isEmpty ? 0 : notes.count + 1)
        let shown = counters.prefix(max(left - 2 * series.count - 1, 0))
        let each = (left - (shown.isEmpty ? 0 : shown.count + 1)) / series.count
        let rows = max(min(each - 1, Self.rowsAtMost), 1)
        let charts = series.map { chart($0, rows: rows) }
        var lines = head + charts.joined(separator: each > 1 ? [empty] : []) + below
        if !shown.isEmpty { lines += [empty] + shown }
        if !notes.isEmpty { lines += [empty] + notes }
        return lines
    }

    private var title: ScreenLine {
        ScreenLine("ptreclaim watch  ", .heading)
            + ScreenLine("\(glance.pid) \(ScreenText.printable(glance.command))")
            + ScreenLine(
                "  every \(Format.seconds(interval))  \(Format.clock(sample.time))", .faint)
    }

    private var library: ScreenLine {
        switch sample.library {
        case .success(let page) where page.mode == "off":
            ScreenLine("library: ", .faint)
                + ScreenLine("loaded, and does nothing: ptreclaim doctor \(page.pid) says why")
        case .success(let page):
            ScreenLine("library: ", .faint)
                + ScreenLine(
                    "mode \(page.mode), "
                        + (page.isOff ? "switched off: ptreclaim ctl \(page.pid) on" : "on"))
        case .failure(let error) where error.code == .noStatsPage:
            ScreenLine("library: ", .faint)
                + ScreenLine("not loaded there; ptreclaim run starts a program with it")
        case .failure(let error): ScreenLine("library: ", .faint) + ScreenLine("\(error)")
        }
    }

    // MARK: Charts

    private struct Series {
        let name: String
        let figure: String
        let style: ScreenLine.Style
        let values: [Double?]
        let top: Double
    }

    private var tablesTop: UInt {
        history.samples.suffix(chartColumns).compactMap(\.glance?.vmPTEByteCount).max() ?? 0
    }

    private var residentTop: UInt {
        history.samples.suffix(chartColumns).compactMap(\.glance?.rssByteCount).max() ?? 0
    }

    private var chartColumns: Int { max(size.columns - Self.labelColumns - 1, 1) }

    private var series: [Series] {
        let census = sample.census
        let isWasteful = WasteMark.isDeserved(
            waste: census?.wasteByteCount, of: census?.vmPTEByteCount ?? 0)
        let share = census?.wastePercent.map { String(format: "  %.1f %%", $0) } ?? ""
        func tables(
            _ name: String, _ figure: String, _ style: ScreenLine.Style = .plain,
            _ value: (WatchSample) -> UInt?
        ) -> Series {
            Series(
                name: name, figure: figure, style: style,
                values: history.samples.map { value($0).map { Double($0) } },
                top: Double(tablesTop))
        }
        return [
            tables("VmPTE", Self.kilobytes(glance.vmPTEByteCount)) { $0.glance?.vmPTEByteCount },
            tables("needed", Self.kilobytes(census?.neededByteCount)) {
                $0.census?.neededByteCount
            },
            tables(
                "waste",
                Self.kilobytes(census?.wasteByteCount) + share
                    + (isWasteful ? " \(WasteMark.sign)" : ""), isWasteful ? .warning : .plain
            ) { $0.census?.wasteByteCount },
            Series(
                name: "RSS", figure: Self.kilobytes(glance.rssByteCount), style: .plain,
                values: history.samples.map { $0.glance.map { Double($0.rssByteCount) } },
                top: Double(residentTop)),
        ]
    }

    private static func kilobytes(_ byteCount: UInt?) -> String {
        let text = Format.kilobytes(byteCount)
        return String(repeating: " ", count: max(11 - text.count, 0)) + text
    }

    private func chart(_ series: Series, rows: Int) -> [ScreenLine] {
        let spark = Sparkline(
            top: series.top, columns: chartColumns, rows: rows, isUTF8: ScreenText.isUTF8)
        return spark.lines(series.values).enumerated().map { index, line in
            let label = index == 0 ? series.name.padded(to: 8) + series.figure : ""
            return ScreenLine(label.padded(to: Self.labelColumns), series.style)
                + ScreenLine(line, series.style == .plain ? .chart : series.style)
        }
    }

    private var scale: ScreenLine {
        let parts = [
            "charts: page tables 0 to \(Format.kilobytes(tablesTop)), "
                + "RSS 0 to \(Format.size(residentTop))",
            "each column \(Format.seconds(interval))",
            WasteMark.meaning,
        ]
        return ScreenLine(ScreenText.joined(parts, to: size.columns), .faint)
    }

    /// How old needed and waste are, or an empty line where they are of now: nothing below moves.
    private var age: [ScreenLine] {
        var sentences: [String] = []
        if let age = sample.censusAge, age > interval / 2 {
            var sentence = "needed and waste are \(Format.seconds(age.rounded)) old"
            if censusPeriod > interval {
                sentence +=
                    ": looked at every \(Format.seconds(censusPeriod.rounded)), for "
                    + "\(Watcher.censusPercent) % of a core"
            }
            sentences.append(sentence)
        }
        if let failure = sample.censusFailure { sentences.append(failure) }
        let lines = sentences.flatMap { ScreenText.wrapped($0, to: size.columns) }
        return (lines.isEmpty ? [""] : lines).map { ScreenLine($0) }
    }

    // MARK: What the library counts, and what happened

    private static let mainCounters = [
        "tables_freed", "tables_empty_now", "spans_zapped", "passes", "tables_looked_at",
        "decommits",
        "fences", "fences_met", "fence_longest_ns", "purges_seen", "spans_skipped",
    ]

    private var counters: [ScreenLine] {
        guard case .success(let page) = sample.library else { return [] }
        return Self.mainCounters.compactMap { name in
            guard let counter = page.counters.first(where: { $0.name == name }),
                page.counts(counter.group)
            else { return nil }
            let growth = history.growth(of: name).map { $0 > 0 ? "+\($0)" : "" } ?? ""
            let value = "\(counter.value)"
            return ScreenLine(
                name.padded(to: 18) + String(repeating: " ", count: max(12 - value.count, 0))
                    + value
                    + "  " + growth.padded(to: 10))
                + ScreenLine(counter.meaning, .faint)
        }
    }

    private var notes: [ScreenLine] {
        let lines = history.notes.suffix(Self.noteCount).flatMap { note in
            ScreenText.wrapped(
                "\(Format.clock(note.time)) \(ScreenText.printable(note.text))", to: size.columns)
        }
        return lines.suffix(Self.noteCount * 2).map { ScreenLine($0) }
    }
}

extension Format {
    /// Local time of day.
    static func clock(_ time: Date) -> String {
        let parts = Calendar.current.dateComponents([.hour, .minute, .second], from: time)
        return String(
            format: "%02d:%02d:%02d", parts.hour ?? 0, parts.minute ?? 0, parts.second ?? 0)
    }
}

extension Duration {
    /// To whole seconds, from one second on.
    var rounded: Duration {
        let seconds = self / .seconds(1)
        return seconds < 1 ? self : .seconds(Int(seconds.rounded()))
    }
}
