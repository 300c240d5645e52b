// SPDX-License-Identifier: Apache-2.0

/// One spelling of the keys, wherever a census is printed. Bytes; unknown is null, never a missing
/// key.
extension PageTableCensus: Encodable {
    private enum Key: String, CodingKey {
        case pid, command, tables, worst
        case vmPTE = "vm_pte_bytes"
        case needed = "needed_bytes"
        case waste = "waste_bytes"
        case wastePercent = "waste_percent"
        case pmdPUD = "pmd_pud_bytes"
    }

    private enum TableKey: CodingKey { case live, empty, reclaimable }

    private struct Range: Encodable {
        let start: String
        let end: String
        let emptyTables: Int
        let name: String

        private enum CodingKeys: String, CodingKey {
            case start, end, name
            case emptyTables = "empty_tables"
        }
    }

    public func encode(to encoder: any Encoder) throws {
        var object = encoder.container(keyedBy: Key.self)
        try object.encode(pid, forKey: .pid)
        try object.encode(command, forKey: .command)
        try object.encode(vmPTEByteCount, forKey: .vmPTE)
        try object.encode(neededByteCount, forKey: .needed)
        try object.encode(wasteByteCount, forKey: .waste)
        try object.encode(wastePercent, forKey: .wastePercent)
        try object.encode(pmdPUDByteCount, forKey: .pmdPUD)
        var tables = object.nestedContainer(keyedBy: TableKey.self, forKey: .tables)
        try tables.encode(self.tables.live, forKey: .live)
        try tables.encode(self.tables.empty, forKey: .empty)
        try tables.encode(self.tables.reclaimable, forKey: .reclaimable)
        let worst = self.worst.map {
            Range(
                start: "0x" + String($0.start, radix: 16), end: "0x" + String($0.end, radix: 16),
                emptyTables: $0.emptyTables, name: $0.name)
        }
        try object.encode(worst, forKey: .worst)
    }
}
