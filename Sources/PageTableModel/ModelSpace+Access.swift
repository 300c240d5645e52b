// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

// MARK: - What instructions do

extension ModelSpace {
    /// Reads one byte; a page that does not exist becomes the zero page.
    /// - Parameter address: need not be aligned.
    /// - Throws: EFAULT, where a program gets SIGSEGV; EAGAIN at a uffd-wp marker.
    /// The corresponding kernel function is `handle_mm_fault`.
    public func read(at address: UInt) throws(ModelError) -> UInt8 {
        guard vma(covering: address)?.kind == .anonymousPrivate else { throw .fault }
        switch entry(at: address) {
        case .present(let contents):
            return contents
        case .swap(let contents):
            set(.present(contents: contents), at: address)
            return contents
        case nil:
            set(.zeroPage, at: address)
            return 0
        case .zeroPage:
            return 0
        case .uffdWPMarker: throw .wouldBlock
        case .guardMarker: throw .fault
        }
    }

    /// Writes one byte; it stands for the contents of its page.
    /// - Parameter address: need not be aligned.
    /// - Throws: EFAULT, where a program gets SIGSEGV; EAGAIN at a uffd-wp marker.
    public func write(_ byte: UInt8, at address: UInt) throws(ModelError) {
        guard vma(covering: address)?.kind == .anonymousPrivate else { throw .fault }
        switch entry(at: address) {
        case .uffdWPMarker: throw .wouldBlock
        case .guardMarker: throw .fault
        case nil, .present, .zeroPage, .swap: break
        }
        prepareAnonVMA(at: address)
        set(.present(contents: byte), at: address)
    }

    func set(_ entry: PTE, at address: UInt) {
        allocateTables(for: address)
        pteTables[Span(containing: address).start]?.entries[Self.entryIndex(of: address)] = entry
    }

    /// The first written page ties a VMA to an `anon_vma`: that of a neighbour it may merge with
    /// one day, the next before the previous, or one of its own.
    /// The corresponding kernel functions are `__anon_vma_prepare`, `find_mergeable_anon_vma`.
    func prepareAnonVMA(at address: UInt) {
        guard let index = firstIndex(endingAfter: address), vmas[index].anonVMA == nil else {
            return
        }
        let vma = vmas[index]
        if index + 1 < vmas.count, vma.end == vmas[index + 1].start,
            vma.looksLike(vmas[index + 1]), let shared = vmas[index + 1].anonVMA
        {
            vmas[index].anonVMA = shared
        } else if index > 0, vmas[index - 1].end == vma.start, vmas[index - 1].looksLike(vma),
            let shared = vmas[index - 1].anonVMA
        {
            vmas[index].anonVMA = shared
        } else {
            anonVMACount += 1
            vmas[index].anonVMA = anonVMACount
        }
    }
}
