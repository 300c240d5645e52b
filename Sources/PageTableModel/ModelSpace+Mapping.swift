// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

// MARK: - mmap, munmap

extension ModelSpace {
    /// Maps `range`, and replaces what was there.
    /// - Throws: EINVAL.
    /// The corresponding kernel call is `mmap(MAP_FIXED)`.
    public func mmap(
        _ range: AddressRange, kind: VMA.Kind = .anonymousPrivate,
        attributes: VMA.Attributes = []
    ) throws(ModelError) {
        guard Self.isValid(range) else { throw .invalid }
        try munmap(range)
        insert(VMA(range: range, kind: kind, attributes: attributes, anonVMA: nil))
    }

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
    /// - Throws: EINVAL. Holes are no error.
    /// The corresponding kernel call is `munmap`.
    public func munmap(_ range: AddressRange) throws(ModelError) {
        guard Self.isValid(range) else { throw .invalid }
        let gone = isolate(range)
        guard !gone.isEmpty else { return }
        let unmapped = AddressRange(
            start: vmas[gone.lowerBound].start, end: vmas[gone.upperBound - 1].end)
        vmas.removeSubrange(gone)
        forEachTable(under: unmapped) { _, indices, table in table?.clear(indices) }
        let next = gone.lowerBound
        freeTables(
            below: unmapped, floor: next == 0 ? 0 : vmas[next - 1].end,
            ceiling: next == vmas.count ? PageGeometry.userSpaceEnd : vmas[next].start)
    }

    /// Sets or clears attributes of the mapped part of `range`.
    /// - Throws: ENOMEM where there is a hole; the rest is changed. EINVAL.
    /// The corresponding kernel function is `vma_modify_flags`.
    public func setAttributes(
        _ attributes: VMA.Attributes, _ isSet: Bool, of range: AddressRange
    ) throws(ModelError) {
        guard Self.isValid(range) else { throw .invalid }
        let hasHole = !isMapped(range)
        changeAttributes(of: range) {
            if isSet { $0.formUnion(attributes) } else { $0.subtract(attributes) }
        }
        if hasHole { throw .noMemory }
    }

    /// Changes attributes of the mapped part of `range`, and merges what has become alike.
    func changeAttributes(of range: AddressRange, _ change: (inout VMA.Attributes) -> Void) {
        for index in isolate(range) { change(&vmas[index].attributes) }
        mergeNeighbours(around: range)
    }

    /// Makes every page of `range` present and keeps it there.
    /// - Throws: ENOMEM where there is a hole; EINVAL.
    /// The corresponding kernel call is `mlock`.
    public func mlock(_ range: AddressRange) throws(ModelError) {
        try setAttributes(.locked, true, of: range)
        for address in stride(from: range.start, to: range.end, by: Int(PageGeometry.pageByteCount))
        where entry(at: address) == nil {
            try write(0, at: address)
        }
    }

    public func munlock(_ range: AddressRange) throws(ModelError) {
        try setAttributes(.locked, false, of: range)
    }
}

// MARK: - Splitting and merging VMAs

extension ModelSpace {
    /// Whether `range` has no hole.
    func isMapped(_ range: AddressRange) -> Bool {
        var covered = range.start
        for index in indices(overlapping: range) {
            guard vmas[index].start <= covered else { return false }
            covered = vmas[index].end
        }
        return range.end <= covered
    }

    /// Splits VMAs so that none reaches over an end of `range`, and returns those inside.
    /// The corresponding kernel function is `__split_vma`.
    func isolate(_ range: AddressRange) -> Range<Int> {
        split(at: range.start)
        split(at: range.end)
        return indices(overlapping: range)
    }

    private func split(at address: UInt) {
        guard let index = firstIndex(endingAfter: address), vmas[index].start < address else {
            return
        }
        var upper = vmas[index]
        upper.range.start = address
        vmas[index].range.end = address
        vmas.insert(upper, at: index + 1)
    }

    private func insert(_ vma: VMA) {
        let index = vmas.firstIndex { vma.end <= $0.start } ?? vmas.endIndex
        vmas.insert(vma, at: index)
        mergeNeighbours(around: vma.range)
    }

    /// Merges, lowest first: where a VMA could join either neighbour but these two do not fit each
    /// other, it joins the one before.
    /// The corresponding kernel functions are `vma_merge_new_range` and `vma_merge_existing_range`.
    private func mergeNeighbours(around range: AddressRange) {
        var index = max(indices(overlapping: range).lowerBound - 1, 0)
        while index + 1 < vmas.count, vmas[index].start < range.end {
            if vmas[index].canMerge(with: vmas[index + 1]) {
                vmas[index].range.end = vmas[index + 1].end
                vmas[index].anonVMA = vmas[index].anonVMA ?? vmas[index + 1].anonVMA
                vmas.remove(at: index + 1)
            } else {
                index += 1
            }
        }
    }
}
