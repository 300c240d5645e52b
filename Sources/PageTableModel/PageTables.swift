// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

/// The page tables of one address space, four levels of them: a radix tree as the kernel's.
///
///     PGD   one, not counted
///     PUD   512 GiB each   512 numbers of PMD tables
///     PMD   1 GiB each     512 slots of 32 bits
///     PTE   2 MiB each     a slot, or 512 entries in a pool
///
/// Time and memory are linear in the tables that exist, whatever lies between them.
public struct PageTables: Sendable {
    private static let pudSpaceCount = Int(
        PageGeometry.userSpaceEnd / PageGeometry.pudTableByteCount)
    private static let noTable: Int32 = -1

    /// By 512 GiB: which chunk of `slots` is the PMD table of each GiB; empty where there is no PUD
    /// table.
    private var pudTables = [[Int32]](repeating: [], count: pudSpaceCount)
    private var slots: [Slot] = []
    private var freeChunks: [Int32] = []
    private var pool = TablePool()

    /// PTE tables, deposited ones too.
    public private(set) var pteTableCount = 0
    public private(set) var pmdTableCount = 0
    public private(set) var pudTableCount = 0
    /// PTE tables that were made since the beginning.
    public private(set) var pteTablesMade = 0
    /// PTE tables in use whose 512 entries are all none.
    public private(set) var emptyTableCount = 0
    /// PTE tables that are kept below huge pages.
    public private(set) var depositedTableCount = 0

    public init() {}

    /// VmPTE. The corresponding kernel function is `mm_pgtables_bytes`.
    public var byteCount: UInt {
        UInt(pteTableCount + pmdTableCount + pudTableCount) * PageGeometry.pageByteCount
    }
}

// MARK: - Looking

extension PageTables {
    private func place(of address: UInt) -> Int? {
        let table = pudTables[Int(address / PageGeometry.pudTableByteCount)]
        guard !table.isEmpty else { return nil }
        let chunk = table[Self.pmdIndex(of: address)]
        guard chunk != Self.noTable else { return nil }
        return Int(chunk) * 512 + Int(address / PageGeometry.spanByteCount % 512)
    }

    func slot(at address: UInt) -> Slot { place(of: address).map { slots[$0] } ?? .absent }

    /// Whether there is a PTE table that a walk could meet. A deposited one it could not.
    public func hasPTETable(at address: UInt) -> Bool { slot(at: address).isTable }
    public func isHuge(at address: UInt) -> Bool { slot(at: address).isHuge }
    func hasPMDTable(at address: UInt) -> Bool { place(of: address) != nil }
    func hasPUDTable(at address: UInt) -> Bool {
        !pudTables[Int(address / PageGeometry.pudTableByteCount)].isEmpty
    }

    private static func pmdIndex(of address: UInt) -> Int {
        Int(address / PageGeometry.pmdTableByteCount % 512)
    }

    /// The entry of the page at `address`; none where there is no table.
    public func entry(at address: UInt) -> PTE {
        let slot = slot(at: address)
        let index = Self.entryIndex(of: address)
        if let run = slot.run { return run.indices.contains(index) ? run.entry : .none }
        if let table = slot.poolIndex { return pool[table, index] }
        return .none
    }

    /// Entries of the table at `address` that are not none; 512 for a huge page.
    public func populatedCount(inTableAt address: UInt) -> Int { populatedCount(slot(at: address)) }

    private func populatedCount(_ slot: Slot) -> Int {
        if let run = slot.run { return run.indices.count }
        if let table = slot.poolIndex { return pool.populatedCount(table) }
        return 0
    }

    /// The lowest page of `range` whose entry is not none.
    public func firstPopulatedPage(in range: AddressRange) -> UInt? {
        var found: UInt?
        visit(range) { span, place in
            let indices = Self.entryIndices(of: range, in: span)
            var index: Int?
            if let run = slots[place].run {
                let common = run.indices.clamped(to: indices)
                index = common.isEmpty ? nil : common.lowerBound
            } else if let table = slots[place].poolIndex {
                index = pool.firstPopulated(table, indices)
            }
            found = index.map { span.start + UInt($0) * PageGeometry.pageByteCount }
            return found == nil
        }
        return found
    }

    /// Calls `body` for each PTE table that is in use or deposited below a part of `range`, lowest
    /// first, with the number of its entries that are not none.
    public func forEachTable(
        in range: AddressRange, _ body: (_ start: UInt, _ populatedCount: Int) -> Void
    ) {
        visit(range) { span, place in
            if slots[place].hasTable { body(span.start, populatedCount(slots[place])) }
            return true
        }
    }

