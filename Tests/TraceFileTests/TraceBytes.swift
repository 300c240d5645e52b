// SPDX-License-Identifier: Apache-2.0

import CTraceFile
import ReclaimCore

/// A trace made by hand, field by field.
struct TraceBytes {
    var header = ptreclaim_trace_header()
    var records: [ptreclaim_trace_record] = []

    /// Where the file was mapped: in another GiB than the extents of these tests.
    static let mapping: UInt = 0x7f00_0000_0000

    init(backend: Backend = .dontneed, dontneedFreesTables: Bool = true) {
        header.magic = PTRECLAIM_TRACE_MAGIC
        header.version = PTRECLAIM_TRACE_VERSION
        header.header_byte_count = PTRECLAIM_TRACE_HEADER_BYTES
        header.record_byte_count = UInt32(MemoryLayout<ptreclaim_trace_record>.size)
        header.page_byte_count = 4096
        header.pid = 4711
        header.mode = 1
        header.backend = UInt32(backend.rawValue)
        header.dontneed_frees_tables = dontneedFreesTables ? 1 : 0
        header.capacity = 2000
        header.mapping_address = UInt64(Self.mapping)
    }

    /// - Parameters are of pages and, for a sample, of bytes.
    mutating func add(
        _ kind: ptreclaim_trace_kind, at address: UInt, pages: UInt32 = 0, more: UInt32 = 0,
        zapped: UInt32 = 0, flags: ptreclaim_trace_flags? = nil
    ) {
        records.append(
            ptreclaim_trace_record(
                time_ns: UInt64(records.count) * 1_000_000, address: UInt64(address),
                page_count: pages, more_page_count: more, zapped_count: zapped, arena: 0,
                flags: UInt8(flags?.rawValue ?? 0), kind: UInt8(kind.rawValue)))
    }

    mutating func sample(_ kibibytes: UInt) {
        add(PTRECLAIM_TRACE_VM_PTE, at: kibibytes * 1024)
    }

    /// The file: header, records, and the room that is left.
    var bytes: [UInt8] {
        var header = header
        header.taken = UInt64(records.count)
        var bytes = Self.bytes(of: header)
        bytes += [UInt8](repeating: 0, count: Int(PTRECLAIM_TRACE_HEADER_BYTES) - bytes.count)
        for record in records { bytes += Self.bytes(of: record) }
        let room = Int(header.capacity) - records.count
        return bytes
            + [UInt8](repeating: 0, count: room * MemoryLayout<ptreclaim_trace_record>.size)
    }

    private static func bytes<Value: BitwiseCopyable>(of value: Value) -> [UInt8] {
        unsafe withUnsafeBytes(of: value) { unsafe [UInt8]($0) }
    }
}

extension TraceBytes {
    static let heap: UInt = 0x7000_0000_0000
    static let span = PageGeometry.spanByteCount
    static let page = PageGeometry.pageByteCount

    /// Four spans and a half are mapped with their reserve, used, and given back in two pieces that
    /// meet in the middle of a span.
    ///
    ///     | span 0 | span 1 | span 2 | span 3 | span 4   reserve |
    ///     | first decommit     | second decommit   |
    static func fillAndPurge() -> TraceBytes {
        var trace = TraceBytes()
        trace.sample(100)
        trace.add(PTRECLAIM_TRACE_MAP, at: heap, pages: 2304, more: 256)
        trace.add(PTRECLAIM_TRACE_COMMIT, at: heap, pages: 2304)
        // 5 PTE tables, a PMD table and a PUD table.
        trace.sample(100 + 28)
        trace.add(PTRECLAIM_TRACE_DECOMMIT, at: heap, pages: 1280, zapped: 2)
        trace.sample(100 + 20)
        trace.add(
            PTRECLAIM_TRACE_DECOMMIT, at: heap + 1280 * page, pages: 1024, zapped: 2)
        trace.sample(100 + 12)
        trace.add(PTRECLAIM_TRACE_MERGE, at: heap, pages: 1280, more: 1024, zapped: 1)
        trace.sample(100 + 8)
        return trace
    }
}
