// SPDX-License-Identifier: Apache-2.0

internal import PageTableModel
internal import ReclaimCore

/// What a generator believes to be mapped, in pages from the start of the field. It never learns
/// whether a call failed, so that what it makes depends on the seed alone; a wrong belief makes an
/// operation hit a hole now and then.
struct Sketch {
    struct Piece: Equatable {
        var pages: Range<Int>
        var kind: VMA.Kind
        var protection: VMA.Protection
    }

    private(set) var pieces: [Piece] = []

    mutating func remove(_ pages: Range<Int>) {
        pieces = pieces.flatMap { piece in
            guard piece.pages.overlaps(pages) else { return [piece] }
            var left = piece
            var right = piece
            left.pages = piece.pages.lowerBound..<max(piece.pages.lowerBound, pages.lowerBound)
            right.pages = min(piece.pages.upperBound, pages.upperBound)..<piece.pages.upperBound
            return [left, right].filter { !$0.pages.isEmpty }
        }
    }

    mutating func insert(_ piece: Piece) {
        remove(piece.pages)
        pieces.append(piece)
    }

    mutating func protect(_ pages: Range<Int>, _ protection: VMA.Protection) {
        for var piece in cut(pages) {
            piece.protection = protection
            pieces.append(piece)
        }
    }

    mutating func move(_ pages: Range<Int>, to start: Int, count: Int, keepsSource: Bool) {
        guard let first = pieces.first(where: { $0.pages.contains(pages.lowerBound) }) else {
            return
        }
        if !keepsSource { remove(pages) }
        insert(
            Piece(pages: start..<start + count, kind: first.kind, protection: first.protection))
    }

    /// Takes out what lies in `pages`.
    private mutating func cut(_ pages: Range<Int>) -> [Piece] {
        let inside = pieces.compactMap { piece in
            piece.pages.overlaps(pages)
                ? Piece(
                    pages: piece.pages.clamped(to: pages), kind: piece.kind,
                    protection: piece.protection) : nil
        }
        remove(pages)
        return inside
    }
}
