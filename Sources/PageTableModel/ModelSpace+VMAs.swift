// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

// MARK: - Changing, splitting and merging VMAs

extension ModelSpace {
    /// Splits the VMA at `address`, which lies inside it.
    /// - Throws: EINVAL inside a huge page of hugetlb.
    /// The corresponding kernel function is `split_vma`.
    func split(at address: UInt) throws(ModelError) {
        guard let index = index(covering: address), vmas[index].start < address else { return }
        if vmas[index].kind == .hugetlb, address % PageGeometry.spanByteCount != 0 {
            throw .invalid
        }
        // Whoever splits a VMA splits the huge page there, too.
        if vmas[index].kind != .hugetlb, address % PageGeometry.spanByteCount != 0 {
            splitHugePage(at: address)
        }
        var upper = vmas[index]
        upper.pageOffset = upper.pageOffset(of: address)
        upper.range.start = address
        vmas[index].range.end = address
        vmas.insert(upper, at: index + 1)
    }

    /// Splits VMAs so that none reaches over an end of `range`, and returns those inside.
    func isolate(_ range: AddressRange) throws(ModelError) -> Range<Int> {
        try split(at: range.start)
        try split(at: range.end)
        return indices(overlapping: range)
    }

    /// What a VMA is to become, and whatever decides whether it may merge.
    struct Candidate {
        var range: AddressRange
        var kind: VMA.Kind
        var protection: VMA.Protection
        var attributes: VMA.Attributes
        var pageOffset: UInt
        var anonVMA: Int?

        var pageCount: UInt { range.byteCount / PageGeometry.pageByteCount }

        init(_ vma: VMA, _ range: AddressRange) {
            self.range = range
            kind = vma.kind
            protection = vma.protection
            attributes = vma.attributes
            pageOffset = vma.pageOffset(of: range.start)
            anonVMA = vma.anonVMA
        }

        var vma: VMA {
            VMA(
                range: range, kind: kind, protection: protection, attributes: attributes,
                pageOffset: pageOffset, anonVMA: anonVMA)
        }

        /// The corresponding kernel function is `is_mergeable_vma`.
        func looksLike(_ vma: VMA) -> Bool {
            let difference = attributes.symmetricDifference(vma.attributes)
            return kind == vma.kind && kind.canMerge && protection == vma.protection
                && difference.subtracting(.mayHaveGuards).isEmpty
        }
    }

    /// Whether the candidate may join `vma`, which is one of its neighbours.
    /// The corresponding kernel function is `is_mergeable_anon_vma`. Until 6.16 it asks for the
    /// chain of `vma` to be singular, which that of an unwritten VMA is not: it is empty.
    private func canShareAnonVMA(_ candidate: Candidate, with vma: VMA) -> Bool {
        if candidate.anonVMA == vma.anonVMA { return true }
        if candidate.anonVMA == nil { return true }
        return vma.anonVMA == nil && profile.mergesIntoUnwritten
    }

    /// The corresponding kernel function is `can_vma_merge_after`.
    private func canMerge(_ candidate: Candidate, after lower: Int) -> Bool {
        guard vmas.indices.contains(lower), vmas[lower].end == candidate.range.start else {
            return false
        }
        let vma = vmas[lower]
        return candidate.looksLike(vma) && canShareAnonVMA(candidate, with: vma)
            && vma.pageOffset + vma.pageCount == candidate.pageOffset
    }

    /// The corresponding kernel function is `can_vma_merge_before`.
    private func canMerge(_ candidate: Candidate, before upper: Int) -> Bool {
        guard vmas.indices.contains(upper), vmas[upper].start == candidate.range.end else {
            return false
        }
        let vma = vmas[upper]
        return candidate.looksLike(vma) && canShareAnonVMA(candidate, with: vma)
            && candidate.pageOffset + candidate.pageCount == vma.pageOffset
    }

    private func haveCompatibleAnonVMAs(_ lower: Int, _ upper: Int) -> Bool {
        let (one, other) = (vmas[lower].anonVMA, vmas[upper].anonVMA)
        return one == nil || other == nil || one == other
    }

