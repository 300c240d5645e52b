// SPDX-License-Identifier: Apache-2.0

/// What one small file says of a process, to everybody: cheap enough for every second.
public struct ProcessGlance: Sendable {
    public let pid: Int32
    public let command: String
    /// PTE, PMD and PUD tables. The kernel's `mm_pgtables_bytes`.
    public let vmPTEByteCount: UInt
    public let rssByteCount: UInt
    public let vmSizeByteCount: UInt

    /// - Throws: `.unreadable` (ENOENT, ESRCH) where there is no such process, `.noMemory` for
    ///   kernel threads and for what has ended and is not waited for.
    public init(pid: Int32) throws(ProcFSError) {
        let status = try ProcessStatus.text(pid: pid)
        self.pid = pid
        command = ProcessStatus.command(status)
        vmPTEByteCount = status.kilobytes("VmPTE:") ?? 0
        rssByteCount = status.kilobytes("VmRSS:") ?? 0
        vmSizeByteCount = status.kilobytes("VmSize:") ?? 0
    }
}

/// Tells a process from the next one of the same ID, and a program from the one that it executes.
public struct ProcessIdentity: Sendable {
    /// The file that it runs; nil where one may not know.
    public let executable: String?
    /// Ticks since the machine started.
    private let startTime: UInt64
    /// Where its code and its stack lie: placed anew by each exec. Nil where one may not know.
    private let places: [UInt64]?

    /// - Throws: `.unreadable` (ENOENT, ESRCH) where there is no such process.
    public init(pid: Int32) throws(ProcFSError) {
        let stat = try ProcFile.text("/proc/\(pid)/stat")
        // The name may hold spaces and parentheses; the third field, the state, comes behind it.
        let end = stat.lastIndex(of: ")").map { stat.index(after: $0) } ?? stat.startIndex
        let fields = stat[end...].split(separator: " ")
        func field(_ number: Int) -> UInt64 {
            number - 3 < fields.count ? UInt64(fields[number - 3]) ?? 0 : 0
        }
        startTime = field(22)
        let places = [26, 27, 28].map(field)
        self.places = places.contains(0) ? nil : places
        executable = DirectoryListing.linkTarget("/proc/\(pid)/exe")
    }

    /// Whether it is the same process, whatever it runs.
    public func isSameProcess(as other: ProcessIdentity) -> Bool { startTime == other.startTime }

    /// Whether the process has executed a program since it was `before`. The same program without
    /// address space randomisation is not told apart.
    public func hasExecuted(since before: ProcessIdentity) -> Bool {
        guard let places, let old = before.places else { return false }
        return places != old
    }
}
