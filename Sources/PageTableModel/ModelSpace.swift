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
    public internal(set) var tables = PageTables()
    /// Where an unused reserve begins that reaches up to the next span boundary.
    public var reserveEnds: Set<UInt> = []
    /// Contents of files, by file and by the page's number.
    public internal(set) var pageCache: [Int: [UInt: CachedPage]] = [:]
    /// The page number at which a file ends; others have no end.
    var fileEnds: [Int: UInt] = [:]
    /// Pages that are mapped one by one and still belong to a huge page.
    var splitPages = SplitHugePages()
    /// Huge pages that a child had, too, and nobody has written since.
    var sharedHugePages: Set<Span> = []

    /// Whether a userfaultfd that stops every access is to be had.
    public var fenceIsAvailable = true
    /// Whether UFFDIO_WRITEPROTECT marks what is not there: the userfaultfd has WP_UNPOPULATED.
    public var marksUnpopulated = true
    /// Whether there is a swap device.
    public var hasSwap = true
    /// An address on the stack of the thread that calls.
    public var stackAddress: UInt?
    /// What another thread does between the look of a walk and the fence.
    public var beforeFence: (() -> Void)?
    /// A rule that is broken on purpose, for tests that must find out.
    public var mistake: ModelMistake?

    /// What the last operation left open.
    var open = OpenOutcomes()
    var anonVMACount = 0
    /// Whether anything was ever registered; looks are faster where not.
    var hasBeenRegistered = false

    public init(profile: KernelProfile, backend: Backend) {
        self.profile = profile
        self.backend = backend
    }

    /// A space of its own that is as this one is now.
    public func copied() -> ModelSpace {
        let copy = ModelSpace(profile: profile, backend: backend)
        copy.vmas = vmas
        copy.tables = tables
        copy.reserveEnds = reserveEnds
        copy.pageCache = pageCache
        copy.fileEnds = fileEnds
        copy.splitPages = splitPages
        copy.sharedHugePages = sharedHugePages
        copy.fenceIsAvailable = fenceIsAvailable
        copy.marksUnpopulated = marksUnpopulated
        copy.hasSwap = hasSwap
        copy.stackAddress = stackAddress
        copy.beforeFence = beforeFence
        copy.mistake = mistake
        copy.open = open
        copy.anonVMACount = anonVMACount
        copy.hasBeenRegistered = hasBeenRegistered
        return copy
    }

    /// A page of a file.
    public struct CachedPage: Equatable, Sendable {
        var contents: UInt8
        /// Somebody was given it to write to: it cannot just be dropped.
        var isDirty: Bool
        /// On the swap device: there, but nothing that a fault nearby would map.
        var isSwapped = false
    }
}

// MARK: - Finding

extension ModelSpace {
    /// The VMA that covers `address`, which need not be aligned.
    public func vma(covering address: UInt) -> VMA? {
        index(covering: address).map { vmas[$0] }
    }

    /// The corresponding kernel function is `vma_lookup`.
    func index(covering address: UInt) -> Int? {
        let index = firstIndex(endingAfter: address)
        return index < vmas.count && vmas[index].start <= address ? index : nil
    }

    /// The index of the first VMA that ends after `address`; `vmas.count` where there is none.
    /// The corresponding kernel function is `find_vma`.
    func firstIndex(endingAfter address: UInt) -> Int {
        let vmas = vmas
        var (low, high) = (0, vmas.count)
        while low < high {
            let middle = (low + high) / 2
            if vmas[middle].end <= address { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// Indices of the VMAs that have a byte in `range`.
    func indices(overlapping range: AddressRange) -> Range<Int> {
        let first = firstIndex(endingAfter: range.start)
        var last = first
        while last < vmas.count, vmas[last].start < range.end { last += 1 }
        return first..<last
    }

    /// Whether `range` has no hole.
    func isMapped(_ range: AddressRange) -> Bool {
        var covered = range.start
        for index in indices(overlapping: range) {
            guard vmas[index].start <= covered else { return false }
            covered = vmas[index].end
        }
        return range.end <= covered
    }

    /// The entry of the page at `address`, which need not be aligned.
    public func entry(at address: UInt) -> PTE { tables.entry(at: address) }

    static func isValid(_ range: AddressRange) -> Bool {
        !range.isEmpty && range.start % PageGeometry.pageByteCount == 0
            && range.end % PageGeometry.pageByteCount == 0
            && range.end <= PageGeometry.userSpaceEnd
    }

    static func pages(of range: AddressRange) -> StrideTo<UInt> {
        stride(from: range.start, to: range.end, by: Int(PageGeometry.pageByteCount))
    }

    static func start(of address: UInt, in byteCount: UInt) -> UInt { address & ~(byteCount - 1) }
}

extension AddressRange {
    /// The part of both.
    func clamped(to other: AddressRange) -> AddressRange {
        let low = max(start, other.start)
        return AddressRange(start: low, end: max(low, min(end, other.end)))
    }

    func overlaps(_ other: AddressRange) -> Bool { start < other.end && other.start < end }
    var isSpanAligned: Bool { (start | end) % PageGeometry.spanByteCount == 0 }
}
