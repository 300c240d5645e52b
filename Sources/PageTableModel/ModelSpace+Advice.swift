// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

// MARK: - madvise, swap, userfaultfd

extension ModelSpace {
    /// Zaps the pages of `range`. Guard markers stay, and in files uffd-wp markers.
    ///
    ///     | partial |  span  |  span  | VMA || VMA |    a table goes where this call covers the
    ///               | freed  | freed  |  kept      |    whole span within one VMA, if all is none
    ///
    /// - Throws: ENOMEM for a hole, the mapped part is zapped; EINVAL at the first locked or
    ///   special VMA, what lies before it is zapped.
    /// The corresponding kernel function is `madvise_dontneed_single_vma`.
    public func dontneed(_ range: AddressRange) throws(ModelError) {
        try dontneed(range, evenIfLocked: false)
    }

    /// As `dontneed`, for locked memory too.
    /// The corresponding kernel call is `madvise(MADV_DONTNEED_LOCKED)`.
    public func dontneedLocked(_ range: AddressRange) throws(ModelError) {
        try dontneed(range, evenIfLocked: true)
    }

    private func dontneed(_ range: AddressRange, evenIfLocked: Bool) throws(ModelError) {
        try walkVMAs(range) { [self] vma, part throws(ModelError) in
            guard evenIfLocked || !vma.attributes.contains(.locked), vma.kind != .special else {
                throw .invalid
            }
            forEachTable(under: part) { _, indices, table in
                table?.zap(indices, isAnonymous: vma.kind == .anonymousPrivate)
                if profile.dontneedFreesTables, indices.count == PageGeometry.entriesPerTable,
                    table?.isAllNone == true
                {
                    table = nil
                }
            }
        }
    }

    /// Replaces every page of `range` by a guard marker; makes the tables that this needs.
    /// - Throws: ENOMEM for a hole; EINVAL at the first locked or special VMA; EAGAIN, with nothing
    ///   changed, where a file's page is write-protected: there the kernel zaps, finds the marker
    ///   that a zap leaves, and tries again for ever (Linux 6.18, until a signal ends it).
    /// The corresponding kernel function is `madvise_guard_install`.
    public func installGuards(_ range: AddressRange) throws(ModelError) {
        for address in Self.pages(of: range) where isWriteProtected(address) {
            if vma(covering: address)?.kind != .anonymousPrivate { throw .wouldBlock }
        }
        try walkVMAs(range) { [self] vma, part throws(ModelError) in
            guard !vma.attributes.contains(.locked), vma.kind != .special else { throw .invalid }
            if vma.kind == .anonymousPrivate { prepareAnonVMA(at: part.start) }
            for address in Self.pages(of: part) {
                set(.guardMarker, at: address)
                setWriteProtected(false, address)
            }
        }
    }

    /// Guard markers of `range` become none; their tables stay.
    /// - Throws: ENOMEM for a hole; EINVAL at the first special VMA.
    /// The corresponding kernel function is `madvise_guard_remove`.
    public func removeGuards(_ range: AddressRange) throws(ModelError) {
        try walkVMAs(range) { [self] vma, part throws(ModelError) in
            guard vma.kind != .special else { throw .invalid }
            forEachTable(under: part) { _, indices, table in
                for index in indices where table?.entries[index] == .guardMarker {
                    table?.entries[index] = nil
                }
            }
        }
    }

    /// Moves the present pages of `range` to swap.
    public func swapOut(_ range: AddressRange) {
        forEachTable(under: range) { _, indices, table in
            for index in indices {
                if case .present(let contents) = table?.entries[index] {
                    table?.entries[index] = .swap(contents: contents)
                }
            }
        }
    }

    /// Protects the pages of `range` from being written, and puts a marker where there is none;
    /// makes the tables that this needs.
    /// - Throws: ENOENT at a VMA that is not registered for write protection; what lies before it
    ///   is protected.
    /// The corresponding kernel call is `UFFDIO_WRITEPROTECT` with `UFFD_FEATURE_WP_UNPOPULATED`.
    public func writeProtectUnpopulated(_ range: AddressRange) throws(ModelError) {
        let parts = indices(overlapping: range).map { vmas[$0] }
        guard !parts.isEmpty else { throw .notRegistered }
        for vma in parts {
            guard vma.attributes.contains(.writeProtectRegistered) else { throw .notRegistered }
            let part = AddressRange(
                start: max(range.start, vma.start), end: min(range.end, vma.end))
            for address in Self.pages(of: part) {
                switch entry(at: address) {
                case nil, .uffdWPMarker: set(.uffdWPMarker, at: address)
                case .guardMarker: break
                case .present, .zeroPage, .swap: setWriteProtected(true, address)
                }
            }
        }
    }

    /// Registers the mapped part of `range` with the program's own userfaultfd.
    ///
    /// What is registered in this way already stays as it is; a registration of another kind is
    /// replaced.
    /// - Throws: EINVAL where nothing of `range` is mapped. (The kernel says ENOMEM if nothing is
    ///   mapped above it either; in a process the stack is.)
    /// The corresponding kernel function is `userfaultfd_register`.
    public func register(_ range: AddressRange, writeProtect: Bool) throws(ModelError) {
        guard Self.isValid(range) else { throw .invalid }
        guard !indices(overlapping: range).isEmpty else { throw .invalid }
        let wanted: VMA.Attributes = writeProtect ? .writeProtectRegistered : .missingRegistered
        for vma in indices(overlapping: range).map({ vmas[$0] })
        where !vma.attributes.contains(wanted) {
            let part = AddressRange(
                start: max(range.start, vma.start), end: min(range.end, vma.end))
            changeAttributes(of: part) { attributes in
                attributes.subtract([.writeProtectRegistered, .missingRegistered])
                attributes.formUnion(wanted)
            }
        }
    }

    /// Calls `body` for the part of `range` in each VMA, lowest first, past holes.
    /// - Throws: what `body` throws, at once; ENOMEM at the end where there was a hole; EINVAL.
    /// The corresponding kernel function is `madvise_walk_vmas`.
    private func walkVMAs(
        _ range: AddressRange, _ body: (VMA, AddressRange) throws(ModelError) -> Void
    ) throws(ModelError) {
        guard Self.isValid(range) else { throw .invalid }
        let hasHole = !isMapped(range)
        for index in indices(overlapping: range) {
            let vma = vmas[index]
            try body(
                vma,
                AddressRange(start: max(range.start, vma.start), end: min(range.end, vma.end)))
        }
        if hasHole { throw .noMemory }
    }

    static func pages(of range: AddressRange) -> StrideTo<UInt> {
        stride(from: range.start, to: range.end, by: Int(PageGeometry.pageByteCount))
    }
}