    /// Changes a part of the VMA at `index`: merges it with neighbours that it has become like, or
    /// splits it off.
    ///
    ///     |  before  |     VMA      |  behind  |       |   part   |
    ///                [   part   ]                      may join the one before
    ///                     [  part   ]                  may join the one behind
    ///                [     part     ]                  may join either or both
    ///
    /// - Parameter pageOffset: what is taken for the offset of the part, where a kernel is wrong.
    /// - Returns: the index of the VMA that holds the part.
    /// The corresponding kernel function is `vma_modify`.
    @discardableResult
    func modify(
        _ index: Int, _ part: AddressRange, pageOffset: UInt? = nil,
        _ change: (inout Candidate) -> Void
    ) throws(ModelError) -> Int {
        var candidate = Candidate(vmas[index], part)
        change(&candidate)
        if let pageOffset { candidate.pageOffset = pageOffset }
        let reachesDown = part.start == vmas[index].start
        let reachesUp = part.end == vmas[index].end
        let joinsBefore = reachesDown && canMerge(candidate, after: index - 1)
        var joinsBehind = reachesUp && canMerge(candidate, before: index + 1)
        if joinsBefore, joinsBehind {
            joinsBehind =
                haveCompatibleAnonVMAs(index - 1, index + 1) && mistake != .mergesOnlyBefore
        }
        guard joinsBefore || joinsBehind else {
            try split(at: part.start)
            try split(at: part.end)
            let place = self.index(covering: part.start) ?? index
            vmas[place].protection = candidate.protection
            vmas[place].attributes = candidate.attributes
            return place
        }
        // A boundary that moves splits the huge page that it comes to lie in.
        for boundary in [part.start, part.end]
        where boundary > vmas[index].start && boundary < vmas[index].end {
            splitHugePage(at: boundary)
        }
        let guards = candidate.attributes.intersection(.mayHaveGuards)
        var place = index
        if joinsBefore {
            let end = joinsBehind ? vmas[index + 1].end : part.end
            var anonVMA = vmas[index - 1].anonVMA
            anonVMA = anonVMA ?? (joinsBehind ? vmas[index + 1].anonVMA : nil) ?? candidate.anonVMA
            vmas[index - 1].range.end = end
            vmas[index - 1].anonVMA = anonVMA
            vmas[index - 1].attributes.formUnion(guards)
            if joinsBehind {
                vmas[index - 1].attributes.formUnion(
                    vmas[index + 1].attributes.intersection(.mayHaveGuards))
                vmas.removeSubrange(index...index + 1)
            } else if reachesUp {
                vmas.remove(at: index)
            } else {
                vmas[index].pageOffset = vmas[index].pageOffset(of: part.end)
                vmas[index].range.start = part.end
            }
            place = index - 1
        } else {
            let next = index + 1
            vmas[next].pageOffset -= candidate.pageCount
            vmas[next].range.start = part.start
            vmas[next].anonVMA = vmas[next].anonVMA ?? candidate.anonVMA
            vmas[next].attributes.formUnion(guards)
            if reachesDown {
                vmas.remove(at: index)
                place = index
            } else {
                vmas[index].range.end = part.start
                place = next
            }
        }
        return place
    }

