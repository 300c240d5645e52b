// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

// MARK: - What instructions do

extension ModelSpace {
    /// Reads one byte; what is not there is mapped, and in files what lies around it.
    /// - Parameter address: need not be aligned.
    /// - Throws: EFAULT, where a program gets SIGSEGV; EAGAIN where a userfaultfd handler would
    ///   have to bring the page.
    /// The corresponding kernel function is `handle_mm_fault`.
    public func read(at address: UInt) throws(ModelError) -> UInt8 {
        // The hardware knows no memory that can be written and not read.
        guard let index = index(covering: address), vmas[index].kind != .special,
            vmas[index].protection != []
        else { throw .fault }
        try fault(address, index, isWrite: false)
        return contents(of: address, index)
    }

    /// Writes one byte; it stands for the contents of its page.
    /// - Parameter address: need not be aligned.
    /// - Throws: EFAULT, where a program gets SIGSEGV; EAGAIN where a userfaultfd handler would
    ///   have to bring the page or let the write pass.
    public func write(_ byte: UInt8, at address: UInt) throws(ModelError) {
        guard let index = index(covering: address), vmas[index].kind != .special,
            vmas[index].protection.contains(.write)
        else { throw .fault }
        try fault(address, index, isWrite: true)
        let entry = entry(at: address)
        if case .shared(let file) = vmas[index].kind, entry.state == .file {
            pageCache[file, default: [:]][vmas[index].pageOffset(of: address)] =
                CachedPage(contents: byte, isDirty: true)
        }
        set(PTE(entry.state, contents: byte, isWriteProtected: entry.isWriteProtected), address)
    }

    /// Writes every page of `range`, in bulk where nothing is in the way.
    /// - Throws: as `write`.
    public func touch(_ range: AddressRange) throws(ModelError) {
        guard Self.isValid(range) else { throw .invalid }
        let page = PTE(.anonymous, contents: 1)
        var start = range.start
        while start < range.end {
            guard let index = index(covering: start), vmas[index].protection.contains(.write)
            else { throw .fault }
            let part = AddressRange(start: start, end: min(vmas[index].end, range.end))
            let plain = vmas[index].attributes.isDisjoint(
                with: [.hugePage, .missingRegistered, .writeProtectRegistered, .mayHaveGuards])
            if vmas[index].kind.isAnonymous, plain {
                prepareAnonVMA(index)
                tables.fill(part) { entry in
                    switch entry.state {
                    case .none, .zeroPage: page
                    case .lazyFree, .swap: PTE(.anonymous, contents: entry.contents)
                    default: entry
                    }
                }
            } else {
                for address in Self.pages(of: part) { try write(1, at: address) }
            }
            start = part.end
        }
    }

    /// Writes one byte into a file, past every mapping of it.
    /// - Precondition: no page that was read through a private mapping shows it.
    /// The corresponding kernel call is `pwrite`.
    public func writeFile(_ file: Int, _ byte: UInt8, at address: UInt) {
        let offset = address / PageGeometry.pageByteCount
        pageCache[file, default: [:]][offset] = CachedPage(contents: byte, isDirty: true)
    }

    func set(_ entry: PTE, _ address: UInt) { tables.set(entry, at: address) }
}

// MARK: - Faults

extension ModelSpace {
    /// Makes the page at `address` ready for an access that the VMA allows.
    /// - Throws: EFAULT at a guard; EAGAIN where a userfaultfd handler would have to answer.
    func fault(_ address: UInt, _ index: Int, isWrite: Bool) throws(ModelError) {
        if vmas[index].kind == .hugetlb {
            return try hugetlbFault(address, index, isWrite: isWrite)
        }
        if tables.isHuge(at: address) {
            if try !hugeFault(address, index, isWrite: isWrite) { return }
        }
        let entry = entry(at: address)
        let isArmed = vmas[index].attributes.contains(.writeProtectRegistered)
        switch entry.state {
        case .guardMarker: throw .fault
        case .writeProtectMarker where !isArmed:
            // Left over from a registration that is gone.
            set(.none, address)
            try faultMissing(address, index, isWrite: isWrite, isProtected: false)
        case .writeProtectMarker:
            try faultMissing(address, index, isWrite: isWrite, isProtected: true)
        case .none: try faultMissing(address, index, isWrite: isWrite, isProtected: false)
        case .swap:
            set(
                PTE(
                    .anonymous, contents: entry.contents, isWriteProtected: entry.isWriteProtected),
                address)
        case .anonymous, .zeroPage, .file, .lazyFree: break
        }
        if isWrite { try faultOnWrite(address, index) }
    }

    /// A present page is written: uffd-wp stops it, what is not its own is copied.
    /// The corresponding kernel function is `do_wp_page`.
    private func faultOnWrite(_ address: UInt, _ index: Int) throws(ModelError) {
        let entry = entry(at: address)
        if entry.isWriteProtected, vmas[index].attributes.contains(.writeProtectRegistered) {
            throw .wouldBlock
        }
        switch entry.state {
        case .zeroPage: prepareAnonVMA(index)
        case .file where vmas[index].kind.isShared:
            if let file = vmas[index].kind.file {
                pageCache[file]?[vmas[index].pageOffset(of: address)]?.isDirty = true
            }
            return
        case .file: prepareAnonVMA(index)
        default: break
        }
        if profile.copiesOncePagesWereShared {
            splitPages.removeIfShared(Self.start(of: address, in: PageGeometry.pageByteCount))
        }
        set(PTE(.anonymous, contents: contents(of: address, index)), address)
    }

