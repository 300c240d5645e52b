// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import CStatsPage
import Foundation
import ProcFS
import ReclaimCore

/// One pass that a process makes because it was asked to, through its stats page.
struct PassNow {
    let tablesFreed: Int
    /// Empty tables that it left, by the reason's name.
    let kept: [String: Int]

    /// What a mode may not touch, by its rules. Anything else that it keeps it should have freed.
    private static let untouchable: [KeptReason] = [
        .crossesVMA, .specialVMA, .ownStack, .privateFile, .writeProtectRegistered, .registered,
        .losesAttributes, .unseenMapping,
    ]

    /// Of the kept ones, those that the mode may not touch.
    var untouchableCount: Int { kept.values.reduce(0, +) }

    /// Asks `pid` and waits for the answer.
    /// - Throws: where the page cannot be written, or nobody answers for ten seconds.
    static func ask(pid: Int32) throws -> PassNow {
        let maps = try MemoryMapEntry.read(pid: pid)
        guard let entry = maps.first(where: { $0.name.contains("memfd:\(PTRECLAIM_STATS_NAME)") })
        else { throw HarnessError("process \(pid) has no stats page") }
        let range = String(entry.start, radix: 16) + "-" + String(entry.end, radix: 16)
        let path = "/proc/\(pid)/map_files/\(range)"
        guard let file = FileHandle(forUpdatingAtPath: path) else {
            throw HarnessError("\(path): cannot be written")
        }
        let address = ptreclaim_mmap(0, 4096, 3, 1, file.fileDescriptor, 0)  // READ|WRITE, SHARED
        guard address > 0,
            // Sound: mapped on the line before, and unmapped on the way out.
            let page = unsafe UnsafeMutablePointer<ptreclaim_stats_page>(bitPattern: address)
        else { throw HarnessError("\(path): errno \(-address)") }
        defer { _ = ptreclaim_munmap(UInt(bitPattern: address), 4096) }
        return try unsafe ask(page, pid: pid)
    }

    private static func ask(
        _ page: UnsafeMutablePointer<ptreclaim_stats_page>, pid: Int32
    ) throws -> PassNow {
        let request = unsafe page.pointee.control.requests &+ 1
        unsafe page.pointee.control.requests = request
        unsafe page.pointee.control.nudges &+= 1
        let nudges =
            Int(bitPattern: page) + offset(of: \.control) + controlOffset(of: \.nudges)
        let wake = 1  // not the private one
        _ = ptreclaim_syscall(Int(SYS_futex), nudges, wake, 1, 0, 0, 0)
        for _ in 0..<1000 {
            Thread.sleep(forTimeInterval: 0.01)
            guard unsafe page.pointee.control.answers == request else { continue }
            let error = unsafe page.pointee.control.pass_errno
            guard error == 0 else { throw HarnessError("a pass of \(pid): errno \(error)") }
            var kept: [String: Int] = [:]
            unsafe withUnsafeBytes(of: page.pointee.control.kept) { bytes in
                let counts = unsafe bytes.bindMemory(to: UInt64.self)
                for reason in untouchable {
                    let count = unsafe counts[Int(reason.rawValue)]
                    if count > 0 { kept["\(reason.name)"] = Int(count) }
                }
            }
            return PassNow(
                tablesFreed: Int(unsafe page.pointee.control.tables_freed), kept: kept)
        }
        throw HarnessError("process \(pid) does not answer")
    }

    private static func offset(of field: PartialKeyPath<ptreclaim_stats_page>) -> Int {
        MemoryLayout<ptreclaim_stats_page>.offset(of: field) ?? 0
    }

    private static func controlOffset(of field: PartialKeyPath<ptreclaim_control>) -> Int {
        MemoryLayout<ptreclaim_control>.offset(of: field) ?? 0
    }
}
