// SPDX-License-Identifier: Apache-2.0

/// One entry of a PMD table in 32 bits: nothing, a PTE table, or a huge page.
///
/// A PTE table whose entries that are not none are one run of equal entries, as most are on a large
/// server, needs no more than these bits; an empty one, too. Every other table is in a `TablePool`.
struct Slot: Equatable, Sendable {
    var rawValue: UInt32

    static let absent = Slot(rawValue: 0)
    static let empty = Slot(rawValue: 1)

    private static let runTag: UInt32 = 1 << 30
    private static let poolTag: UInt32 = 2 << 30
    private static let hugeTag: UInt32 = 3 << 30
    private static let tagMask: UInt32 = 3 << 30
    private static let hasNoDepositedTable: UInt32 = 1 << 29

    /// Neighbouring entries that are equal and not none; the rest of the table is none.
    struct Run: Equatable {
        var indices: Range<Int>
        var entry: PTE
    }

    init(rawValue: UInt32) { self.rawValue = rawValue }

    init(_ run: Run) {
        guard !run.indices.isEmpty, !run.entry.isNone else {
            self = .empty
            return
        }
        rawValue =
            Self.runTag | UInt32(run.entry.rawValue) << 18 | UInt32(run.indices.lowerBound) << 9
            | UInt32(run.indices.count - 1)
    }

    init(poolIndex: Int) { rawValue = Self.poolTag | UInt32(poolIndex) }

    /// A huge page. Its 512 entries are in the pool, as they will be in its deposited table when it
    /// is split.
    init(hugeAtPoolIndex index: Int, hasDepositedTable: Bool) {
        rawValue =
            Self.hugeTag | UInt32(index) | (hasDepositedTable ? 0 : Self.hasNoDepositedTable)
    }

    var run: Run? {
        guard rawValue & Self.tagMask == Self.runTag else { return nil }
        let start = Int(rawValue >> 9 & 511)
        return Run(
            indices: start..<start + Int(rawValue & 511) + 1,
            entry: PTE(rawValue: UInt16(rawValue >> 18 & 0xFFF)))
    }

    var poolIndex: Int? {
        rawValue & Self.poolTag == 0 ? nil : Int(rawValue & (Self.hasNoDepositedTable - 1))
    }

    /// Whether the 2 MiB are mapped by one entry: no PTE table is in use.
    var isHuge: Bool { rawValue & Self.tagMask == Self.hugeTag }
    /// Whether there is a PTE table in use, which a walk could meet.
    var isTable: Bool { self != .absent && !isHuge }
    /// Whether it costs a page: a table in use, or deposited below a huge page.
    var hasTable: Bool {
        self != .absent && !(isHuge && rawValue & Self.hasNoDepositedTable != 0)
    }
}

/// The PTE tables that no slot can hold, 512 entries each. Freed ones are used again.
struct TablePool: Sendable {
    private static let tablesPerSlab = 64
    private static let entries = 512

    private var slabs: [[UInt16]] = []
    private var populated: [UInt16] = []
    private var free: [Int] = []

    /// - Returns: a table of none entries.
    mutating func allocate() -> Int {
        if let index = free.popLast() { return index }
        let index = populated.count
        populated.append(0)
        if index % Self.tablesPerSlab == 0 {
            slabs.append([UInt16](repeating: 0, count: Self.tablesPerSlab * Self.entries))
        }
        return index
    }

    mutating func release(_ table: Int) {
        if populated[table] != 0 { fill(table, 0..<Self.entries, with: .none) }
        free.append(table)
    }

    func populatedCount(_ table: Int) -> Int { Int(populated[table]) }

    subscript(table: Int, entry: Int) -> PTE {
        get { PTE(rawValue: slabs[table / Self.tablesPerSlab][Self.offset(table) + entry]) }
        set {
            let slab = table / Self.tablesPerSlab
            let place = Self.offset(table) + entry
            let old = slabs[slab][place]
            slabs[slab][place] = newValue.rawValue
            if old == 0, !newValue.isNone { populated[table] += 1 }
            if old != 0, newValue.isNone { populated[table] -= 1 }
        }
    }

    mutating func fill(_ table: Int, _ indices: Range<Int>, with entry: PTE) {
        transform(table, indices) { _ in entry }
    }

    /// Replaces each of some entries by what `change` makes of it.
    mutating func transform(_ table: Int, _ indices: Range<Int>, _ change: (PTE) -> PTE) {
        var balance = 0
        let offset = Self.offset(table)
        Self.change(
            &slabs[table / Self.tablesPerSlab],
            offset + indices.lowerBound..<offset + indices.upperBound, change, &balance)
        populated[table] = UInt16(Int(populated[table]) + balance)
    }

    private static func change(
        _ slab: inout [UInt16], _ places: Range<Int>, _ change: (PTE) -> PTE, _ balance: inout Int
    ) {
        for place in places {
            let old = slab[place]
            let new = change(PTE(rawValue: old)).rawValue
            if new == old { continue }
            balance += (new == 0 ? 0 : 1) - (old == 0 ? 0 : 1)
            slab[place] = new
        }
    }

    func firstPopulated(_ table: Int, _ indices: Range<Int>) -> Int? {
        guard populated[table] > 0 else { return nil }
        let slab = slabs[table / Self.tablesPerSlab]
        let offset = Self.offset(table)
        return indices.first { slab[offset + $0] != 0 }
    }

    private static func offset(_ table: Int) -> Int { table % tablesPerSlab * entries }
}
