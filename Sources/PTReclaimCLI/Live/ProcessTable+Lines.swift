// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import ProcFS
internal import TextTable

extension ProcessTable {
    /// The title: the sums.
    var heading: ScreenLine {
        let share = wasteByteCount.map { waste in
            vmPTEByteCount == 0
                ? "" : String(format: " (%.1f %%)", 100 * Double(waste) / Double(vmPTEByteCount))
        }
        let title =
            "\(rows.count) processes, VmPTE \(Format.kilobytes(vmPTEByteCount)), waste "
            + Format.kilobytes(wasteByteCount) + (share ?? "")
        return ScreenLine("ptreclaim top  ", .heading) + ScreenLine(title)
    }

    /// One sentence for each reason why something could not be looked at.
    var notes: [String] {
        refusals.map {
            "\($0.count) could not be looked at: \($0.reason)"
        } + unknown.map { "\($0.count) known in part only: \($0.reason)" }
    }

    /// The columns' names, and a line for each of `rows`. What is left of `columns` is for the
    /// command line.
    static func lines(_ rows: some Collection<Row>, columns: Int) -> [ScreenLine] {
        let table = TextTable<Row> { row in
            let census = row.census
            return [
                Column(title: "    PID", value: "\(row.glance.pid)", align: .right),
                Column(title: "name           ", value: name(row)),
                Column(title: " VmPTE kB", value: kilobytes(census.vmPTEByteCount), align: .right),
                Column(title: "  empty", value: count(census.tables.empty), align: .right),
                Column(title: " waste kB", value: kilobytes(census.wasteByteCount), align: .right),
                Column(title: "waste %", value: percent(census.wastePercent), align: .right),
                Column(title: " ", value: row.isWasteful ? WasteMark.sign : " "),
                Column(
                    title: "    RSS", value: Format.size(row.glance.rssByteCount), align: .right),
                Column(
                    title: "   VIRT", value: Format.size(row.glance.vmSizeByteCount), align: .right),
            ]
        }
        let texts = (table.string(for: Array(rows), style: Style.plain) ?? "")
            .split(separator: "\n").map(String.init)
        guard let head = texts.first else { return [] }
        let left = columns - head.count - 2
        func with(_ commandLine: String, _ style: ScreenLine.Style) -> ScreenLine {
            left < 12
                ? "" : ScreenLine("  " + ScreenText.clipped(commandLine, to: left), style)
        }
        let heading = ScreenLine(head, .heading) + with("command line", .heading)
        return [heading]
            + zip(rows, texts.dropFirst()).map { row, text in
                ScreenLine(text, row.isWasteful ? .warning : .plain)
                    + with(ScreenText.printable(row.commandLine), .faint)
            }
    }

    /// The kernel's names have 15 bytes at most. The table counts characters, so a name of wide ones
    /// is not aligned.
    private static func name(_ row: Row) -> String { ScreenText.printable(row.glance.command) }

    private static func kilobytes(_ byteCount: UInt?) -> String {
        byteCount.map { "\($0 / 1024)" } ?? "?"
    }

    private static func count(_ count: Int?) -> String { count.map { "\($0)" } ?? "?" }

    private static func percent(_ value: Double?) -> String {
        value.map { String(format: "%.1f", $0) } ?? "?"
    }
}

extension Format {
    /// In the largest unit of 1024 that leaves a number of 1 or more: `61.2M`.
    static func size(_ byteCount: UInt) -> String {
        let value = Double(byteCount)
        for (unit, name) in [(0x1p40, "T"), (0x1p30, "G"), (0x1p20, "M")] where value >= unit {
            return String(format: "%.1f", value / unit) + name
        }
        return "\(byteCount >> 10)K"
    }

    static func seconds(_ duration: Duration) -> String {
        let value = duration / .seconds(1)
        return value == value.rounded() ? "\(Int(value)) s" : String(format: "%.1f s", value)
    }
}
