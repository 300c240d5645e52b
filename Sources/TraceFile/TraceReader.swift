// SPDX-License-Identifier: Apache-2.0

internal import CTraceFile
internal import Glibc
public import ReclaimCore

/// A file that the preload library wrote, checked field by field: any bytes give either records
/// that can be replayed or a `TraceError`.
public struct TraceReader: Sendable {
    public struct Header: Equatable, Sendable {
        public let pid: Int32
        /// How the library freed tables.
        public let backend: Backend
        /// Whether one `MADV_DONTNEED` over a whole span frees its table there: PT_RECLAIM.
        public let dontneedFreesTables: Bool
        /// CLOCK_BOOTTIME.
        public let startNanoseconds: UInt64
        /// Where the file was mapped in the process.
        public let mapping: AddressRange
        public let recordCount: Int
        /// Events for which there was no room.
        public let droppedCount: UInt64
    }

    public let header: Header
    private let source: Source
    private let what: String

    /// - Throws: what `TraceError.Code` lists but `.badRecord` and `.tooLarge`.
    public init(path: String) throws(TraceError) {
        try self.init(.file(try OpenFile(path)), what: path)
    }

    /// A trace in memory.
    public init(bytes: [UInt8]) throws(TraceError) {
        try self.init(.bytes(bytes), what: "trace")
    }

    private init(_ source: Source, what: String) throws(TraceError) {
        self.source = source
        self.what = what
        let head = try source.read(MemoryLayout<ptreclaim_trace_header>.size, at: 0, what)
        guard head.count == MemoryLayout<ptreclaim_trace_header>.size else {
            throw TraceError(.notATrace, what: what)
        }
        // Sound: a struct of integers, as many bytes as it has.
        let raw = unsafe head.withUnsafeBytes {
            unsafe $0.loadUnaligned(as: ptreclaim_trace_header.self)
        }
        header = try Header(raw, what)
        let needed =
            Int(PTRECLAIM_TRACE_HEADER_BYTES) + header.recordCount * Self.recordByteCount
        guard source.byteCount >= needed else {
            throw TraceError(
                .truncated(byteCount: source.byteCount, neededByteCount: needed), what: what)
        }
    }

    static let recordByteCount = MemoryLayout<ptreclaim_trace_record>.size
    private static let recordsPerRead = 32768

    /// Calls `body` for each finished record in the order in which the process took their places,
    /// with the number of its place.
    /// - Throws: `.badRecord`, `.truncated`, `.unreadable`, or what `body` throws.
    public func forEachRecord(
        _ body: (Int, TraceRecord) throws(TraceError) -> Void
    ) throws(TraceError) {
        var index = 0
        while index < header.recordCount {
            let count = min(Self.recordsPerRead, header.recordCount - index)
            let offset = Int(PTRECLAIM_TRACE_HEADER_BYTES) + index * Self.recordByteCount
            let bytes = try source.read(count * Self.recordByteCount, at: offset, what)
            guard bytes.count == count * Self.recordByteCount else {
                throw TraceError(
                    .truncated(
                        byteCount: offset + bytes.count,
                        neededByteCount: offset + count * Self.recordByteCount), what: what)
            }
            for place in 0..<count {
                // Sound: a struct of integers, and `bytes` has `count` of them.
                let raw = unsafe bytes.withUnsafeBytes {
                    unsafe $0.loadUnaligned(
                        fromByteOffset: place * Self.recordByteCount,
                        as: ptreclaim_trace_record.self)
                }
                let record: TraceRecord?
                do {
                    record = try TraceRecord(raw)
                } catch {
                    throw TraceError(.badRecord(index: index + place, error.text), what: what)
                }
                if let record { try body(index + place, record) }
            }
            index += count
        }
    }

    /// An error about one of its records.
    func error(_ code: TraceError.Code) -> TraceError { TraceError(code, what: what) }
}

