// SPDX-License-Identifier: Apache-2.0

internal import CStatsPage
internal import Glibc

/// The page through which the preload library shows what it did in a process.
public struct StatsPage: Sendable {
    public struct Counter: Sendable {
        /// The field's name in stats_page.h.
        public let name: String
        /// What it counts, in words.
        public let meaning: String
        public let value: UInt64
        /// True for the reasons why the library, or an arena, was left alone.
        public let isRefusal: Bool
    }

    public let pid: Int32
    /// What the library does: `off`, `hooks`, `madvise`, `scan` or `hooks+scan`.
    public let mode: String
    /// A `Backend`'s raw value, 0 for none.
    public let backend: UInt32
    public let counters: [Counter]

    public subscript(name: String) -> UInt64? {
        counters.first { $0.name == name }?.value
    }

    /// Reads the page of `pid`: through the process's descriptor, its map entry, or its memory,
    /// whichever is left open.
    /// - Throws: `.noStatsPage`, `.parentsStatsPage`, `.badStatsPage`, or `.unreadable` where it
    ///   is there but closed to us.
    public static func read(pid: Int32) throws(ProcFSError) -> StatsPage {
        let name = "memfd:\(PTRECLAIM_STATS_NAME)"
        let maps = try MemoryMapEntry.read(pid: pid)
        guard let entry = maps.first(where: { $0.name.contains(name) }) else {
            throw ProcFSError(code: .noStatsPage, errno: 0, what: "process \(pid)")
        }
        let range =
            String(entry.start, radix: 16) + "-" + String(entry.end, radix: 16)
        // A descriptor may have been inherited and show the parent's page; the mapping cannot lie
        // once the child has made its own.
        let own = "/proc/\(pid)/map_files/\(range)"
        var bytes = try? ProcFile(own).read(4096, at: 0)
        if bytes == nil {
            bytes = try? ProcFile("/proc/\(pid)/mem").read(4096, at: Int(entry.start))
        }
        if bytes == nil { bytes = descriptorPage(pid: pid, named: name) }
        guard let bytes else {
            throw ProcFSError(code: .unreadable, errno: EACCES, what: own)
        }
        return try StatsPage(bytes: bytes, pid: pid)
    }

    private static func descriptorPage(pid: Int32, named name: String) -> [UInt8]? {
        for descriptor in DirectoryListing.names("/proc/\(pid)/fd") {
            let path = "/proc/\(pid)/fd/\(descriptor)"
            guard DirectoryListing.linkTarget(path)?.contains(name) == true else { continue }
            if let bytes = try? ProcFile(path).read(4096, at: 0) { return bytes }
        }
        return nil
    }

    private init(bytes: [UInt8], pid: Int32) throws(ProcFSError) {
        func word<T: FixedWidthInteger>(_ offset: Int, as type: T.Type) -> T {
            bytes[offset..<offset + T.bitWidth / 8].reversed().reduce(0) { $0 << 8 | T($1) }
        }
        let what = "process \(pid)"
        guard bytes.count == 4096, word(0, as: UInt64.self) == PTRECLAIM_STATS_MAGIC,
            word(8, as: UInt32.self) == PTRECLAIM_STATS_VERSION,
            Int(word(12, as: UInt32.self)) == MemoryLayout<ptreclaim_stats_page>.size
        else { throw ProcFSError(code: .badStatsPage, errno: 0, what: what) }
        // PIDs are compared as the process itself sees them: in a container they differ from ours.
        guard Self.namespacePIDs(of: pid).contains(word(16, as: UInt32.self)) else {
            throw ProcFSError(code: .parentsStatsPage, errno: 0, what: what)
        }
        self.pid = pid
        mode =
            switch ptreclaim_mode(word(20, as: UInt32.self)) {
            case PTRECLAIM_MODE_OFF: "off"
            case PTRECLAIM_MODE_HOOKS: "hooks"
            case PTRECLAIM_MODE_MADVISE: "madvise"
            case PTRECLAIM_MODE_SCAN: "scan"
            case PTRECLAIM_MODE_HOOKS_AND_SCAN: "hooks+scan"
            default: "unknown"
            }
        backend = word(24, as: UInt32.self)
        counters = (0..<ptreclaim_stats_field_count).map { index in
            let field = unsafe ptreclaim_stats_field_at(index).pointee
            return unsafe Counter(
                name: String(cString: field.name), meaning: String(cString: field.meaning),
                value: word(Int(field.offset), as: UInt64.self), isRefusal: field.is_refusal != 0)
        }
    }

    private static func namespacePIDs(of pid: Int32) -> [UInt32] {
        let status = (try? ProcFile.text("/proc/\(pid)/status")) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("NSpid:") }
        return line?.split(whereSeparator: { $0 == "\t" || $0 == " " }).compactMap { UInt32($0) }
            ?? [UInt32(pid)]
    }
}
