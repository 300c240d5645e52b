// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

/// Extents that the allocator holds and nobody uses, lowest first, neighbours joined.
struct UnownedRanges {
    private(set) var ranges: [AddressRange] = []
    /// Where the last change was; the next is near.
    private var hint = 0

    /// The index of the first range that ends at or after `address`.
    private func index(endingFrom address: UInt) -> Int {
        var (low, high) = (0, ranges.count)
        if hint < ranges.count {
            // Around the last place first.
            if ranges[hint].end < address {
                low = hint + 1
                if low < high, ranges[low].end >= address { return low }
            } else {
                high = hint
                if hint == 0 || ranges[hint - 1].end < address { return hint }
            }
        }
        while low < high {
            let middle = (low + high) / 2
            if ranges[middle].end < address { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// Adds `range`, which is not in the set, and calls `join` for each of the two joints that it
    /// makes, with what then lies on either side.
    mutating func insert(
        _ range: AddressRange, join: (_ lower: AddressRange, _ upper: AddressRange) -> Void
    ) {
        let index = index(endingFrom: range.start)
        hint = index
        var joined = range
        let meetsLower = index < ranges.count && ranges[index].end == range.start
        if meetsLower {
            join(ranges[index], joined)
            joined.start = ranges[index].start
        }
        let next = meetsLower ? index + 1 : index
        let meetsUpper = next < ranges.count && ranges[next].start == range.end
        if meetsUpper {
            join(joined, ranges[next])
            joined.end = ranges[next].end
        }
        switch (meetsLower, meetsUpper) {
        case (true, true):
            ranges[index] = joined
            ranges.remove(at: next)
        case (true, false), (false, true): ranges[index] = joined
        case (false, false): ranges.insert(joined, at: index)
        }
    }

    /// Takes what `range` has of the set out of it, and calls `body` for each part.
    mutating func remove(
        _ range: AddressRange, _ body: (AddressRange) throws -> Void
    ) rethrows {
        var index = index(endingFrom: range.start + 1)
        hint = index
        while index < ranges.count, ranges[index].start < range.end {
            let old = ranges[index]
            let part = AddressRange(
                start: max(old.start, range.start), end: min(old.end, range.end))
            try body(part)
            var left: [AddressRange] = []
            if old.start < part.start {
                left.append(AddressRange(start: old.start, end: part.start))
            }
            if part.end < old.end { left.append(AddressRange(start: part.end, end: old.end)) }
            ranges.replaceSubrange(index...index, with: left)
            index += left.count
        }
    }
}
