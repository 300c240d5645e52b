// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

// MARK: - What instructions do

extension ModelSpace {
    /// Reads one byte; what is not there is mapped, and in files what lies around it.
    /// - Parameter address: need not be aligned.
    /// - Throws: EFAULT, where a program gets SIGSEGV; EAGAIN where a userfaultfd handler would
    ///   have to bring the page.
    /// The corresponding kernel function is `handle_mm_fault`.
    public func read(at address: UInt) throws(ModelError) -> UInt8 {
        let vma = try accessibleVMA(at: address)
        switch entry(at: address) {
        case .guardMarker: throw .fault
        case .zeroPage: return 0
        case .present(let contents):
            guard case .shared(let file) = vma.kind else { return contents }
            return cached(file, address) ?? 0
        case .swap(let contents):
            set(.present(contents: contents), at: address)
            return contents
        case nil, .uffdWPMarker: return try mapForReading(address, vma)
        }
    }

    /// Writes one byte; it stands for the contents of its page.
    /// - Parameter address: need not be aligned.
    /// - Throws: EFAULT, where a program gets SIGSEGV; EAGAIN where a userfaultfd handler would
    ///   have to bring the page or let the write pass.
    public func write(_ byte: UInt8, at address: UInt) throws(ModelError) {
        let vma = try accessibleVMA(at: address)
        let entry = entry(at: address)
        if isWriteProtected(address), vma.attributes.contains(.writeProtectRegistered) {
            throw .wouldBlock
        }
        switch entry {
        case .guardMarker: throw .fault
        case nil, .uffdWPMarker: try checkIsNotMissing(address, vma)
        case .present, .zeroPage, .swap: break
        }
        switch vma.kind {
        case .shared(let file): pageCache[file, default: [:]][Self.page(of: address)] = byte
        case .privateFile(let file):
            // The copy is made of a page of the file, which a hole gets then.
            if entry == nil || entry == .uffdWPMarker, cached(file, address) == nil {
                pageCache[file, default: [:]][Self.page(of: address)] = 0
            }
            prepareAnonVMA(at: address)
        case .anonymousPrivate, .special: prepareAnonVMA(at: address)
        }
        set(.present(contents: byte), at: address)
        setWriteProtected(false, address)
    }

    /// Writes one byte into a file, past every mapping of it.
    /// - Precondition: no page that was read through a private mapping shows it.
    /// The corresponding kernel call is `pwrite`.
    public func writeFile(_ file: Int, _ byte: UInt8, at address: UInt) {
        pageCache[file, default: [:]][Self.page(of: address)] = byte
    }

    /// The corresponding kernel functions are `do_anonymous_page` and `do_read_fault`.
    private func mapForReading(_ address: UInt, _ vma: VMA) throws(ModelError) -> UInt8 {
        let staysProtected =
            entry(at: address) == .uffdWPMarker
            && vma.attributes.contains(.writeProtectRegistered)
        try checkIsNotMissing(address, vma)
        var contents: UInt8 = 0
        switch vma.kind {
        case .anonymousPrivate, .special: set(.zeroPage, at: address)
        case .shared(let file), .privateFile(let file):
            if !vma.attributes.contains(.writeProtectRegistered) {
                mapWhatIsCached(around: address, vma, file)
            }
            contents = cached(file, address) ?? 0
            pageCache[file, default: [:]][Self.page(of: address)] = contents
            set(.present(contents: contents), at: address)
        }
        setWriteProtected(staysProtected, address)
        return contents
    }

    /// Maps the pages of the file around `address`, 64 KiB at most, that are in the page cache,
    /// where nothing is mapped yet, as far as the VMA and the table reach.
    /// The corresponding kernel function is `do_fault_around`.
    private func mapWhatIsCached(around address: UInt, _ vma: VMA, _ file: Int) {
        let window = 16 * PageGeometry.pageByteCount
        let span = Span(containing: address)
        let lowest = max(address & ~(window - 1), vma.start)
        let highest = min(lowest + window, span.end, vma.end)
        for page in Self.pages(of: AddressRange(start: lowest, end: highest))
        where entry(at: page) == nil {
            if let contents = cached(file, page) { set(.present(contents: contents), at: page) }
        }
    }

    private func checkIsNotMissing(_ address: UInt, _ vma: VMA) throws(ModelError) {
        guard vma.attributes.contains(.missingRegistered) else { return }
        switch vma.kind {
        case .anonymousPrivate, .special: throw .wouldBlock
        case .shared(let file), .privateFile(let file):
            if cached(file, address) == nil { throw .wouldBlock }
        }
    }

    private func accessibleVMA(at address: UInt) throws(ModelError) -> VMA {
        guard let vma = vma(covering: address), vma.kind != .special else { throw .fault }
        return vma
    }

    /// Nil where the file has a hole.
    private func cached(_ file: Int, _ address: UInt) -> UInt8? {
        pageCache[file]?[Self.page(of: address)]
    }

    /// Whether uffd-wp protects the page, or a marker the place where one may come.
    func isWriteProtected(_ address: UInt) -> Bool {
        entry(at: address) == .uffdWPMarker
            || pteTables[Span(containing: address).start]?.writeProtected
                .contains(Self.entryIndex(of: address)) == true
    }

    func setWriteProtected(_ isProtected: Bool, _ address: UInt) {
        let span = Span(containing: address).start
        let index = Self.entryIndex(of: address)
        if isProtected {
            pteTables[span]?.writeProtected.insert(index)
        } else {
            pteTables[span]?.writeProtected.remove(index)
        }
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
