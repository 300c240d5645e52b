// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

// MARK: - mmap, munmap

extension ModelSpace {
    /// Maps `range`, and replaces what was there.
    ///
    /// - Parameter attributes: what advice and mlock would set afterwards.
    /// - Throws: EINVAL; inside a huge page of hugetlb EINVAL or ENOMEM; EEXIST with `.noReplace`.
    /// The corresponding kernel call is `mmap(MAP_FIXED)`.
    public func mmap(
        _ range: AddressRange, kind: VMA.Kind = .anonymousPrivate,
        protection: VMA.Protection = .readWrite, attributes: VMA.Attributes = [],
        flags: Operation.MapFlags = []
    ) throws(ModelError) {
        guard Self.isValid(range) else { throw .invalid }
        var range = range
        if kind == .hugetlb {
            // The length is rounded up, the address must be right.
            let mask = PageGeometry.spanByteCount - 1
            guard range.start & mask == 0 else { throw .invalid }
            range.end = (range.end + mask) & ~mask
        }
        if flags.contains(.noReplace), !indices(overlapping: range).isEmpty { throw .exists }
        do { try munmap(range) } catch {
            throw profile.mapFixedOverHugetlbIsNoMemory ? .noMemory : error
        }
        var attributes = attributes
        if flags.contains(.noReserve) { attributes.insert(.noReserve) }
        if !kind.isShared, kind != .hugetlb, protection.contains(.write),
            !flags.contains(.noReserve)
        {
            attributes.insert(.accounted)
        }
        var kind = kind
        if kind == .sharedAnonymous { kind = makeFile(for: range) }
        let fresh = VMA(range: range, kind: kind, protection: protection, attributes: attributes)
        insert(Candidate(fresh, range))
        if flags.contains(.populate) { try? populate(range) }
    }

    /// The file behind shared memory without a name: it ends where its mapping ends.
    /// The corresponding kernel function is `shmem_zero_setup`.
    private func makeFile(for range: AddressRange) -> VMA.Kind {
        let file = Self.firstUnnamedFile + fileEnds.count
        fileEnds[file] = range.end / PageGeometry.pageByteCount
        return .shared(file: file)
    }

    private static var firstUnnamedFile: Int { 1 << 32 }

    /// Maps `byteCount` bytes in the lowest hole of `window` that has room for them.
    /// - Parameter alignment: of the result; a power of two, one page or more.
    /// - Throws: ENOMEM where there is none, EINVAL.
    /// The corresponding kernel call is `mmap`.
    public func mmap(
        byteCount: UInt, anywhereIn window: AddressRange,
        alignment: UInt = PageGeometry.pageByteCount, attributes: VMA.Attributes = []
    ) throws(ModelError) -> AddressRange {
        var start = (window.start + alignment - 1) & ~(alignment - 1)
        while let range = AddressRange(start: start, byteCount: byteCount), window.contains(range) {
            guard Self.isValid(range) else { throw .invalid }
            let obstacles = indices(overlapping: range)
            if obstacles.isEmpty {
                try mmap(range, attributes: attributes)
                return range
            }
            start = (vmas[obstacles.upperBound - 1].end + alignment - 1) & ~(alignment - 1)
        }
        throw .noMemory
    }

    /// Unmaps every page of `range`, and frees the tables that nothing needs any more.
    /// - Throws: EINVAL, also where an end lies inside a huge page of hugetlb. Holes are no error.
    /// The corresponding kernel call is `munmap`.
    public func munmap(_ range: AddressRange) throws(ModelError) {
        guard Self.isValid(range) else { throw .invalid }
        let gone = try isolate(range)
        guard !gone.isEmpty else { return }
        let unmapped = AddressRange(
            start: vmas[gone.lowerBound].start, end: vmas[gone.upperBound - 1].end)
        vmas.removeSubrange(gone)
        clear(unmapped)
        let next = gone.lowerBound
        let floor = next == 0 ? 0 : vmas[next - 1].end
        let ceiling = next == vmas.count ? PageGeometry.userSpaceEnd : vmas[next].start
        tables.freeTables(
            below: unmapped, floor: mistake == .floorIgnored ? 0 : floor,
            ceiling: mistake == .ceilingIgnored ? PageGeometry.userSpaceEnd : ceiling,
            keepsPMDTables: mistake == .pmdTablesKept, keepsPUDTables: mistake == .pudTablesKept)
    }

