// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

/// A set of spans, a bit each, from a first address on. Emptied in the time of what is in it.
struct SpanSet {
    private let base: UInt
    private var words: [UInt64] = []
    /// Words that are not zero, in the order in which they became so.
    private var inUse: [Int] = []

    init(base: UInt) {
        self.base = base
    }

    var isEmpty: Bool { inUse.isEmpty }

    /// - Returns: whether the span was not in the set before.
    @discardableResult
    mutating func insert(_ span: Span) -> Bool {
        let number = Int((span.start - base) / PageGeometry.spanByteCount)
        let (word, bit) = (number / 64, UInt64(1) << UInt64(number % 64))
        if word >= words.count {
            words.append(contentsOf: repeatElement(0, count: word - words.count + 1 + word / 4))
        }
        guard words[word] & bit == 0 else { return false }
        if words[word] == 0 { inUse.append(word) }
        words[word] |= bit
        return true
    }

    /// Every span that has a byte in `range`.
    /// - Returns: how many were not in the set before.
    @discardableResult
    mutating func insert(_ range: AddressRange) -> Int {
        var count = 0
        var span = Span(containing: range.start)
        while span.start < range.end {
            count += insert(span) ? 1 : 0
            span = Span(containing: span.end)
        }
        return count
    }

    /// Calls `body` for each run of neighbouring spans, lowest first, and forgets them.
    mutating func removeAll(_ body: (AddressRange) throws -> Void) rethrows {
        var run: AddressRange?
        for word in inUse.sorted() {
            var bits = words[word]
            words[word] = 0
            while bits != 0 {
                let number = word * 64 + bits.trailingZeroBitCount
                bits &= bits - 1
                let start = base + UInt(number) * PageGeometry.spanByteCount
                if let last = run, last.end == start {
                    run = AddressRange(start: last.start, end: start + PageGeometry.spanByteCount)
                } else {
                    if let run { try body(run) }
                    run = Span(containing: start).range
                }
            }
        }
        inUse.removeAll(keepingCapacity: true)
        if let run { try body(run) }
    }
}
