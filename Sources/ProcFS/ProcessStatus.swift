// SPDX-License-Identifier: Apache-2.0

/// What /proc says of a process, in bytes and seconds.
public struct ProcessStatus: Sendable {
    /// PTE, PMD and PUD tables. The kernel's `mm_pgtables_bytes`.
    public let vmPTEByteCount: UInt
    public let rssByteCount: UInt
    public let vmSizeByteCount: UInt
    public let vmaCount: Int
    /// Time on a CPU of all threads that are alive, from schedstat: exact to the nanosecond, where
    /// the ticks of stat are exact to ten milliseconds.
    public let cpuSeconds: Double
    public let command: String

    public static func read(pid: Int32) throws(ProcFSError) -> ProcessStatus {
        let status = try ProcFile.text("/proc/\(pid)/status")
        guard let vmPTE = status.kilobytes("VmPTE:") else {
            throw ProcFSError(code: .noMemory, errno: 0, what: "process \(pid)")
        }
        let maps = try MemoryMapEntry.read(pid: pid)
        return ProcessStatus(
            vmPTEByteCount: vmPTE,
            rssByteCount: status.kilobytes("VmRSS:") ?? 0,
            vmSizeByteCount: status.kilobytes("VmSize:") ?? 0,
            vmaCount: maps.count,
            cpuSeconds: try cpuSeconds(pid: pid),
            command: command(status))
    }

    /// The value of the line `Name:`.
    static func command(_ status: String) -> String {
        String(status.prefix { $0 != "\n" }.dropFirst("Name:\t".count))
    }

    private static func cpuSeconds(pid: Int32) throws(ProcFSError) -> Double {
        var nanoseconds: UInt64 = 0
        for thread in DirectoryListing.names("/proc/\(pid)/task") {
            // A thread may end between the listing and the read.
            guard let text = try? ProcFile.text("/proc/\(pid)/task/\(thread)/schedstat") else {
                continue
            }
            nanoseconds += text.split(separator: " ").first.flatMap { UInt64($0) } ?? 0
        }
        return Double(nanoseconds) / 1e9
    }
}
