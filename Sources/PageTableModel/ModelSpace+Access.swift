// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

// MARK: - What instructions do

extension ModelSpace {
    /// Reads one byte; a page that does not exist becomes the zero page.
    /// - Parameter address: need not be aligned.
    /// - Throws: EFAULT, where a program gets SIGSEGV; EAGAIN at a uffd-wp marker.
    /// The corresponding kernel function is `handle_mm_fault`.
    public func read(at address: UInt) throws(ModelError) -> UInt8 {
        let kind = try accessibleKind(at: address)
        switch (entry(at: address), kind) {
        case (.uffdWPMarker, _): throw .wouldBlock
        case (.guardMarker, _): throw .fault
        case (_, .shared(let file)):
            let contents = cached(file, address)
            set(.present(contents: contents), at: address)
            return contents
        case (.present(let contents), _): return contents
        case (.swap(let contents), _):
            set(.present(contents: contents), at: address)
            return contents
        case (nil, .privateFile(let file)):
            let contents = cached(file, address)
            set(.present(contents: contents), at: address)
            return contents
        case (nil, _), (.zeroPage, _):
            set(.zeroPage, at: address)
            return 0
        }
    }

    /// Writes one byte; it stands for the contents of its page.
    /// - Parameter address: need not be aligned.
    /// - Throws: EFAULT, where a program gets SIGSEGV; EAGAIN at a uffd-wp marker.
    public func write(_ byte: UInt8, at address: UInt) throws(ModelError) {
        let kind = try accessibleKind(at: address)
        switch entry(at: address) {
        case .uffdWPMarker: throw .wouldBlock
        case .guardMarker: throw .fault
        case nil, .present, .zeroPage, .swap: break
        }
        if case .shared(let file) = kind {
            pageCache[file, default: [:]][Self.page(of: address)] = byte
        } else {
            prepareAnonVMA(at: address)
        }
        set(.present(contents: byte), at: address)
    }

    private func accessibleKind(at address: UInt) throws(ModelError) -> VMA.Kind {
        guard let kind = vma(covering: address)?.kind, kind != .special else { throw .fault }
        return kind
    }

    private func cached(_ file: Int, _ address: UInt) -> UInt8 {
        pageCache[file]?[Self.page(of: address)] ?? 0
    }

    private static func page(of address: UInt) -> UInt { address / PageGeometry.pageByteCount }

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