    /// Puts a new VMA into a hole, or lets its neighbours grow.
    /// - Parameter keepsApartFrom: the start of a VMA that it must not merge with.
    /// - Returns: the index of the VMA that holds it.
    /// The corresponding kernel function is `vma_merge_new_range`.
    @discardableResult
    func insert(_ candidate: Candidate, keepsApartFrom source: UInt? = nil) -> Int {
        let upper = firstIndex(endingAfter: candidate.range.start)
        let lower = upper - 1
        func isSource(_ index: Int) -> Bool {
            vmas.indices.contains(index) && source == vmas[index].start
        }
        var joinsLower = !isSource(lower) && canMerge(candidate, after: lower)
        var joinsUpper = !isSource(upper) && canMerge(candidate, before: upper)
        if source != nil, isSource(lower) || isSource(upper),
            !profile.dontunmapMergesBesideSource
        {
            (joinsLower, joinsUpper) = (false, false)
        }
        if joinsLower, joinsUpper {
            if profile.newMappingPrefersLower {
                joinsUpper = haveCompatibleAnonVMAs(lower, upper)
            } else {
                var joined = candidate
                joined.anonVMA = vmas[upper].anonVMA ?? candidate.anonVMA
                joinsLower = canMerge(joined, after: lower)
            }
            if mistake == .mergesOnlyBefore { joinsUpper = false }
        }
        let guards = candidate.attributes.intersection(.mayHaveGuards)
        if joinsLower {
            vmas[lower].range.end = candidate.range.end
            vmas[lower].anonVMA = vmas[lower].anonVMA ?? candidate.anonVMA
            vmas[lower].attributes.formUnion(guards)
            if joinsUpper {
                vmas[lower].range.end = vmas[upper].end
                vmas[lower].anonVMA = vmas[lower].anonVMA ?? vmas[upper].anonVMA
                vmas[lower].attributes.formUnion(
                    vmas[upper].attributes.intersection(.mayHaveGuards))
                vmas.remove(at: upper)
            }
            return lower
        }
        if joinsUpper {
            vmas[upper].pageOffset -= candidate.pageCount
            vmas[upper].range.start = candidate.range.start
            vmas[upper].anonVMA = vmas[upper].anonVMA ?? candidate.anonVMA
            vmas[upper].attributes.formUnion(guards)
            return upper
        }
        vmas.insert(candidate.vma, at: upper)
        return upper
    }

    /// Calls `body` for the part of `range` in each VMA, lowest first, past holes. `body` may change
    /// the VMA, and returns where the walk is to go on; nil for the end of the part.
    /// - Throws: what `body` throws, at once; ENOMEM at the end where there was a hole; EINVAL.
    /// The corresponding kernel function is `madvise_walk_vmas`.
    func walkVMAs(
        _ range: AddressRange, stopsAtHoles: Bool = false,
        _ body: (Int, AddressRange) throws(ModelError) -> Void
    ) throws(ModelError) {
        guard Self.isValid(range) else { throw .invalid }
        var hasHole = false
        var start = range.start
        while start < range.end {
            let index = firstIndex(endingAfter: start)
            guard index < vmas.count, vmas[index].start < range.end else { throw .noMemory }
            if start < vmas[index].start {
                if stopsAtHoles { throw .noMemory }
                hasHole = true
                start = vmas[index].start
            }
            let part = AddressRange(start: start, end: min(vmas[index].end, range.end))
            try body(index, part)
            start = part.end
        }
        if hasHole { throw .noMemory }
    }

    /// The first written page ties a VMA to an `anon_vma`: that of a neighbour it may merge with
    /// one day, the next before the previous, or one of its own.
    /// The corresponding kernel functions are `__anon_vma_prepare`, `find_mergeable_anon_vma`.
    func prepareAnonVMA(_ index: Int) {
        guard vmas[index].anonVMA == nil else { return }
        if let shared = reusable(index + 1, lower: index, upper: index + 1)
            ?? reusable(index - 1, lower: index - 1, upper: index)
        {
            vmas[index].anonVMA = shared
        } else {
            anonVMACount += 1
            vmas[index].anonVMA = anonVMACount
        }
    }

    /// The corresponding kernel function is `reusable_anon_vma`.
    private func reusable(_ owner: Int, lower: Int, upper: Int) -> Int? {
        guard vmas.indices.contains(lower), vmas.indices.contains(upper) else { return nil }
        let (one, other) = (vmas[lower], vmas[upper])
        let difference = one.attributes.symmetricDifference(other.attributes)
        guard one.end == other.start, one.kind == other.kind, one.kind.canMerge,
            difference.subtracting(.mayHaveGuards).isEmpty,
            one.pageOffset + one.pageCount == other.pageOffset
        else { return nil }
        return vmas[owner].anonVMA
    }
}
