// SPDX-License-Identifier: Apache-2.0

internal import CStatsPage
internal import Glibc
internal import ReclaimCore

/// The page through which the preload library shows what it did in a process.
public struct StatsPage: Sendable {
    public struct Counter: Sendable {
        /// The field's name in stats_page.h.
        public let name: String
        /// What it counts, in words.
        public let meaning: String
        public let value: UInt64
        public let group: Group
    }

    /// What counts something.
    public enum Group: Sendable {
        /// A reason why the library, or an arena, was left alone.
        case refusal
        /// jemalloc's extent hooks.
        case hooks
        /// Purges that were seen, in mode `madvise`.
        case purges
        /// The service thread, in each mode that has one.
        case passes
    }

    public let pid: Int32
    /// What the library does: `off`, `hooks`, `madvise`, `scan` or `hooks+scan`.
    public let mode: String
    /// A `Backend`'s raw value, 0 for none.
    public let backend: UInt32
    public let counters: [Counter]
    /// Tables that were to be freed and stay, by the name of the `KeptReason`; never zero.
    public let kept: [(reason: String, count: UInt64)]
    /// Fences at which a thread had to wait: below 2^index µs long, the last the rest.
    public let fencesMetByMicroseconds: [UInt64]
    /// Switched off with `ptreclaim ctl PID off`.
    public let isOff: Bool

    /// Whether the mode has a thread that passes can be asked of.
    public var hasServiceThread: Bool { ["madvise", "scan", "hooks+scan"].contains(mode) }

    public subscript(name: String) -> UInt64? {
        counters.first { $0.name == name }?.value
    }

    /// What the field `name` of stats_page.h means, in words; empty for a name that is none.
    public static func meaning(of name: String) -> String {
        for index in 0..<ptreclaim_stats_field_count {
            let field = unsafe ptreclaim_stats_field_at(index).pointee
            if unsafe String(cString: field.name) == name {
                return unsafe String(cString: field.meaning)
            }
        }
        return ""
    }

    /// Reads the page of `pid`: through the process's descriptor, its map entry, or its memory,
    /// whichever is left open.
    /// - Throws: `.noStatsPage`, `.parentsStatsPage`, `.badStatsPage`, or `.unreadable` where it
    ///   is there but closed to us.
    public static func read(pid: Int32) throws(ProcFSError) -> StatsPage {
        let entry = try mapping(pid: pid)
        // A descriptor may have been inherited and show the parent's page; the mapping cannot lie
        // once the child has made its own.
        let own = mappedFile(entry, pid: pid)
        var bytes = try? ProcFile(own).read(4096, at: 0)
        if bytes == nil {
            bytes = try? ProcFile("/proc/\(pid)/mem").read(4096, at: Int(entry.start))
        }
        if bytes == nil {
            let descriptors = descriptorPaths(pid: pid).lazy
            bytes = descriptors.compactMap { try? ProcFile($0).read(4096, at: 0) }.first
        }
        guard let bytes else {
            throw ProcFSError(code: .unreadable, errno: EACCES, what: own)
        }
        return try StatsPage(bytes: bytes, pid: pid)
    }

    private static let fileName = "memfd:\(PTRECLAIM_STATS_NAME)"

    /// Where the process maps the page.
    static func mapping(pid: Int32) throws(ProcFSError) -> MemoryMapEntry {
        let maps = try MemoryMapEntry.read(pid: pid)
        guard let entry = maps.first(where: { $0.name.contains(fileName) }) else {
            throw ProcFSError(code: .noStatsPage, errno: 0, what: "process \(pid)")
        }
        return entry
    }

    static func mappedFile(_ entry: MemoryMapEntry, pid: Int32) -> String {
        "/proc/\(pid)/map_files/\(String(entry.start, radix: 16))-\(String(entry.end, radix: 16))"
    }

    /// Descriptors of the process that are a page of this name: its own, or one of its parent's.
    static func descriptorPaths(pid: Int32) -> [String] {
        DirectoryListing.names("/proc/\(pid)/fd").map { "/proc/\(pid)/fd/\($0)" }.filter {
            DirectoryListing.linkTarget($0)?.contains(fileName) == true
        }
    }

    init(bytes: [UInt8], pid: Int32) throws(ProcFSError) {
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
                value: word(Int(field.offset), as: UInt64.self), group: Self.group(field.group))
        }
        let words = { (offset: Int?, count: Int) -> [UInt64] in
            (0..<count).map { index in word((offset ?? 0) + 8 * index, as: UInt64.self) }
        }
        kept = Self.kept(
            words(
                MemoryLayout<ptreclaim_stats_page>.offset(of: \.kept),
                Int(PTRECLAIM_STATS_REASONS)))
        fencesMetByMicroseconds = words(
            MemoryLayout<ptreclaim_stats_page>.offset(of: \.fences_met_by_microseconds),
            Int(PTRECLAIM_STATS_BUCKETS))
        isOff =
            word(
                MemoryLayout<ptreclaim_stats_page>.offset(of: \.control.is_off) ?? 0,
                as: UInt32.self) != 0
    }

    /// The counts that are not zero, by name.
    static func kept(_ counts: [UInt64]) -> [(reason: String, count: UInt64)] {
        counts.indices.filter { counts[$0] > 0 }.map { number in
            let reason = KeptReason(rawValue: UInt8(number))
            return (reason.map { "\($0.name)" } ?? "reason \(number)", counts[number])
        }
    }

    private static func group(_ number: UInt32) -> Group {
        switch ptreclaim_stats_group(number) {
        case PTRECLAIM_STATS_REFUSAL: .refusal
        case PTRECLAIM_STATS_HOOKS: .hooks
        case PTRECLAIM_STATS_PURGES: .purges
        default: .passes
        }
    }

    private static func namespacePIDs(of pid: Int32) -> [UInt32] {
        let status = (try? ProcFile.text("/proc/\(pid)/status")) ?? ""
        // The thread group's: `pid` may be that of any thread.
        let line = status.split(separator: "\n").first { $0.hasPrefix("NStgid:") }
        return line?.split(whereSeparator: { $0 == "\t" || $0 == " " }).compactMap { UInt32($0) }
            ?? [UInt32(pid)]
    }
}
