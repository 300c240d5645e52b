// SPDX-License-Identifier: Apache-2.0

internal import PageTableModel
internal import ReclaimCore

/// What a policy did, in numbers that `Costs` gives a price.
public struct Work: Equatable, Sendable {
    /// PTE tables that were looked at.
    public internal(set) var tablesScanned = 0
    /// Entries of these that were read.
    public internal(set) var entriesRead = 0
    private var counts = [Int](repeating: 0, count: Cost.allCases.count)

    /// How many times a cost arose.
    public internal(set) subscript(cost: Cost) -> Int {
        get { counts[cost.rawValue] }
        set { counts[cost.rawValue] = newValue }
    }

    /// CPU time in seconds.
    public func seconds(_ costs: Costs) -> Double {
        Cost.allCases.reduce(0) { $0 + Double(self[$1]) * costs[$1] } / 1e9
    }
}

/// The model, and what a walk asks of it.
final class Meter: AddressSpace {
    let model: ModelSpace
    private(set) var tablesScanned = 0
    private(set) var entriesRead = 0
    private(set) var emptyLooks = 0
    private(set) var populatedLooks = 0
    private(set) var vainLooks = 0
    private(set) var fences = 0
    private(set) var tablesFreedInRuns = 0
    private(set) var tablesZapped = 0

    init(_ model: ModelSpace) { self.model = model }

    var discardFreesTables: Bool { model.discardFreesTables }
    var showsTables: Bool { model.showsTables }
    func vmPTEByteCount() -> UInt? { model.vmPTEByteCount() }
    func mapping(at address: UInt) -> Mapping { model.mapping(at: address) }
    func hidesTables(at address: UInt) -> Bool { model.hidesTables(at: address) }
    func reserveEnd(after end: UInt) -> UInt { model.reserveEnd(after: end) }

    /// Each span of `range` has a table: a walk asks where it has found them.
    func firstPopulatedPage(in range: AddressRange) -> UInt? {
        let page = model.firstPopulatedPage(in: range)
        let read = (page ?? range.end) - range.start
        entriesRead +=
            Int(read / PageGeometry.pageByteCount) + (page == nil ? 0 : 1)
        let empty = Int(read / PageGeometry.spanByteCount)
        emptyLooks += empty
        populatedLooks += page == nil ? 0 : 1
        tablesScanned += empty + (page == nil ? 0 : 1)
        return page
    }

    func firstTables(in run: SpanRun, atMost limit: Int) -> SpanRun? {
        let found = model.firstTables(in: run, atMost: limit)
        if found == nil { vainLooks += 1 }
        return found
    }

    func free(_ run: SpanRun, in mapping: Mapping, fenced: Bool) -> KeptReason? {
        if fenced { fences += 1 }
        tablesFreedInRuns += run.count
        return model.free(run, in: mapping, fenced: fenced)
    }

    func discard(_ range: AddressRange) throws(ReclaimError) { try model.discard(range) }

    func freeTable(of span: Span) throws(ReclaimError) {
        tablesZapped += 1
        try model.freeTable(of: span)
    }
}
