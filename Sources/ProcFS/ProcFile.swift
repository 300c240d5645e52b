// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

/// An open file of procfs: the one place of this module where memory is handed to the kernel.
struct ProcFile: ~Copyable {
    let descriptor: Int32
    private let path: String

    init(_ path: String) throws(ProcFSError) {
        let result = unsafe path.withCString { unsafe ptreclaim_open($0, 0) }
        guard result >= 0 else {
            throw ProcFSError(code: .unreadable, errno: -result, what: path)
        }
        descriptor = result
        self.path = path
    }

    deinit { _ = ptreclaim_close(descriptor) }

    /// The whole text of a small file.
    static func text(_ path: String) throws(ProcFSError) -> String {
        let file = try ProcFile(path)
        var bytes: [UInt8] = []
        while true {
            let chunk = try file.read(64 << 10, at: bytes.count)
            if chunk.isEmpty { return String(decoding: bytes, as: UTF8.self) }
            bytes += chunk
        }
    }

    /// Up to `byteCount` bytes from `offset` on.
    func read(_ byteCount: Int, at offset: Int) throws(ProcFSError) -> [UInt8] {
        var result = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: byteCount) { buffer, count in
            // Sound: the kernel writes at most `byteCount` bytes, and says how many.
            guard let base = buffer.baseAddress else { return }
            result = unsafe ptreclaim_pread(descriptor, base, byteCount, offset)
            count = max(result, 0)
        }
        guard result >= 0 else {
            throw ProcFSError(code: .unreadable, errno: Int32(-result), what: path)
        }
        return bytes
    }

    struct Scan {
        var start: UInt
        var end: UInt
        var categoryMask: UInt32 = 0
        var anyOf: UInt32 = 0
        var returned: UInt32
        var maxPages: UInt64 = 0
    }

    /// At most this many regions a call: from 1024 on Linux 6.18 returned some twice.
    private static let regionsPerCall = 512

    /// One PAGEMAP_SCAN. Returns the regions and where the walk ended.
    func scan(_ scan: Scan) throws(ProcFSError) -> (regions: [Region], walkEnd: UInt) {
        var argument = ptreclaim_pm_scan_arg()
        argument.start = UInt64(scan.start)
        argument.end = UInt64(scan.end)
        argument.category_mask = UInt64(scan.categoryMask)
        argument.category_anyof_mask = UInt64(scan.anyOf)
        argument.return_mask = UInt64(scan.returned)
        argument.max_pages = scan.maxPages
        var result = 0
        let capacity = scan.maxPages == 0 ? Self.regionsPerCall : 1
        let regions = unsafe [ptreclaim_page_region](
            unsafeUninitializedCapacity: capacity
        ) { buffer, count in
            // Sound: the kernel writes at most `vec_len` regions, and says how many.
            argument.vec = UInt64(UInt(bitPattern: buffer.baseAddress))
            argument.vec_len = UInt64(capacity)
            result = unsafe ptreclaim_pagemap_scan(descriptor, &argument)
            count = max(result, 0)
        }
        guard result >= 0 else {
            throw ProcFSError(code: .unreadable, errno: Int32(-result), what: path)
        }
        return (
            regions.map {
                Region(
                    start: UInt($0.start), end: UInt($0.end), categories: UInt32($0.categories))
            }, UInt(argument.walk_end)
        )
    }

    struct Region {
        let start: UInt
        let end: UInt
        let categories: UInt32
    }

    /// Every region of `scan`, in as many calls as it takes.
    func scanAll(_ scan: Scan, _ body: (Region) -> Void) throws(ProcFSError) {
        var rest = scan
        while rest.start < rest.end {
            let (regions, walkEnd) = try self.scan(rest)
            regions.forEach(body)
            // The address space may end before the range does.
            guard walkEnd > rest.start else { return }
            rest.start = walkEnd
        }
    }
}

extension String {
    /// The number of kB behind `key` in a file like status, in bytes.
    func kilobytes(_ key: String) -> UInt? {
        for line in split(separator: "\n") where line.hasPrefix(key) {
            let fields = line.dropFirst(key.count).split(whereSeparator: { $0 == " " || $0 == "\t" }
            )
            return fields.first.flatMap { UInt($0) }.map { $0 * 1024 }
        }
        return nil
    }
}
