// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

/// Pages of huge pages whose PMD has been split: mapped one by one, and still one folio. When such a
/// folio is split in its turn, newer kernels map what is zero in it to the page of zeros.
struct SplitHugePages: Sendable {
    private var folioOfPage: [UInt: Int] = [:]
    private var pagesOfFolio: [Int: Set<UInt>] = [:]
    /// Pages that a child had, too, and nobody has written since.
    private var sharedPages: Set<UInt> = []
    private var count = 0

    var isEmpty: Bool { folioOfPage.isEmpty }

    mutating func add(_ range: AddressRange, areShared: Bool) {
        count += 1
        for page in ModelSpace.pages(of: range) {
            if areShared { sharedPages.insert(page) }
            folioOfPage[page] = count
            pagesOfFolio[count, default: []].insert(page)
        }
    }

    func folio(at page: UInt) -> Int? { folioOfPage[page] }
    func pages(of folio: Int) -> Set<UInt> { pagesOfFolio[folio] ?? [] }

    /// A child gets the pages of `range`.
    mutating func share(_ range: AddressRange) {
        for page in folioOfPage.keys where range.start <= page && page < range.end {
            sharedPages.insert(page)
        }
    }

    mutating func removeIfShared(_ page: UInt) {
        if sharedPages.contains(page) { remove(page) }
    }

    /// Puts back what `range` was before it was collapsed.
    mutating func restore(_ range: AddressRange, from old: SplitHugePages) {
        guard !old.isEmpty else { return }
        for page in ModelSpace.pages(of: range) {
            guard let folio = old.folioOfPage[page] else { continue }
            folioOfPage[page] = folio
            pagesOfFolio[folio, default: []].insert(page)
            if old.sharedPages.contains(page) { sharedPages.insert(page) }
        }
    }

    mutating func remove(_ page: UInt) {
        sharedPages.remove(page)
        guard let folio = folioOfPage.removeValue(forKey: page) else { return }
        pagesOfFolio[folio]?.remove(page)
        if pagesOfFolio[folio]?.isEmpty == true { pagesOfFolio[folio] = nil }
    }

    mutating func remove(_ range: AddressRange) {
        guard !isEmpty else { return }
        if range.byteCount / PageGeometry.pageByteCount > UInt(folioOfPage.count) {
            for page in Array(folioOfPage.keys) where range.start <= page && page < range.end {
                remove(page)
            }
        } else {
            for page in ModelSpace.pages(of: range) { remove(page) }
        }
    }

    mutating func removeFolio(_ folio: Int) {
        for page in pages(of: folio) {
            folioOfPage[page] = nil
            sharedPages.remove(page)
        }
        pagesOfFolio[folio] = nil
    }

    mutating func move(_ page: UInt, to target: UInt) {
        guard let folio = folioOfPage.removeValue(forKey: page) else { return }
        pagesOfFolio[folio]?.remove(page)
        folioOfPage[target] = folio
        pagesOfFolio[folio]?.insert(target)
        if sharedPages.remove(page) != nil { sharedPages.insert(target) }
    }
}
