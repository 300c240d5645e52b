// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

// MARK: - The program's own userfaultfd

extension ModelSpace {
    /// Registers the mapped part of `range` with the program's own userfaultfd.
    ///
    /// What is registered in this way already stays as it is; a registration of another kind is
    /// replaced.
    /// - Throws: EINVAL where nothing of `range` is mapped. (The kernel says ENOMEM if nothing is
    ///   mapped above it either; in a process the stack is.) EINVAL for special memory and inside a
    ///   huge page of hugetlb.
    /// The corresponding kernel function is `userfaultfd_register`.
    public func register(_ range: AddressRange, writeProtect: Bool) throws(ModelError) {
        let wanted: VMA.Attributes = writeProtect ? .writeProtectRegistered : .missingRegistered
        try checkRegistration(range, checksEnd: true)
        hasBeenRegistered = true
        try eachVMA(in: range) { [self] index, part throws(ModelError) in
            guard !vmas[index].attributes.contains(wanted) else { return }
            try setAttributes(index, part, pageOffset: offsetForMerging(index)) { attributes in
                attributes.subtract(.registered)
                attributes.formUnion(wanted)
            }
        }
    }

    /// Ends the registration of the mapped part of `range`; protection and markers go with it.
    /// - Throws: as `register`.
    /// The corresponding kernel function is `userfaultfd_unregister`.
    public func unregister(_ range: AddressRange) throws(ModelError) {
        try checkRegistration(range, checksEnd: false)
        try eachVMA(in: range) { [self] index, part throws(ModelError) in
            let attributes = vmas[index].attributes
            guard !attributes.isDisjoint(with: .registered) else { return }
            if attributes.contains(.writeProtectRegistered) {
                if vmas[index].kind == .hugetlb {
                    protectHugetlb(part, false)
                } else {
                    unprotect(part)
                }
            }
            try setAttributes(index, part, pageOffset: offsetForMerging(index)) {
                $0.subtract(.registered)
            }
        }
    }

    /// Protects the pages of `range` from being written, and puts a marker where there is none;
    /// makes the tables that this needs.
    /// - Throws: as `writeProtect`.
    /// The corresponding kernel call is `UFFDIO_WRITEPROTECT` with `UFFD_FEATURE_WP_UNPOPULATED`.
    public func writeProtectUnpopulated(_ range: AddressRange) throws(ModelError) {
        try writeProtect(range, true)
    }

    /// Protects the pages of `range` from being written, or lets them be written again. What is not
    /// there gets a marker in files, and in anonymous memory where the userfaultfd asked for it.
    /// - Throws: ENOENT at a VMA that is not registered for write protection; what lies before it
    ///   is protected. EINVAL.
    /// The corresponding kernel function is `mwriteprotect_range`.
    public func writeProtect(_ range: AddressRange, _ isSet: Bool) throws(ModelError) {
        guard Self.isValid(range) else { throw .invalid }
        let parts = indices(overlapping: range)
        guard let first = parts.first else { throw .notRegistered }
        if !profile.writeProtectsSeveralVMAs, !vmas[first].range.contains(range) {
            throw .notRegistered
        }
        for index in parts {
            let vma = vmas[index]
            guard vma.attributes.contains(.writeProtectRegistered) else { throw .notRegistered }
            let part = vma.range.clamped(to: range)
            if vma.kind == .hugetlb {
                guard range.isSpanAligned else { throw .invalid }
                protectHugetlb(part, isSet)
                continue
            }
            if isSet { protect(part, vma) } else { unprotect(part) }
        }
    }

    private func protect(_ part: AddressRange, _ vma: VMA) {
        splitHugePages(atEndsOf: part)
        let marks =
            !vma.kind.isAnonymous || profile.hasWriteProtectUnpopulated && marksUnpopulated
        func protected(_ entry: PTE) -> PTE {
            switch entry.state {
            case .none: marks ? PTE(.writeProtectMarker) : entry
            case .writeProtectMarker, .guardMarker: entry
            default: entry.with(isWriteProtected: true)
            }
        }
        if marks {
            tables.fill(part, protected)
        } else {
            tables.transform(part, protected)
        }
    }

    /// The corresponding kernel function is `hugetlb_change_protection`.
    private func protectHugetlb(_ part: AddressRange, _ isSet: Bool) {
        for number in 0..<part.wholeSpans.count {
            let address = part.wholeSpans[number].start
            let entry = entry(at: address)
            if entry.state.isPresent {
                setHugetlb(at: address, entry.with(isWriteProtected: isSet))
            } else if isSet || entry.state == .writeProtectMarker {
                tables.allocateUpperTables(for: address)
                setHugetlb(at: address, isSet ? PTE(.writeProtectMarker) : .none)
            }
        }
    }

    private func unprotect(_ part: AddressRange) {
        splitHugePages(atEndsOf: part)
        tables.transform(part) {
            $0.state == .writeProtectMarker ? .none : $0.with(isWriteProtected: false)
        }
    }

    private func offsetForMerging(_ index: Int) -> UInt? {
        profile.registersByPageOffset ? nil : vmas[index].pageOffset
    }

    private func checkRegistration(_ range: AddressRange, checksEnd: Bool) throws(ModelError) {
        guard Self.isValid(range) else { throw .invalid }
        let parts = indices(overlapping: range)
        guard let first = parts.first else { throw .invalid }
        if vmas[first].kind == .hugetlb, range.start % PageGeometry.spanByteCount != 0 {
            throw .invalid
        }
        for index in parts {
            if vmas[index].kind == .special { throw .invalid }
            if checksEnd, vmas[index].kind == .hugetlb, range.end <= vmas[index].end,
                range.end % PageGeometry.spanByteCount != 0
            {
                throw .invalid
            }
        }
    }

    /// Past holes, which are no error.
    private func eachVMA(
        in range: AddressRange, _ body: (Int, AddressRange) throws(ModelError) -> Void
    ) throws(ModelError) {
        do { try walkVMAs(range, body) } catch {
            if error != .noMemory { throw error }
        }
    }
}
