// SPDX-License-Identifier: Apache-2.0

internal import CTraceFile
public import ReclaimCore

/// What jemalloc told, or what was measured meanwhile. Every range is of whole pages, not empty,
/// and below `PageGeometry.userSpaceEnd`.
public enum TraceEvent: Equatable, Sendable {
    /// Mapped for jemalloc; in use at once if `isCommitted`. `reserveByteCount` bytes behind it are
    /// mapped, too, and unused; the library knows of them if `knowsReserve`.
    case map(AddressRange, reserveByteCount: UInt, isCommitted: Bool, knowsReserve: Bool)
    /// Mapped by jemalloc past the hooks: its own data, or an arena that has no hooks yet.
    case mapOutside(AddressRange)
    case commit(AddressRange)
    case decommit(AddressRange)
    /// The two touch, and neither was in use.
    case merge(lower: AddressRange, upper: AddressRange)
    case purgeLazy(AddressRange)
    case purgeForced(AddressRange)
    /// About to be unmapped; `hasFailed`: the kernel refused, and it is what it was before.
    case unmap(AddressRange, hasFailed: Bool)
    /// About to be unmapped together with the reserve behind it.
    case destroy(AddressRange)
    /// VmPTE of the process in bytes, and how many threads it has.
    case vmPTE(UInt, threadCount: Int)
}

public struct TraceRecord: Equatable, Sendable {
    /// Since the start of the trace.
    public let nanoseconds: UInt64
    public let event: TraceEvent
    /// How many spans the library zapped at this event.
    public let zappedCount: Int
    public let arena: Int

    public init(nanoseconds: UInt64, event: TraceEvent, zappedCount: Int = 0, arena: Int = 0) {
        self.nanoseconds = nanoseconds
        self.event = event
        self.zappedCount = zappedCount
        self.arena = arena
    }
}

// MARK: - Reading one

extension TraceRecord {
    /// Why bytes are no record, in words.
    struct Damage: Error {
        let text: String
    }

    /// Nil for a record that its thread had not finished.
    init?(_ raw: ptreclaim_trace_record) throws(Damage) {
        guard raw.kind != 0 else { return nil }
        self.init(
            nanoseconds: raw.time_ns, event: try TraceEvent(raw),
            zappedCount: Int(raw.zapped_count), arena: Int(raw.arena))
    }
}

extension TraceEvent {
    init(_ raw: ptreclaim_trace_record) throws(TraceRecord.Damage) {
        let kind = ptreclaim_trace_kind(rawValue: UInt32(raw.kind))
        let flags = UInt32(raw.flags)
        func has(_ flag: ptreclaim_trace_flags) -> Bool { flags & flag.rawValue != 0 }
        let page = PageGeometry.pageByteCount
        if kind == PTRECLAIM_TRACE_VM_PTE {
            guard raw.address % 1024 == 0, raw.address < PageGeometry.userSpaceEnd else {
                throw TraceRecord.Damage(text: "VmPTE of \(raw.address) bytes")
            }
            self = .vmPTE(UInt(raw.address), threadCount: Int(raw.page_count))
            return
        }
        guard raw.address % UInt64(page) == 0 else {
            throw TraceRecord.Damage(text: "address \(raw.address) is not on a page boundary")
        }
        guard raw.page_count > 0 else { throw TraceRecord.Damage(text: "an extent of no pages") }
        let moreByteCount = UInt(raw.more_page_count) * page
        guard
            let extent = AddressRange(
                start: UInt(raw.address), byteCount: UInt(raw.page_count) * page),
            let more = AddressRange(start: extent.end, byteCount: moreByteCount)
        else { throw TraceRecord.Damage(text: "an extent beyond the end of user space") }
        switch kind {
        case PTRECLAIM_TRACE_MAP:
            self = .map(
                extent, reserveByteCount: moreByteCount,
                isCommitted: has(PTRECLAIM_TRACE_COMMITTED),
                knowsReserve: !has(PTRECLAIM_TRACE_RESERVE_UNKNOWN))
        case PTRECLAIM_TRACE_MAP_OUTSIDE: self = .mapOutside(extent)
        case PTRECLAIM_TRACE_COMMIT: self = .commit(extent)
        case PTRECLAIM_TRACE_DECOMMIT: self = .decommit(extent)
        case PTRECLAIM_TRACE_MERGE:
            guard !more.isEmpty else { throw TraceRecord.Damage(text: "a merge with nothing") }
            self = .merge(lower: extent, upper: more)
        case PTRECLAIM_TRACE_PURGE_LAZY: self = .purgeLazy(extent)
        case PTRECLAIM_TRACE_PURGE_FORCED: self = .purgeForced(extent)
        case PTRECLAIM_TRACE_UNMAP:
            self = .unmap(extent, hasFailed: has(PTRECLAIM_TRACE_FAILED))
        case PTRECLAIM_TRACE_DESTROY: self = .destroy(extent)
        default: throw TraceRecord.Damage(text: "kind \(raw.kind) is not known")
        }
    }
}