    /// Makes every entry of `range` none, markers too, and frees huge pages.
    func clear(_ range: AddressRange) {
        splitHugePages(atEndsOf: range)
        splitPages.remove(range)
        tables.forEachSlot(in: range) { tables, span, place in
            if tables.isHuge(at: span.start) {
                tables.freeTable(at: span.start)
            } else {
                tables.change(place, PageTables.entryIndices(of: range, in: span)) { _ in .none }
            }
        }
    }
}

// MARK: - mprotect, mlock, attributes

extension ModelSpace {
    /// - Throws: ENOMEM at the first hole, what lies before it is changed; EINVAL.
    /// The corresponding kernel call is `mprotect`.
    public func mprotect(
        _ range: AddressRange, _ protection: VMA.Protection
    ) throws(ModelError) {
        try change(range) { [self] index, part throws(ModelError) in
            let old = vmas[index]
            if protection == old.protection { return }
            var attributes = old.attributes
            if protection.contains(.write) {
                if old.kind != .hugetlb, !old.kind.isShared, !old.protection.contains(.write),
                    attributes.isDisjoint(with: [.accounted, .noReserve])
                {
                    attributes.insert(.accounted)
                }
            } else if profile.uncommitsUnwritten, attributes.contains(.accounted),
                old.kind.isAnonymous, old.anonVMA == nil
            {
                attributes.remove(.accounted)
            }
            let place = try modify(index, part) {
                $0.protection = protection
                $0.attributes = attributes
            }
            splitHugePages(atEndsOf: part)
            // A locked private mapping that becomes writable gets pages of its own at once.
            if old.attributes.contains(.locked), !old.kind.isShared,
                !old.protection.contains(.write), protection.contains(.write)
            {
                try? populate(part, in: place)
            }
        }
    }

    /// Sets or clears attributes of the mapped part of `range`.
    /// - Throws: ENOMEM where there is a hole; the rest is changed. EINVAL.
    /// The corresponding kernel function is `vma_modify_flags`.
    public func setAttributes(
        _ attributes: VMA.Attributes, _ isSet: Bool, of range: AddressRange
    ) throws(ModelError) {
        try walkVMAs(range) { [self] index, part throws(ModelError) in
            try setAttributes(index, part) {
                isSet ? $0.formUnion(attributes) : $0.subtract(attributes)
            }
        }
    }

    func setAttributes(
        _ index: Int, _ part: AddressRange, pageOffset: UInt? = nil,
        _ change: (inout VMA.Attributes) -> Void
    ) throws(ModelError) {
        var changed = vmas[index].attributes
        change(&changed)
        guard changed != vmas[index].attributes else { return }
        try modify(index, part, pageOffset: pageOffset) { $0.attributes = changed }
    }

    /// Makes every page of `range` present and keeps it there.
    /// - Throws: ENOMEM at the first hole and where a page cannot be had; EINVAL.
    /// The corresponding kernel call is `mlock2`.
    public func mlock(_ range: AddressRange, onFault: Bool = false) throws(ModelError) {
        try changeLock(of: range, onFault ? [.locked, .lockedOnFault] : .locked)
        do { try populate(range) } catch {
            throw error == .fault ? .noMemory : error
        }
    }

    /// - Throws: ENOMEM at the first hole; EINVAL.
    /// The corresponding kernel call is `munlock`.
    public func munlock(_ range: AddressRange) throws(ModelError) {
        try changeLock(of: range, [])
    }

    private func changeLock(
        of range: AddressRange, _ lock: VMA.Attributes
    ) throws(ModelError) {
        try change(range) { [self] index, part throws(ModelError) in
            guard vmas[index].kind != .hugetlb, vmas[index].kind != .special else { return }
            try setAttributes(index, part) {
                $0.subtract([.locked, .lockedOnFault])
                $0.formUnion(lock)
            }
        }
    }

    /// Walks as mprotect and mlock do: a hole ends it.
    private func change(
        _ range: AddressRange, _ body: (Int, AddressRange) throws(ModelError) -> Void
    ) throws(ModelError) {
        try walkVMAs(range, stopsAtHoles: true, body)
    }
}
