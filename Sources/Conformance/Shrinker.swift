// SPDX-License-Identifier: Apache-2.0

public import PageTableModel
internal import ReclaimCore

/// Makes a sequence that fails shorter and simpler, as long as it goes on failing.
public struct Shrinker {
    private let fails: ([Operation]) -> Bool
    private let isOutOfTime: () -> Bool

    /// - Parameters:
    ///   - limit: after which the best so far is taken.
    ///   - fails: whether a sequence still fails, from an empty field on.
    public init(limit: Duration = .seconds(30), fails: @escaping ([Operation]) -> Bool) {
        self.fails = fails
        let deadline = ContinuousClock.now + limit
        isOutOfTime = { ContinuousClock.now > deadline }
    }

    /// - Parameter operations: a sequence that fails.
    public func shrink(_ operations: [Operation]) -> [Operation] {
        var best = operations
        while !isOutOfTime() {
            let before = best
            best = simplify(dropChunks(best))
            if best == before { break }
        }
        return best
    }

    /// Delta debugging: leaves out halves, quarters, … single operations.
    private func dropChunks(_ operations: [Operation]) -> [Operation] {
        var best = operations
        var size = max(best.count / 2, 1)
        while true {
            var start = 0
            var hasDropped = false
            while start < best.count, !isOutOfTime() {
                var candidate = best
                candidate.removeSubrange(start..<min(start + size, best.count))
                if fails(candidate) {
                    best = candidate
                    hasDropped = true
                } else {
                    start += size
                }
            }
            if isOutOfTime() || best.isEmpty { return best }
            if size > 1 { size = max(size / 2, 1) } else if !hasDropped { return best }
        }
    }

    private func simplify(_ operations: [Operation]) -> [Operation] {
        var best = operations
        for index in best.indices.reversed() {
            var hasImproved = true
            while hasImproved, !isOutOfTime() {
                hasImproved = false
                for simpler in best[index].simpler {
                    var candidate = best
                    candidate[index] = simpler
                    if !isOutOfTime(), fails(candidate) {
                        best = candidate
                        hasImproved = true
                        break
                    }
                }
            }
        }
        return best
    }
}

extension Operation {
    /// Forms that are simpler than this one, the simplest first. Each is strictly simpler, so that
    /// simplifying ends.
    fileprivate var simpler: [Operation] {
        switch self {
        case .mmap(let range, let kind, let protection, let flags):
            smaller(range).map { .mmap($0, kind, protection, flags) }
                + (flags.isEmpty ? [] : [.mmap(range, kind, protection, [])])
        case .munmap(let range): smaller(range).map { .munmap($0) }
        case .mremap(let range, let byteCount, let target) where byteCount == range.byteCount:
            smaller(range).map {
                .mremap($0, byteCount: $0.byteCount, target.moved(by: $0.start - range.start))
            }
        case .mprotect(let range, let protection):
            smaller(range).map { .mprotect($0, protection) }
        case .madvise(let range, let advice): smaller(range).map { .madvise($0, advice) }
        case .mlock(let range, let onFault): smaller(range).map { .mlock($0, onFault: onFault) }
        case .munlock(let range): smaller(range).map { .munlock($0) }
        case .register(let range, let mode): smaller(range).map { .register($0, mode) }
        case .unregister(let range): smaller(range).map { .unregister($0) }
        case .writeProtect(let range, let isOn): smaller(range).map { .writeProtect($0, isOn) }
        case .reclaim(let range): smaller(range).map { .reclaim($0) }
        case .write(let address, let byte): byte == 1 ? [] : [.write(address, 1)]
        case .mremap, .read, .fork: []
        }
    }

    /// Parts of a range: its span-aligned inside, its first and its last part.
    private func smaller(_ range: AddressRange) -> [AddressRange] {
        let page = PageGeometry.pageByteCount
        let count = range.byteCount / page
        guard count > 1 else { return [] }
        var parts: [AddressRange] = []
        for size in [1, count / 2, count - 1] where size > 0 && size < count {
            parts.append(AddressRange(start: range.start, end: range.start + size * page))
            parts.append(AddressRange(start: range.end - size * page, end: range.end))
        }
        let spans = range.wholeSpans.range
        if !spans.isEmpty, spans != range { parts.insert(spans, at: 2) }
        return parts.filter { Field.range.contains($0) }
    }
}

extension Operation.Target {
    /// Where a part that begins `byteCount` later goes.
    fileprivate func moved(by byteCount: UInt) -> Operation.Target {
        switch self {
        case .inPlace: .inPlace
        case .fixed(let start): .fixed(start + byteCount)
        case .keepingSource(let start): .keepingSource(start + byteCount)
        }
    }
}
