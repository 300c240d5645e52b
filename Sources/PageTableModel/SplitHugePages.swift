// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

/// Pages of huge pages whose PMD has been split: mapped one by one, and still one folio. When such a
/// folio is split in its turn, newer kernels map what is zero in it to the page of zeros.
struct SplitHugePages: Sendable {
    private var folioOfPage: [UInt: Int] = [:]
    private var pagesOfFolio: [Int: Set<UInt>] = [:]
    private var count = 0

    var isEmpty: Bool { folioOfPage.isEmpty }

    mutating func add(_ range: AddressRange) {
        count += 1
        for page in ModelSpace.pages(of: range) {
            folioOfPage[page] = count
            pagesOfFolio[count, default: []].insert(page)
        }
    }

    func folio(at page: UInt) -> Int? { folioOfPage[page] }
    func pages(of folio: Int) -> Set<UInt> { pagesOfFolio[folio] ?? [] }

    mutating func remove(_ page: UInt) {
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
        for page in pages(of: folio) { folioOfPage[page] = nil }
        pagesOfFolio[folio] = nil
    }

    mutating func move(_ page: UInt, to target: UInt) {
        guard let folio = folioOfPage.removeValue(forKey: page) else { return }
        pagesOfFolio[folio]?.remove(page)
        folioOfPage[target] = folio
        pagesOfFolio[folio]?.insert(target)
    }
}
