// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

/// When a kernel frees a PTE table that a zap has emptied.
public enum TableFreeing: Sendable {
    /// Never: Linux up to 6.13, and pages that `MADV_FREE` has offered on every kernel.
    case never
    /// Where the zap covers the whole span: PT_RECLAIM.
    case wholeSpans
    /// At once, whatever emptied it: PTE tables that count their entries, a proposal on linux-mm.
    case whenEmpty
}

extension ModelSpace {
    /// Zaps the pages of `range` on a kernel that frees tables so, whatever this one does.
    /// - Throws: as `dontneed`.
    public func dontneed(_ range: AddressRange, freeing: TableFreeing) throws(ModelError) {
        try walkVMAs(range) { [self] index, part throws(ModelError) in
            guard vmas[index].kind.isAnonymous, !vmas[index].attributes.contains(.locked) else {
                throw .invalid
            }
            zap(
                part, vmas[index], freesTables: freeing != .never,
                freesPartially: freeing == .whenEmpty)
        }
    }

    /// Takes what the model plays for what the kernel did: nothing is left to `adopt`.
    public func settle() { open = OpenOutcomes() }

    /// PMD tables below which no page is mapped.
    public var idlePMDTableCount: Int { tables.idlePMDTableCount }
}
