// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

extension ModelSpace {
    /// What procfs would show of this address space.
    /// - Parameter windows: those whose pages are listed.
    public func observe(_ windows: [AddressRange]) -> Observation {
        Observation(
            vmPTEByteCount: tables.byteCount,
            vmas: vmas.map(observed),
            pages: windows.flatMap(pageStates))
    }

    private func observed(_ vma: VMA) -> ObservedVMA {
        var attributes = vma.attributes
        if !profile.guardsMarkVMAs { attributes.remove(.mayHaveGuards) }
        if !profile.showsLockOnFault { attributes.remove(.lockedOnFault) }
        return ObservedVMA(
            range: vma.range, protection: vma.protection, isShared: vma.kind.isShared,
            attributes: attributes)
    }

    private func pageStates(_ window: AddressRange) -> [PageState] {
        var states = [PageState](
            repeating: .none, count: Int(window.byteCount / PageGeometry.pageByteCount))
        tables.forEachOccupiedSpan(in: window) { span in
            for page in Self.pages(of: span.range.clamped(to: window)) {
                let entry = tables.entry(at: page)
                if entry.isNone { continue }
                states[Int((page - window.start) / PageGeometry.pageByteCount)] = entry.observed
            }
        }
        return states
    }
}

extension PTE {
    /// What procfs shows of this entry.
    var observed: PageState {
        let kind: PageState.Kind =
            switch state {
            case .none: .none
            case .anonymous, .lazyFree: .anonymous
            case .zeroPage: .zeroPage
            case .file: .file
            case .swap: .swap
            case .writeProtectMarker: .writeProtectMarker
            case .guardMarker: .guardMarker
            }
        return PageState(kind, isWriteProtected: isWriteProtected)
    }
}
