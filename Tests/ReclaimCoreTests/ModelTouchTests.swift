// SPDX-License-Identifier: Apache-2.0

import PageTableModel
import ReclaimCore
import Testing

/// Whole ranges are written in bulk, and must come out as written page by page.
@Suite struct ModelTouchTests {
    private let range = AddressRange(start: 1 << 40, end: (1 << 40) + (4 << 21))

    private func part(_ pages: Range<UInt>) -> AddressRange {
        AddressRange(
            start: range.start + pages.lowerBound * PageGeometry.pageByteCount,
            end: range.start + pages.upperBound * PageGeometry.pageByteCount)
    }

    @Test func bulkIsAsPageByPage() throws {
        let bulk = ModelSpace(profile: .linux618, backend: .dontneed)
        try bulk.mmap(range)
        try bulk.touch(part(100..<700))
        try bulk.free(part(150..<300))
        bulk.swapOut(part(400..<600))
        _ = try bulk.read(at: part(900..<901).start)
        let single = bulk.copied()
        try bulk.touch(range)
        for page in stride(from: range.start, to: range.end, by: 4096) {
            try single.write(1, at: page)
        }
        #expect(bulk.vmas == single.vmas)
        #expect(bulk.vmPTEByteCount() == single.vmPTEByteCount())
        for page in stride(from: range.start, to: range.end, by: 4096) {
            #expect(bulk.entry(at: page).state == .anonymous)
            #expect(single.entry(at: page).state == .anonymous)
        }
        // What is written is not taken any more when memory is short.
        bulk.reclaimLazily(range)
        #expect(bulk.entry(at: part(200..<201).start).state == .anonymous)
    }
}
