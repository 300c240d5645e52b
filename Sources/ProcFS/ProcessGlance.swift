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
public struct ProcessIdentity: Sendable, Equatable {
    /// Ticks since the machine started.
    public let startTime: UInt64
    /// The file that it runs; nil where one may not know.
    public let executable: String?
    /// Where code, stack, arguments and environment lie: placed anew by each exec. Zeros where one
    /// may not know.
    private let places: [UInt64]

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
        places = [26, 27, 28, 48, 49, 50, 51].map(field)
        executable = DirectoryListing.linkTarget("/proc/\(pid)/exe")
    }

    /// Whether it is the same process, whatever it runs.
    public func isSameProcess(as other: ProcessIdentity) -> Bool { startTime == other.startTime }
}
