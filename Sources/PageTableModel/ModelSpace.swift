// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

/// An address space on paper: VMAs, the page tables below them, and what the system calls do to
/// both, for one kernel. One thread; no clock.
///
/// - Note: addresses are page-aligned unless said otherwise.
public final class ModelSpace {
    public let profile: KernelProfile
    /// How `freeTable` works.
    public let backend: Backend

    /// Ordered by address; never overlapping.
    public internal(set) var vmas: [VMA] = []
    /// By the start of the 2 MiB that the table maps.
    public internal(set) var pteTables: [UInt: PTETable] = [:]
    /// Starts of the 1 GiB that each PMD table maps.
    public internal(set) var pmdTables: Set<UInt> = []
    /// Starts of the 512 GiB that each PUD table maps.
    public internal(set) var pudTables: Set<UInt> = []
    /// Where an unused reserve begins that reaches up to the next span boundary.
    public var reserveEnds: Set<UInt> = []
    /// Contents of files, by file and by the page's offset.
    public internal(set) var pageCache: [Int: [UInt: UInt8]] = [:]

    /// Whether a userfaultfd that stops every access is to be had.
    public var fenceIsAvailable = true
    /// An address on the stack of the thread that calls.
    public var stackAddress: UInt?
    /// What another thread does between the look of a walk and the fence.
    public var beforeFence: (() -> Void)?

    var anonVMACount = 0

    public init(profile: KernelProfile, backend: Backend) {
        self.profile = profile
        self.backend = backend
    }
}

// MARK: - Finding

extension ModelSpace {
    /// The VMA that covers `address`, which need not be aligned.
    public func vma(covering address: UInt) -> VMA? {
        guard let index = firstIndex(endingAfter: address), vmas[index].start <= address else {
            return nil
        }
        return vmas[index]
    }

    /// The index of the first VMA that ends after `address`.
    /// The corresponding kernel function is `find_vma`.
    func firstIndex(endingAfter address: UInt) -> Int? {
        vmas.firstIndex { address < $0.end }
    }

    /// Indices of the VMAs that have a byte in `range`.
    func indices(overlapping range: AddressRange) -> Range<Int> {
        let first = firstIndex(endingAfter: range.start) ?? vmas.endIndex
        let last = vmas[first...].firstIndex { range.end <= $0.start } ?? vmas.endIndex
        return first..<last
    }

    /// The entry of the page at `address`; nil where it is none or there is no table.
    public func entry(at address: UInt) -> PTE? {
        pteTables[Span(containing: address).start]?.entries[Self.entryIndex(of: address)]
    }

    static func entryIndex(of address: UInt) -> Int {
        Int(address % PageGeometry.spanByteCount / PageGeometry.pageByteCount)
    }

    /// The entries of the table of `span` that map `range`.
    static func entryIndices(of range: AddressRange, in span: Span) -> Range<Int> {
        let start = max(range.start, span.start)
        let end = min(range.end, span.end)
        return entryIndex(of: start)..<(entryIndex(of: end - PageGeometry.pageByteCount) + 1)
    }

    static func isValid(_ range: AddressRange) -> Bool {
        !range.isEmpty && range.start % PageGeometry.pageByteCount == 0
            && range.end % PageGeometry.pageByteCount == 0
            && range.end <= PageGeometry.userSpaceEnd
    }
}
