// SPDX-License-Identifier: Apache-2.0

/// One VMA, as /proc/PID/maps shows it.
public struct MemoryMapEntry: Sendable, Equatable {
    public let start: UInt
    public let end: UInt
    /// The permissions column, such as `rw-p`.
    public let permissions: String
    /// The path, `[heap]`, or an empty string for anonymous memory.
    public let name: String

    /// One line of maps; nil if it is none.
    init?(line: Substring) {
        let fields = line.split(separator: " ", maxSplits: 5, omittingEmptySubsequences: true)
        guard fields.count >= 5 else { return nil }
        let bounds = fields[0].split(separator: "-")
        guard bounds.count == 2, let start = UInt(bounds[0], radix: 16),
            let end = UInt(bounds[1], radix: 16)
        else { return nil }
        self.start = start
        self.end = end
        permissions = String(fields[1])
        name = fields.count == 6 ? String(fields[5].drop(while: { $0 == " " })) : ""
    }

    /// Mapped by the kernel itself; PAGEMAP_SCAN does not walk it.
    var isKernelMade: Bool { name.hasPrefix("[v") }

    public static func read(pid: Int32) throws(ProcFSError) -> [MemoryMapEntry] {
        var entries: [MemoryMapEntry] = []
        try ProcFile.forEachLine("/proc/\(pid)/maps") { line in
            if let entry = MemoryMapEntry(line: line) { entries.append(entry) }
        }
        return entries
    }
}