    /// PMD tables of which each slot is absent or an empty PTE table.
    var idlePMDTableCount: Int {
        pudTables.reduce(0) { count, table in
            count
                + table.count { chunk in
                    guard chunk != Self.noTable else { return false }
                    let first = Int(chunk) * 512
                    return !slots[first..<first + 512].contains {
                        $0 != .absent && $0 != .empty
                    }
                }
        }
    }

    /// Calls `body` for each span of `range` that has a table or a huge page, lowest first.
    func forEachOccupiedSpan(in range: AddressRange, _ body: (Span) -> Void) {
        visit(range) { span, _ in
            body(span)
            return true
        }
    }

    func firstOccupiedSpan(in range: AddressRange) -> Span? {
        var found: Span?
        visit(range) { span, _ in
            found = span
            return false
        }
        return found
    }

    /// Calls `body` for each slot of `range` that is not absent, lowest first, until it says false.
    private func visit(_ range: AddressRange, _ body: (Span, Int) -> Bool) {
        var start = Span(containing: range.start).start
        while start < range.end {
            guard let place = place(of: start) else {
                start = nextPossibleTable(after: start)
                continue
            }
            // The rest of this PMD table, without looking it up again.
            let end = min(
                range.end, Self.roundedUp(start + 1, to: PageGeometry.pmdTableByteCount))
            for next in place..<place
                + Int((end - start + Self.spanMask) / PageGeometry.spanByteCount)
            where slots[next] != .absent {
                let offset = UInt(next - place) * PageGeometry.spanByteCount
                if !body(Span(containing: start + offset), next) { return }
            }
            start = end
        }
    }

    private static let spanMask = PageGeometry.spanByteCount - 1

    /// Where there may be a PMD table again, above an address that has none.
    private func nextPossibleTable(after address: UInt) -> UInt {
        Self.roundedUp(
            address + 1,
            to: hasPUDTable(at: address)
                ? PageGeometry.pmdTableByteCount : PageGeometry.pudTableByteCount)
    }

    private static func roundedUp(_ address: UInt, to byteCount: UInt) -> UInt {
        (address + byteCount - 1) & ~(byteCount - 1)
    }

    static func entryIndex(of address: UInt) -> Int {
        Int(address % PageGeometry.spanByteCount / PageGeometry.pageByteCount)
    }

    /// The entries of the table of `span` that map `range`.
    static func entryIndices(of range: AddressRange, in span: Span) -> Range<Int> {
        let start = max(range.start, span.start)
        let end = min(range.end, span.end)
        return entryIndex(of: start)..<(entryIndex(of: end - PageGeometry.pageByteCount) + 1)
    }
}

// MARK: - Changing

extension PageTables {
    /// Makes what is missing of the tables above the PTE table.
    /// The corresponding kernel functions are `pud_alloc` and `pmd_alloc`.
    @discardableResult
    mutating func allocateUpperTables(for address: UInt) -> Int {
        if let place = place(of: address) { return place }
        allocatePUDTable(for: address)
        let chunk = freeChunks.popLast() ?? Int32(slots.count / 512)
        if Int(chunk) * 512 == slots.count {
            slots.append(contentsOf: repeatElement(.absent, count: 512))
        }
        setPMDTable(chunk, at: address)
        pmdTableCount += 1
        return Int(chunk) * 512 + Int(address / PageGeometry.spanByteCount % 512)
    }

    private mutating func setPMDTable(_ chunk: Int32, at address: UInt) {
        pudTables[Int(address / PageGeometry.pudTableByteCount)][Self.pmdIndex(of: address)] = chunk
    }

    /// The corresponding kernel function is `pud_alloc`.
    mutating func allocatePUDTable(for address: UInt) {
        guard !hasPUDTable(at: address) else { return }
        pudTables[Int(address / PageGeometry.pudTableByteCount)] = [Int32](
            repeating: Self.noTable, count: 512)
        pudTableCount += 1
    }

    /// Makes what is missing of the three tables above the page at `address`.
    /// The corresponding kernel function is `pte_alloc`.
    @discardableResult
    mutating func allocateTables(for address: UInt) -> Int {
        let place = allocateUpperTables(for: address)
        if slots[place] == .absent {
            slots[place] = .empty
            pteTableCount += 1
            emptyTableCount += 1
            pteTablesMade += 1
        }
        return place
    }

    /// Sets one entry; makes the tables that this needs.
    mutating func set(_ entry: PTE, at address: UInt) {
        let place = allocateTables(for: address)
        let index = Self.entryIndex(of: address)
        change(place, index..<index + 1) { _ in entry }
    }

    /// Replaces each entry of `range`, in tables that exist, by what `change` makes of it.
    mutating func transform(_ range: AddressRange, _ change: (PTE) -> PTE) {
        forEachSlot(in: range) { tables, span, place in
            tables.change(place, Self.entryIndices(of: range, in: span), change)
        }
    }