extension TraceReader.Header {
    fileprivate init(_ raw: ptreclaim_trace_header, _ what: String) throws(TraceError) {
        func bad(_ why: String) -> TraceError { TraceError(.badHeader(why), what: what) }
        guard raw.magic == PTRECLAIM_TRACE_MAGIC else { throw TraceError(.notATrace, what: what) }
        guard raw.version == PTRECLAIM_TRACE_VERSION else {
            throw TraceError(.unknownVersion(raw.version), what: what)
        }
        guard raw.header_byte_count == PTRECLAIM_TRACE_HEADER_BYTES else {
            throw bad("a header of \(raw.header_byte_count) bytes")
        }
        guard raw.record_byte_count == TraceReader.recordByteCount else {
            throw bad("records of \(raw.record_byte_count) bytes")
        }
        guard raw.page_byte_count == PageGeometry.pageByteCount else {
            throw bad("pages of \(raw.page_byte_count) bytes")
        }
        guard let backend = UInt8(exactly: raw.backend).flatMap(Backend.init) else {
            throw bad("backend \(raw.backend)")
        }
        // PTRECLAIM_TRACE_MB is at most 4096.
        guard raw.capacity <= 1 << 27 else { throw bad("room for \(raw.capacity) records") }
        let page = UInt64(PageGeometry.pageByteCount)
        let byteCount =
            UInt64(PTRECLAIM_TRACE_HEADER_BYTES)
            + raw.capacity * UInt64(TraceReader.recordByteCount)
        guard raw.mapping_address % page == 0,
            let mapping = AddressRange(
                start: UInt(raw.mapping_address),
                byteCount: UInt((byteCount + page - 1) / page * page))
        else { throw bad("mapped at \(raw.mapping_address)") }
        pid = raw.pid
        self.backend = backend
        dontneedFreesTables = raw.dontneed_frees_tables != 0
        startNanoseconds = raw.start_time_ns
        self.mapping = mapping
        recordCount = Int(min(raw.taken, raw.capacity))
        droppedCount = raw.dropped
    }
}

// MARK: - Where the bytes are

private enum Source: Sendable {
    case bytes([UInt8])
    case file(OpenFile)

    var byteCount: Int {
        switch self {
        case .bytes(let bytes): bytes.count
        case .file(let file): file.byteCount
        }
    }

    /// At most `count` bytes from `offset`; fewer where they end.
    func read(_ count: Int, at offset: Int, _ what: String) throws(TraceError) -> [UInt8] {
        switch self {
        case .bytes(let bytes): Array(bytes.dropFirst(offset).prefix(count))
        case .file(let file): try file.read(count, at: offset, what)
        }
    }
}

/// A file that is open as long as somebody refers to it.
private final class OpenFile: Sendable {
    let byteCount: Int
    private let descriptor: Int32

    init(_ path: String) throws(TraceError) {
        // O_NONBLOCK: a FIFO without a writer would be waited for.
        let opened = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard opened >= 0 else { throw TraceError(.unreadable(errno: errno), what: path) }
        var status = stat()
        guard unsafe fstat(opened, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            let isDirectory = status.st_mode & S_IFMT == S_IFDIR
            close(opened)
            throw TraceError(isDirectory ? .unreadable(errno: EISDIR) : .notATrace, what: path)
        }
        byteCount = status.st_size
        descriptor = opened
    }

    deinit { close(descriptor) }

    func read(_ count: Int, at offset: Int, _ what: String) throws(TraceError) -> [UInt8] {
        var failure: Int32 = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            while filled < count {
                let result = unsafe pread(
                    descriptor, buffer.baseAddress?.advanced(by: filled), count - filled,
                    offset + filled)
                if result < 0, errno == EINTR { continue }
                if result < 0 { failure = errno }
                if result <= 0 { break }
                filled += result
            }
        }
        guard failure == 0 else { throw TraceError(.unreadable(errno: failure), what: what) }
        return bytes
    }
}
