// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import PTReclaim
import ReclaimCore
import Synchronization
import Testing

/// Spans of this process that are one test's alone, mapped as the test asks, in a part of the
/// address space where the kernel puts nothing by itself: what is not mapped stays a hole, and
/// nothing merges with a neighbour.
///
/// It looks with calls of its own, and so changes nothing that the product keeps.
final class TestMemory {
    /// What a span holds for certain, and where: what must still be there at the end.
    private var written: [UInt: UInt8] = [:]
    let spans: SpanRun
    private static let taken = Atomic<UInt>(0)

    init(_ count: Int) {
        // 4 GiB apart, from 16.5 TiB on.
        let number = Self.taken.add(1, ordering: .relaxed).newValue
        let start = (UInt(1) << 44) + (UInt(1) << 39) + number << 32
        spans =
            AddressRange(start: start, end: start + UInt(count) * PageGeometry.spanByteCount)
            .wholeSpans
    }

    deinit { _ = ptreclaim_munmap(spans.start, Int(spans.range.byteCount)) }

    var range: Range<UInt> { spans.start..<spans.end }

    func addresses(_ some: Range<Int>) -> Range<UInt> {
        spans.start + UInt(some.lowerBound) * PageGeometry.spanByteCount..<spans.start + UInt(
            some.upperBound) * PageGeometry.spanByteCount
    }

    // MARK: What programs do

    static let anonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE

    /// Maps some of the spans over what was there. Huge pages, which need no table, are kept away.
    func map(
        _ some: Range<Int>? = nil, _ flags: Int32 = anonymous,
        protection: Int32 = PROT_READ | PROT_WRITE,
        file: Int32 = -1, offset: Int = 0
    ) throws {
        let place = some.map(addresses) ?? range
        try check(
            ptreclaim_mmap(
                place.lowerBound, place.count, protection, flags | MAP_FIXED, file, offset))
        _ = ptreclaim_madvise(place.lowerBound, place.count, MADV_NOHUGEPAGE)
    }

    func unmap(_ some: Range<Int>) throws {
        try check(ptreclaim_munmap(addresses(some).lowerBound, addresses(some).count))
    }

    func advise(_ some: Range<Int>? = nil, _ advice: Int32) throws {
        let place = some.map(addresses) ?? range
        try check(ptreclaim_madvise(place.lowerBound, place.count, advice))
    }

    func protect(_ some: Range<Int>? = nil, _ protection: Int32) throws {
        let place = some.map(addresses) ?? range
        try check(
            ptreclaim_syscall(
                Int(SYS_mprotect), Int(place.lowerBound), place.count, Int(protection), 0, 0, 0))
    }

    /// Nothing that is sealed can be unmapped or changed, until the process ends. Returns -errno.
    func seal() -> Int {
        let mseal = 462
        return ptreclaim_syscall(mseal, Int(spans.start), Int(spans.range.byteCount), 0, 0, 0, 0)
    }

    /// Writes to every 37th page of `span`, so that its table is populated.
    func write(_ span: Int) {
        for page in stride(from: UInt(0), to: 512, by: 37) {
            let address = addresses(span..<span + 1).lowerBound + page * 4096
            let byte = UInt8(truncatingIfNeeded: 1 + span * 31 + Int(page))
            // Sound: the test has mapped it.
            unsafe UnsafeMutablePointer<UInt8>(bitPattern: address)?.pointee = byte
            written[address] = byte
        }
    }

    /// Writes, and gives the pages back in pieces, as allocators do: the table stays.
    /// - Parameter keepsContents: of a shared mapping, whose bytes live in the page cache.
    func makeEmptyTables(_ some: Range<Int>? = nil, keepsContents: Bool = false) throws {
        for span in some ?? 0..<spans.count {
            write(span)
            let place = addresses(span..<span + 1)
            for piece in stride(from: place.lowerBound, to: place.upperBound, by: 1 << 18) {
                try check(ptreclaim_madvise(piece, 1 << 18, PTRECLAIM_MADV_DONTNEED_LOCKED))
            }
            if keepsContents { continue }
            for address in written.keys where place.contains(address) { written[address] = 0 }
        }
    }

    /// The bytes of `span` are no longer this test's to keep.
    func forget(_ span: Int) {
        written = written.filter { !addresses(span..<span + 1).contains($0.key) }
    }

    // MARK: What is there

    /// Whether each span has a table, and one that maps something.
    func states() throws -> [TableState] {
        let pagemap = ptreclaim_open_self_pagemap()
        try check(Int(pagemap))
        defer { _ = ptreclaim_close(pagemap) }
        return try (0..<spans.count).map { index in
            let span = spans[index]
            var first: UInt = 0
            var last: UInt = 0
            let populated = unsafe ptreclaim_first_populated(
                pagemap, true, span.start, span.end, &first)
            try check(populated)
            if populated > 0 { return .populated }
            let tables = unsafe ptreclaim_first_tables(
                pagemap, span.start, span.end, 1, &first, &last)
            try check(tables)
            return tables > 0 ? .empty : .absent
        }
    }

    /// Addresses whose byte is not what was written last. Reading fills tables: look first.
    func changedBytes() -> [UInt] {
        written.filter { address, byte in
            // Sound: written once, and mapped since.
            unsafe UnsafePointer<UInt8>(bitPattern: address)?.pointee != byte
        }.keys.sorted()
    }
}

/// A system call that a test needs failed.
struct SystemCallError: Error, CustomStringConvertible {
    let errno: Int32
    var description: String { "errno \(errno)" }
}

@discardableResult
func check(_ result: Int) throws(SystemCallError) -> Int {
    if (-4095...(-1)).contains(result) { throw SystemCallError(errno: Int32(-result)) }
    return result
}

/// `#expect` for exit tests: what leaves them is the text of an issue, not the values.
func say(
    _ isTrue: Bool, _ text: @autoclosure () throws -> String,
    at location: SourceLocation = #_sourceLocation
) rethrows {
    if !isTrue { try Issue.record("\(text())", sourceLocation: location) }
}

extension ReclaimReport {
    /// Everything that the report counts, by name; and "not examined" where the sum is wrong.
    var told: [String: Int] {
        var told: [String: Int] = [:]
        if tablesFreed > 0 { told["freed"] = tablesFreed }
        var sum = tablesFreed
        for reason in KeptReason.allCases where kept[reason] > 0 {
            told["\(reason.name)"] = kept[reason]
            if reason != .partial { sum += kept[reason] }
        }
        if sum != tablesExamined { told["not examined"] = sum - tablesExamined }
        return told
    }
}