    /// Replaces each entry of `range`, and makes the tables that this needs.
    mutating func fill(_ range: AddressRange, _ change: (PTE) -> PTE) {
        var span = Span(containing: range.start)
        while span.start < range.end {
            let place = allocateTables(for: span.start)
            self.change(place, Self.entryIndices(of: range, in: span), change)
            span = Span(containing: span.end)
        }
    }

    /// Calls `body` for each slot of `range` that is not absent; `body` may change or free it.
    mutating func forEachSlot(
        in range: AddressRange, _ body: (inout PageTables, Span, Int) -> Void
    ) {
        var span = Span(containing: range.start)
        while span.start < range.end {
            guard let place = place(of: span.start) else {
                span = Span(containing: nextPossibleTable(after: span.start))
                continue
            }
            if slots[place] != .absent { body(&self, span, place) }
            span = Span(containing: span.end)
        }
    }

    /// A table that one run of equal entries describes stays in its slot.
    mutating func change(_ place: Int, _ indices: Range<Int>, _ change: (PTE) -> PTE) {
        if let table = slots[place].poolIndex {
            pool.transform(table, indices, change)
            if pool.populatedCount(table) == 0, !slots[place].isHuge {
                pool.release(table)
                setInUse(.empty, at: place)
            }
            return
        }
        let old = slots[place].run ?? Slot.Run(indices: 0..<0, entry: .none)
        if let run = Self.changed(old, indices, change) {
            setInUse(Slot(run), at: place)
        } else {
            let table = pool.allocate()
            pool.fill(table, old.indices, with: old.entry)
            setInUse(Slot(poolIndex: table), at: place)
            self.change(place, indices, change)
        }
    }

    private mutating func setInUse(_ new: Slot, at place: Int) {
        emptyTableCount += (new == .empty ? 1 : 0) - (slots[place] == .empty ? 1 : 0)
        slots[place] = new
    }

    /// What becomes of a run, or nil where it would not be one any more.
    private static func changed(
        _ old: Slot.Run, _ indices: Range<Int>, _ change: (PTE) -> PTE
    ) -> Slot.Run? {
        let common = old.indices.clamped(to: indices)
        let rest = indices.count - common.count
        let ofNone = rest > 0 ? change(.none) : .none
        if common.isEmpty {
            if ofNone.isNone { return old }
            if old.indices.isEmpty { return Slot.Run(indices: indices, entry: ofNone) }
            guard ofNone == old.entry else { return nil }
            return joined(old.indices, indices, ofNone)
        }
        let ofRun = change(old.entry)
        if ofNone.isNone {
            if common == old.indices { return Slot.Run(indices: old.indices, entry: ofRun) }
            if ofRun == old.entry { return old }
            guard ofRun.isNone else { return nil }
            if common.lowerBound == old.indices.lowerBound {
                return Slot.Run(
                    indices: common.upperBound..<old.indices.upperBound, entry: old.entry)
            }
            if common.upperBound == old.indices.upperBound {
                return Slot.Run(
                    indices: old.indices.lowerBound..<common.lowerBound, entry: old.entry)
            }
            return nil
        }
        guard ofRun == ofNone, common == old.indices || ofRun == old.entry else { return nil }
        return joined(old.indices, indices, ofRun)
    }

    private static func joined(_ one: Range<Int>, _ other: Range<Int>, _ entry: PTE) -> Slot.Run? {
        guard one.lowerBound <= other.upperBound, other.lowerBound <= one.upperBound else {
            return nil
        }
        return Slot.Run(
            indices: min(one.lowerBound, other.lowerBound)..<max(one.upperBound, other.upperBound),
            entry: entry)
    }
}

// MARK: - Freeing and moving tables

extension PageTables {
    /// Frees the PTE table at `address`, or the huge page there with its deposited table, with
    /// everything in it.
    mutating func freeTable(at address: UInt) {
        guard let place = place(of: address), slots[place] != .absent else { return }
        setSlot(.absent, at: place)
    }

    private mutating func setSlot(_ new: Slot, at place: Int) {
        let old = slots[place]
        if let table = old.poolIndex, new.poolIndex != table { pool.release(table) }
        pteTableCount += (new.hasTable ? 1 : 0) - (old.hasTable ? 1 : 0)
        emptyTableCount += (new == .empty ? 1 : 0) - (old == .empty ? 1 : 0)
        depositedTableCount +=
            (new.isHuge && new.hasTable ? 1 : 0) - (old.isHuge && old.hasTable ? 1 : 0)
        slots[place] = new
    }

