// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// What /proc says of a process, in bytes and seconds.
public struct ProcessStatus: Sendable {
    /// PTE, PMD and PUD tables. The kernel's `mm_pgtables_bytes`.
    public let vmPTEByteCount: UInt
    public let rssByteCount: UInt
    public let vmSizeByteCount: UInt
    public let vmaCount: Int
    /// User and system time of all threads, ended ones too, from the process's CPU-time clock:
    /// exact to the nanosecond, where the ticks of stat are exact to ten milliseconds.
    public let cpuSeconds: Double
    public let command: String

    /// The text of /proc/PID/status, readable by everybody.
    /// - Throws: `.unreadable` where there is no such process, `.noMemory` where it has none.
    public static func text(pid: Int32) throws(ProcFSError) -> String {
        let status = try ProcFile.text("/proc/\(pid)/status")
        guard status.kilobytes("VmPTE:") != nil else {
            throw ProcFSError(code: .noMemory, errno: 0, what: "process \(pid)")
        }
        return status
    }

    public static func read(pid: Int32) throws(ProcFSError) -> ProcessStatus {
        let status = try text(pid: pid)
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

    /// The value of the line `Name:` of a text of /proc/PID/status: any signs, but for a line break.
    public static func command(_ status: String) -> String {
        // By bytes: it may end with a carriage return, which is one Character with the break.
        let line = status.utf8.prefix { $0 != UInt8(ascii: "\n") }
        return String(Substring(line.dropFirst("Name:\t".utf8.count)))
    }

    private static func cpuSeconds(pid: Int32) throws(ProcFSError) -> Double {
        var clock: clockid_t = 0
        var time = timespec()
        let failure = unsafe clock_getcpuclockid(pid, &clock)
        guard failure == 0, unsafe clock_gettime(clock, &time) == 0 else {
            throw ProcFSError(code: .unreadable, errno: ESRCH, what: "CPU clock of \(pid)")
        }
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }
}
