// SPDX-License-Identifier: Apache-2.0

import CTraceFile
import Foundation
import ReclaimCore
import Testing
import TraceFile

@Suite struct TraceReaderTests {
    private func records(of reader: TraceReader) throws -> [TraceRecord] {
        var records: [TraceRecord] = []
        try reader.forEachRecord { _, record throws(TraceError) in records.append(record) }
        return records
    }

    @Test("The header tells whose trace it is, and how tables were freed")
    func header() throws {
        var trace = TraceBytes.fillAndPurge()
        trace.header.dropped = 3
        let header = try TraceReader(bytes: trace.bytes).header
        #expect(header.pid == 4711)
        #expect(header.backend == .dontneed)
        #expect(header.dontneedFreesTables)
        #expect(header.recordCount == trace.records.count)
        #expect(header.droppedCount == 3)
        #expect(header.mapping.start == TraceBytes.mapping)
        // The header's page, and 2000 records of 32 bytes.
        #expect(header.mapping.byteCount == 17 * TraceBytes.page)
    }

    @Test("Every kind of record is read as what it tells")
    func kinds() throws {
        let heap = TraceBytes.heap
        let extent = AddressRange(start: heap, end: heap + 2 * TraceBytes.page)
        let upper = AddressRange(start: extent.end, end: extent.end + TraceBytes.page)
        let cases: [(ptreclaim_trace_kind, ptreclaim_trace_flags?, TraceEvent)] = [
            (
                PTRECLAIM_TRACE_MAP, nil,
                .map(
                    extent, reserveByteCount: 4096, isCommitted: false, knowsReserve: true)
            ),
            (
                PTRECLAIM_TRACE_MAP, PTRECLAIM_TRACE_COMMITTED,
                .map(
                    extent, reserveByteCount: 4096, isCommitted: true, knowsReserve: true)
            ),
            (
                PTRECLAIM_TRACE_MAP, PTRECLAIM_TRACE_RESERVE_UNKNOWN,
                .map(
                    extent, reserveByteCount: 4096, isCommitted: false, knowsReserve: false)
            ),
            (PTRECLAIM_TRACE_MAP_OUTSIDE, nil, .mapOutside(extent)),
            (PTRECLAIM_TRACE_COMMIT, nil, .commit(extent)),
            (PTRECLAIM_TRACE_DECOMMIT, nil, .decommit(extent)),
            (PTRECLAIM_TRACE_MERGE, nil, .merge(lower: extent, upper: upper)),
            (PTRECLAIM_TRACE_PURGE_LAZY, nil, .purgeLazy(extent)),
            (PTRECLAIM_TRACE_PURGE_FORCED, nil, .purgeForced(extent)),
            (PTRECLAIM_TRACE_UNMAP, nil, .unmap(extent, hasFailed: false)),
            (
                PTRECLAIM_TRACE_UNMAP, PTRECLAIM_TRACE_FAILED,
                .unmap(extent, hasFailed: true)
            ),
            (PTRECLAIM_TRACE_DESTROY, nil, .destroy(extent)),
            (PTRECLAIM_TRACE_VM_PTE, nil, .vmPTE(heap, threadCount: 2)),
        ]
        var trace = TraceBytes()
        for (kind, flags, _) in cases {
            trace.add(kind, at: heap, pages: 2, more: 1, zapped: 7, flags: flags)
        }
        let read = try records(of: TraceReader(bytes: trace.bytes))
        #expect(read.map(\.event) == cases.map(\.2))
        #expect(read.allSatisfy { $0.zappedCount == 7 })
        let known = (1...255 as ClosedRange<UInt32>)
            .filter { unsafe ptreclaim_trace_kind_name($0) != nil }
        #expect(Set(known) == Set(cases.map(\.0.rawValue)), "a kind that no case above has")
    }

    @Test("A record that was never finished is passed over")
    func unfinished() throws {
        var trace = TraceBytes.fillAndPurge()
        trace.records[2].kind = 0
        let read = try records(of: TraceReader(bytes: trace.bytes))
        #expect(read.count == trace.records.count - 1)
    }

