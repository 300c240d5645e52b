// SPDX-License-Identifier: Apache-2.0

internal import ProcFS

/// Schema ptreclaim.top/1. Bytes; unknown is null, never a missing key.
///
/// `processes` are in the order asked for; `tables.reclaimable` of `ptreclaim inspect` is left out.
/// `not_looked_at` has each reason why processes could not be looked at, with how many, and
/// `unknown` what could not be told of those that could.
struct TopJSON: Encodable {
    private let table: ProcessTable
    private let rows: ArraySlice<ProcessTable.Row>

    /// - Parameter limit: processes, at most; the totals are of all.
    init(_ table: ProcessTable, limit: Int) {
        self.table = table
        rows = table.rows.prefix(limit)
    }

    private enum Key: String, CodingKey {
        case schema, processes, unknown
        case count = "process_count"
        case vmPTE = "vm_pte_bytes"
        case waste = "waste_bytes"
        case seconds = "pass_seconds"
        case notLookedAt = "not_looked_at"
    }

    func encode(to encoder: any Encoder) throws {
        var object = encoder.container(keyedBy: Key.self)
        try object.encode("ptreclaim.top/1", forKey: .schema)
        try object.encode(table.rows.count, forKey: .count)
        try object.encode(table.vmPTEByteCount, forKey: .vmPTE)
        try object.encode(table.wasteByteCount, forKey: .waste)
        try object.encode(table.duration / .seconds(1), forKey: .seconds)
        try object.encode(table.refusals, forKey: .notLookedAt)
        try object.encode(table.unknown, forKey: .unknown)
        try object.encode(rows.map { TopJSONRow(row: $0) }, forKey: .processes)
    }
}

private struct TopJSONRow: Encodable {
    let row: ProcessTable.Row

    private enum Key: String, CodingKey {
        case pid, command
        case commandLine = "command_line"
        case vmPTE = "vm_pte_bytes"
        case needed = "needed_bytes"
        case waste = "waste_bytes"
        case wastePercent = "waste_percent"
        case emptyTables = "empty_tables"
        case rss = "rss_bytes"
        case virtual = "virtual_bytes"
    }

    func encode(to encoder: any Encoder) throws {
        var object = encoder.container(keyedBy: Key.self)
        try object.encode(row.glance.pid, forKey: .pid)
        try object.encode(row.glance.command, forKey: .command)
        try object.encode(row.commandLine, forKey: .commandLine)
        try object.encode(row.census.vmPTEByteCount, forKey: .vmPTE)
        try object.encode(row.census.neededByteCount, forKey: .needed)
        try object.encode(row.census.wasteByteCount, forKey: .waste)
        try object.encode(row.census.wastePercent, forKey: .wastePercent)
        try object.encode(row.census.tables.empty, forKey: .emptyTables)
        try object.encode(row.glance.rssByteCount, forKey: .rss)
        try object.encode(row.glance.vmSizeByteCount, forKey: .virtual)
    }
}
