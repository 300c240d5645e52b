// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

/// Ranges put together.
struct RangeUnion {
    private var ranges: [AddressRange] = []
    private var normalCount = 0

    mutating func insert(_ range: AddressRange) {
        ranges.append(range)
        // In between, so that a long trace over little memory stays little.
        if ranges.count > 2 * normalCount + 1024 { normalise() }
    }

    /// Ordered, and neither overlapping nor touching.
    private mutating func normalise() {
        ranges.sort { $0.start < $1.start }
        var joined: [AddressRange] = []
        for range in ranges {
            if let last = joined.last, range.start <= last.end {
                joined[joined.count - 1].end = max(last.end, range.end)
            } else {
                joined.append(range)
            }
        }
        ranges = joined
        normalCount = joined.count
    }

    /// What is in this union and not in `other`, lowest first.
    func subtracting(_ other: RangeUnion) -> [AddressRange] {
        var (mine, others) = (self, other)
        mine.normalise()
        others.normalise()
        var rest: [AddressRange] = []
        var next = 0
        for range in mine.ranges {
            var start = range.start
            while next < others.ranges.count, others.ranges[next].end <= start { next += 1 }
            var index = next
            while index < others.ranges.count, others.ranges[index].start < range.end {
                let hole = others.ranges[index]
                if start < hole.start {
                    rest.append(AddressRange(start: start, end: hole.start))
                }
                start = max(start, hole.end)
                index += 1
            }
            if start < range.end { rest.append(AddressRange(start: start, end: range.end)) }
        }
        return rest
    }
}