    /// Frees the tables of all three levels below the unmapped `range` that no neighbour needs.
    ///
    ///     floor                                 ceiling
    ///       |VMA|    unmapped range     |         |VMA|
    ///     |  kept  |   freed  |   freed   |   kept   |      tables of one level
    ///
    /// - Parameters:
    ///   - range: from the first to the last byte that was unmapped.
    ///   - floor: the end of the VMA before, 0 where there is none.
    ///   - ceiling: the start of the VMA behind, the end of user space where there is none.
    /// The corresponding kernel function is `free_pgtables`.
    mutating func freeTables(
        below range: AddressRange, floor: UInt, ceiling: UInt, keepsPMDTables: Bool = false,
        keepsPUDTables: Bool = false
    ) {
        func unneeded(_ byteCount: UInt) -> AddressRange {
            let mask = byteCount - 1
            let low = max(range.start & ~mask, (floor + mask) & ~mask)
            let high = min((range.end + mask) & ~mask, ceiling & ~mask)
            return AddressRange(start: low, end: max(low, high))
        }
        forEachSlot(in: unneeded(PageGeometry.spanByteCount)) { tables, _, place in
            tables.setSlot(.absent, at: place)
        }
        if keepsPMDTables { return }
        let gibibytes = unneeded(PageGeometry.pmdTableByteCount)
        var start = gibibytes.start
        while start < gibibytes.end {
            freePMDTable(at: start)
            start =
                hasPUDTable(at: start)
                ? start + PageGeometry.pmdTableByteCount : nextPossibleTable(after: start)
        }
        if keepsPUDTables { return }
        let puds = unneeded(PageGeometry.pudTableByteCount)
        for number in puds.start / PageGeometry.pudTableByteCount..<puds.end
            / PageGeometry.pudTableByteCount
        where !pudTables[Int(number)].isEmpty {
            pudTables[Int(number)] = []
            pudTableCount -= 1
        }
    }

    private mutating func freePMDTable(at address: UInt) {
        guard let first = place(of: address) else { return }
        for place in first..<first + 512 where slots[place] != .absent {
            setSlot(.absent, at: place)
        }
        freeChunks.append(Int32(first / 512))
        setPMDTable(Self.noTable, at: address)
        pmdTableCount -= 1
    }

    /// Hangs the table or the huge page of the span at `source` into the slot at `target`, which is
    /// absent, whose PMD table exists.
    /// The corresponding kernel functions are `move_normal_pmd` and `move_huge_pmd`.
    mutating func moveSlot(from source: UInt, to target: UInt) {
        guard let from = place(of: source), let to = place(of: target) else { return }
        slots[to] = slots[from]
        slots[from] = .absent
    }

    /// Hangs the whole PMD table at `source` into the PUD table of `target`, where none is.
    /// The corresponding kernel function is `move_normal_pud`.
    mutating func movePMDTable(from source: UInt, to target: UInt) {
        guard let first = place(of: source) else { return }
        setPMDTable(Self.noTable, at: source)
        setPMDTable(Int32(first / 512), at: target)
    }

    /// Maps the whole span by one entry. A PTE table that was there goes, but for the one that is
    /// deposited.
    mutating func setHuge(
        at address: UInt, hasDepositedTable: Bool, entries: (Int) -> PTE
    ) {
        let place = allocateUpperTables(for: address)
        let table = pool.allocate()
        for index in 0..<PageGeometry.entriesPerTable { pool[table, index] = entries(index) }
        if hasDepositedTable, !slots[place].hasTable { pteTablesMade += 1 }
        setSlot(
            Slot(hugeAtPoolIndex: table, hasDepositedTable: hasDepositedTable), at: place)
    }

    /// The deposited table takes the place of the huge page; its entries are as the page was.
    /// The corresponding kernel function is `__split_huge_pmd_locked`.
    mutating func splitHuge(at address: UInt) {
        guard let place = place(of: address), slots[place].isHuge, slots[place].hasTable,
            let table = slots[place].poolIndex
        else { return }
        if pool.populatedCount(table) == 0 {
            setSlot(.empty, at: place)
        } else {
            setSlot(Slot(poolIndex: table), at: place)
        }
    }

    /// A table that nobody finds again; for mistakes on purpose.
    mutating func leakTable() { pudTableCount += 1 }

    /// Whether the counts are those of the tables; for tests.
    var countsAreRight: Bool {
        var (pte, empty, deposited) = (0, 0, 0)
        let everything = AddressRange(start: 0, end: PageGeometry.userSpaceEnd)
        visit(everything) { _, place in
            pte += slots[place].hasTable ? 1 : 0
            empty += slots[place] == .empty ? 1 : 0
            deposited += slots[place].isHuge && slots[place].hasTable ? 1 : 0
            return true
        }
        return pte == pteTableCount && empty == emptyTableCount
            && deposited == depositedTableCount
            && pudTables.joined().count { $0 != Self.noTable } == pmdTableCount
            && pudTables.count { !$0.isEmpty } == pudTableCount
    }
}
