// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import PageTableModel
import ReclaimCore
import Testing

private let page = PageGeometry.pageByteCount
private let span = PageGeometry.spanByteCount
private let gib = PageGeometry.pmdTableByteCount
private let off = UInt32(PTRECLAIM_MARK_OFF.rawValue)
private let on = UInt32(PTRECLAIM_MARK_ON.rawValue)
private let seenEmpty = UInt32(PTRECLAIM_MARK_EMPTY.rawValue)

/// Random calls, compared with the rule written down in the simplest way.
extension LayoutTests {
    /// A span as the rule of the header says it, kept in a dictionary.
    private struct Reference: Equatable {
        var pages = 0
        var marks: UInt32 = 0
        var clears = 0
        var word: UInt32 { UInt32(min(pages, 1023)) | marks }
    }

    private struct Edge {
        let span: UInt
        let pages: Int
        let before: Reference
        let after: Reference
    }

    @Test(arguments: [1, 2, 3, UInt64.random(in: 4 ... .max)])
    func itIsWhatADictionaryOfSpansSays(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var spans: [UInt: Reference] = [:]
        let window = place..<place + 4 * gib
        /// Between a clear and its replace, as in the middle of a call of another thread.
        var pending: [(Range<UInt>, ptreclaim_layout_edges, [Edge])] = []

        func someRange() -> Range<UInt> {
            let unit = [page, page, span, span, gib][random.next(below: 5)]
            let start = window.lowerBound + UInt(random.next(below: Int(4 * gib / unit))) * unit
            let length = UInt(1 + random.next(below: unit == page ? 1500 : 3)) * unit
            return start..<min(start + length, window.upperBound)
        }
        func pieces(_ range: Range<UInt>) -> [(span: UInt, pages: Int)] {
            stride(from: range.lowerBound & ~(span - 1), to: range.upperBound, by: Int(span)).map {
                let (start, end) = (max($0, range.lowerBound), min($0 + span, range.upperBound))
                return ($0, Int((end - start) / page))
            }
        }
        func whole(_ range: Range<UInt>) -> Range<UInt> {
            range.lowerBound & ~(span - 1)..<(range.upperBound + span - 1) & ~(span - 1)
        }
        func runs(_ range: Range<UInt>, _ mask: UInt32, _ wanted: UInt32) -> Range<UInt>? {
            let matching = stride(from: range.lowerBound, to: range.upperBound, by: Int(span)).map {
                ($0, (spans[$0] ?? Reference()).word & (0x3ff | mask) == 512 | wanted)
            }
            guard let first = matching.first(where: { $0.1 })?.0 else { return nil }
            let end = matching.first { $0.0 > first && !$0.1 }?.0 ?? range.upperBound
            return first..<end
        }
        func clearReference(_ range: Range<UInt>) -> [Edge] {
            pieces(range).map { piece in
                let before = spans[piece.span] ?? Reference()
                var after = Reference()
                after.clears = before.clears + 1
                spans[piece.span] = after
                return Edge(span: piece.span, pages: piece.pages, before: before, after: after)
            }
        }

        for step in 0..<1500 {
            let range = someRange()
            switch random.next(below: 8) {
            case 0, 1:
                ptreclaim_layout_add(range.lowerBound, range.upperBound)
                for piece in pieces(range) {
                    spans[piece.span, default: .init()].pages += piece.pages
                }
            case 2:
                clear(range.lowerBound, range.upperBound)
                _ = clearReference(range)
            case 3:
                let edges = ptreclaim_layout_clear(range.lowerBound, range.upperBound)
                pending.append((range, edges, clearReference(range)))
            case 4:
                guard !pending.isEmpty else { continue }
                let (range, edges, old) = pending.remove(at: random.next(below: pending.count))
                ptreclaim_layout_replace(range.lowerBound, range.upperBound, edges)
                for edge in old {
                    let isWhole = edge.pages == 512
                    var now = spans[edge.span]
                    now?.marks &= ~seenEmpty
                    if !isWhole, edge.before.pages == 512, now == edge.after {
                        spans[edge.span]?.pages = 512
                        spans[edge.span]?.marks = edge.before.marks & (off | on)
                    } else {
                        spans[edge.span]?.pages += edge.pages
                    }
                }
            case 5:
                let range = whole(range)
                let marks = [off, on, seenEmpty, off | on]
                let (set, unset) = (marks[random.next(below: 4)], marks[random.next(below: 4)])
                #expect(ptreclaim_layout_mark(range.lowerBound, range.upperBound, set, unset))
                for piece in pieces(range) {
                    let old = spans[piece.span]?.marks ?? 0
                    spans[piece.span, default: .init()].marks = old & ~unset | set
                }
            default:
                let range = whole(range)
                let (mask, wanted) = [
                    (off, 0), (off | on, on), (off | seenEmpty, seenEmpty), (0, 0),
                ][random.next(below: 4)]
                let expected = runs(range, mask, wanted)
                let found = find(range.lowerBound, range.upperBound, mask: mask, wanted: wanted)
                #expect(found == expected, "seed \(seed), step \(step)")
                let claimed = claim(range.lowerBound, range.upperBound, mask: mask, wanted: wanted)
                #expect(claimed == expected, "seed \(seed), step \(step)")
                if let claimed {
                    ptreclaim_layout_release(claimed.lowerBound, claimed.upperBound)
                }
            }
            for address in stride(from: window.lowerBound, to: window.upperBound, by: Int(span)) {
                let expected = spans[address]?.word ?? 0
                guard word(address) == expected else {
                    let number = (address - place) / span
                    let difference = "\(word(address)), not \(expected), at span \(number)"
                    Issue.record("seed \(seed), step \(step): \(difference)")
                    return
                }
            }
        }
    }
}