    @Test("A full file is read to its end, whatever places were asked for")
    func full() throws {
        var trace = TraceBytes.fillAndPurge()
        trace.header.capacity = UInt64(trace.records.count)
        var bytes = trace.bytes
        let taken = try #require(MemoryLayout<ptreclaim_trace_header>.offset(of: \.taken))
        bytes[taken + 4] = 1
        #expect(try TraceReader(bytes: bytes).header.recordCount == trace.records.count)
    }

    @Test("What cannot be a trace is refused, each for its reason")
    func refused() throws {
        func code(_ change: (inout TraceBytes) -> Void) -> TraceError.Code? {
            var trace = TraceBytes.fillAndPurge()
            change(&trace)
            do {
                _ = try records(of: TraceReader(bytes: trace.bytes))
                return nil
            } catch {
                return (error as? TraceError)?.code
            }
        }
        func isBadHeader(_ change: (inout ptreclaim_trace_header) -> Void) -> Bool {
            if case .badHeader = code({ change(&$0.header) }) { true } else { false }
        }
        func isBadRecord(_ change: (inout ptreclaim_trace_record) -> Void) -> Bool {
            if case .badRecord(index: 2, _) = code({ change(&$0.records[2]) }) {
                true
            } else {
                false
            }
        }
        #expect(code { _ in } == nil, "the trace is good as it is")
        #expect(code { $0.header.magic ^= 1 } == .notATrace)
        #expect(code { $0.header.version = 2 } == .unknownVersion(2))
        #expect(isBadHeader { $0.header_byte_count = 8192 })
        #expect(isBadHeader { $0.record_byte_count = 40 })
        #expect(isBadHeader { $0.page_byte_count = 16384 })
        #expect(isBadHeader { $0.backend = 0 })
        #expect(isBadHeader { $0.backend = 257 })
        #expect(isBadHeader { $0.mapping_address += 1 })
        #expect(isBadHeader { $0.mapping_address = 1 << 47 })
        #expect(isBadHeader { $0.mapping_address = .max - 4095 })
        #expect(isBadRecord { $0.kind = 200 })
        #expect(isBadRecord { $0.address += 8 })
        #expect(isBadRecord { $0.address = 1 << 47 })
        #expect(isBadRecord { $0.address = .max - 4095 })
        #expect(isBadRecord { $0.page_count = 0 })
        #expect(isBadRecord { $0.address = (1 << 47) - 4096 })
        #expect(
            isBadRecord {
                $0.address = (1 << 47) - 8192
                $0.page_count = 1
                $0.more_page_count = 2
            })
        #expect(
            isBadRecord {
                $0.kind = UInt8(PTRECLAIM_TRACE_MERGE.rawValue)
                $0.more_page_count = 0
            })
        #expect(
            isBadRecord {
                $0.kind = UInt8(PTRECLAIM_TRACE_VM_PTE.rawValue)
                $0.address = 1
            })
    }

    @Test("Whatever the file's length, it is a trace or an error")
    func truncated() {
        var trace = TraceBytes.fillAndPurge()
        trace.header.capacity = UInt64(trace.records.count)
        let bytes = trace.bytes
        for count in 0..<bytes.count {
            #expect(throws: TraceError.self) {
                try TraceReader(bytes: Array(bytes.prefix(count)))
            }
        }
    }

    @Test("A room for more records than a file can have is refused")
    func capacity() {
        var bytes = TraceBytes.fillAndPurge().bytes
        let capacity = 48
        for index in capacity..<capacity + 8 { bytes[index] = 0xff }
        #expect(throws: TraceError.self) { try TraceReader(bytes: bytes) }
    }

    @Test("Files that are none are refused with one line")
    func files() throws {
        for path in ["/nonexistent", "/tmp", "/dev/null", "/proc/self/status", "/etc/passwd", ""] {
            do {
                _ = try TraceReader(path: path)
                Issue.record("\(path) was read")
            } catch {
                #expect(!error.description.contains("\n") && error.what == path)
            }
        }
    }

    @Test("From a file the same is read as from memory")
    func file() throws {
        let url = FileManager.default.temporaryDirectory
            .appending(path: "ptreclaim-trace-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: url) }
        let bytes = TraceBytes.fillAndPurge().bytes
        try Data(bytes).write(to: url)
        let fromFile = try TraceReader(path: url.path())
        let fromMemory = try TraceReader(bytes: bytes)
        #expect(fromFile.header == fromMemory.header)
        #expect(try records(of: fromFile) == records(of: fromMemory))
    }
}
