// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Glibc

/// Memory of the program's own, in whole spans of 2 MiB, given back in pieces that leave the tables.
struct OwnMemory: Sendable {
    static let spanByteCount: UInt = 2 << 20
    let range: Range<UInt>

    init(spanCount: Int) {
        let byteCount = (spanCount + 1) * Int(Self.spanByteCount)
        let memory = unsafe mmap(
            nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        unsafe precondition(memory != MAP_FAILED, "mmap: errno \(errno)")
        let noHugePages: Int32 = 15  // MADV_NOHUGEPAGE
        _ = unsafe madvise(memory, byteCount, noHugePages)
        let start = (UInt(bitPattern: memory) + Self.spanByteCount - 1) & ~(Self.spanByteCount - 1)
        range = start..<start + UInt(spanCount) * Self.spanByteCount
        makeEmpty()
    }

    func makeEmpty() {
        for address in stride(from: range.lowerBound, to: range.upperBound, by: 2 << 20) {
            guard let page = unsafe UnsafeMutableRawPointer(bitPattern: address) else { continue }
            unsafe page.storeBytes(of: 1, as: UInt8.self)
            _ = unsafe madvise(page, 4096, MADV_DONTNEED)
        }
    }

    /// How many of the spans have a PTE table.
    var tableCount: Int {
        let pagemap = ptreclaim_open_self_pagemap()
        defer { _ = ptreclaim_close(pagemap) }
        var count = 0
        for start in stride(from: range.lowerBound, to: range.upperBound, by: 2 << 20) {
            var first: UInt = 0
            var last: UInt = 0
            let found = unsafe ptreclaim_first_tables(
                pagemap, start, start + Self.spanByteCount, 1, &first, &last)
            count += found == 1 ? 1 : 0
        }
        return count
    }
}