    /// The byte that a present page shows.
    private func contents(of address: UInt, _ index: Int) -> UInt8 {
        let entry = entry(at: address)
        guard entry.state == .file, let file = vmas[index].kind.file else { return entry.contents }
        return cachedPage(file, vmas[index].pageOffset(of: address))?.contents ?? 0
    }

    /// The corresponding kernel function is `do_pte_missing`.
    private func faultMissing(
        _ address: UInt, _ index: Int, isWrite: Bool, isProtected: Bool
    ) throws(ModelError) {
        tables.allocateUpperTables(for: address)
        let vma = vmas[index]
        guard let file = vma.kind.file else {
            if !isProtected, try faultHuge(address, index, isWrite: isWrite) { return }
            return try faultAnonymous(address, index, isWrite: isWrite, isProtected: isProtected)
        }
        let offset = vma.pageOffset(of: address)
        if isWrite, !vma.kind.isShared { prepareAnonVMA(index) }
        if !isWrite, !vma.attributes.contains(.writeProtectRegistered) {
            mapWhatIsCached(around: address, vma, file)
            if entry(at: address).state == .file { return }
        }
        // SIGBUS.
        if let end = fileEnds[file], offset >= end { throw .wouldBlock }
        let cached = cachedPage(file, offset)
        if cached == nil, vma.attributes.contains(.missingRegistered) { throw .wouldBlock }
        let contents = cached?.contents ?? 0
        pageCache[file, default: [:]][offset] = CachedPage(
            contents: contents, isDirty: cached?.isDirty == true || cached?.isSwapped == true)
        let isCopy = isWrite && !vma.kind.isShared
        set(
            PTE(
                isCopy ? .anonymous : .file, contents: isCopy ? contents : 0,
                isWriteProtected: isProtected), address)
    }

    /// The corresponding kernel function is `do_anonymous_page`: the table is made before anybody
    /// asks the userfaultfd.
    private func faultAnonymous(
        _ address: UInt, _ index: Int, isWrite: Bool, isProtected: Bool
    ) throws(ModelError) {
        tables.allocateTables(for: address)
        if isWrite { prepareAnonVMA(index) }
        if vmas[index].attributes.contains(.missingRegistered) { throw .wouldBlock }
        let readState: PTE.State = mistake == .noZeroPage ? .anonymous : .zeroPage
        set(PTE(isWrite ? .anonymous : readState, isWriteProtected: isProtected), address)
    }

    /// Maps the pages of the file around `address`, 64 KiB at most, that are in the page cache,
    /// where nothing is mapped yet, as far as the VMA and the table reach.
    /// The corresponding kernel function is `do_fault_around`.
    private func mapWhatIsCached(around address: UInt, _ vma: VMA, _ file: Int) {
        let window = 16 * PageGeometry.pageByteCount
        let span = Span(containing: address)
        let lowest = max(Self.start(of: address, in: window), vma.start, span.start)
        let highest = min(lowest + window, span.end, vma.end)
        for page in Self.pages(of: AddressRange(start: lowest, end: highest)) {
            if mistake == .noFaultAround, page != Self.start(of: address, in: 4096) { continue }
            let cached = cachedPage(file, vma.pageOffset(of: page))
            if cached?.isSwapped == false, entry(at: page).isNone { set(PTE(.file), page) }
        }
    }

    /// Nil where the file has a hole.
    func cachedPage(_ file: Int, _ offset: UInt) -> CachedPage? { pageCache[file]?[offset] }
}

// MARK: - Populating

extension ModelSpace {
    /// Faults every page of `range` in, as an mlock or MAP_POPULATE does: for writing where it is
    /// private and writable. Holes are left out.
    /// - Throws: at the first page that cannot be had; what lies before it is there.
    /// The corresponding kernel function is `__mm_populate`.
    func populate(_ range: AddressRange) throws(ModelError) {
        for index in indices(overlapping: range) {
            try populate(vmas[index].range.clamped(to: range), in: index)
        }
    }

    /// The corresponding kernel function is `populate_vma_page_range`.
    func populate(_ part: AddressRange, in index: Int) throws(ModelError) {
        let vma = vmas[index]
        if vma.attributes.contains(.lockedOnFault) || vma.kind == .special { return }
        guard vma.protection != [] else { throw .fault }
        try populate(
            part, in: index, isWrite: vma.protection.contains(.write) && !vma.kind.isShared)
    }

    /// - Throws: EFAULT.
    /// The corresponding kernel function is `__get_user_pages`.
    func populate(_ part: AddressRange, in index: Int, isWrite: Bool) throws(ModelError) {
        for page in Self.pages(of: part) {
            do { try fault(page, index, isWrite: isWrite) } catch {
                // A userfaultfd that is asked for no wait makes it SIGBUS.
                throw .fault
            }
        }
    }
}
