// SPDX-License-Identifier: Apache-2.0

public import PageTableModel
internal import ReclaimCore

/// Makes sequences of operations that are likely to find a mistake: near the boundaries of tables,
/// at the ends of mappings, again and again in the same few places.
///
/// The same seed makes the same sequence on any machine; what a machine lacks is left out of it.
public struct Generator {
    /// What the machine lacks.
    public struct Limits: Sendable {
        public var hasSwap: Bool
        public var without: Set<Mixture>

        public init(hasSwap: Bool = true, without: Set<Mixture> = []) {
            self.hasSwap = hasSwap
            self.without = without
        }
    }

    public let mixture: Mixture
    var random: SplitMix64
    var sketch = Sketch()
    /// Ends of ranges that were used lately, in pages.
    var recent: [Int] = []
    /// Pages of private anonymous memory that were written lately.
    var written: [Int] = []
    /// Ranges that were registered, or guarded, lately.
    private var registered: [Range<Int>] = []
    private var guarded: [Range<Int>] = []
    private let weights: [(Mixture.Action, Int)]
    /// A sequence registers for one or the other: what can be done with both at once is not the
    /// business of page tables.
    private let userfaultMode: Operation.UserfaultMode

    public init(seed: UInt64, limits: Limits = Limits()) {
        random = SplitMix64(seed: seed)
        let all = Mixture.allCases
        let rest = all.filter { !limits.without.contains($0) }
        let first = all[Int(random.next() % UInt64(all.count))]
        let second = rest[Int(random.next() % UInt64(rest.count))]
        mixture = rest.contains(first) ? first : second
        let mode: Operation.UserfaultMode = random.next() % 5 < 2 ? .missing : .writeProtect
        userfaultMode = mode
        weights = mixture.weights.map { action, weight in
            switch action {
            // Of no use where nothing is registered for it.
            case .writeProtect where mode == .missing: (action, weight / 8)
            case .unprotect where mode == .missing: (action, weight / 8)
            default: (action, weight)
            }
        }
    }

    public static func sequence(
        seed: UInt64, count: Int, limits: Limits = Limits()
    ) -> (mixture: Mixture, operations: [Operation]) {
        var generator = Generator(seed: seed, limits: limits)
        let operations = (0..<count).map { _ in generator.next() }
        return (
            generator.mixture,
            operations.filter {
                if case .madvise(_, .pageout) = $0 { limits.hasSwap } else { true }
            }
        )
    }

    public mutating func next() -> Operation {
        while true {
            if let operation = make(nextAction()) { return operation }
        }
    }

    /// Few mappings call for more of them, many for fewer.
    private mutating func nextAction() -> Mixture.Action {
        let pieceCount = sketch.pieces.count
        if pieceCount == 0 { return .map }
        return pick(
            weights.map { action, weight in
                switch action {
                case .map where pieceCount < 4: (action, 4 * weight)
                case .map where pieceCount > 10: (action, weight / 4)
                case .unmap where pieceCount < 4: (action, weight / 4)
                case .unmap where pieceCount > 10: (action, 4 * weight)
                default: (action, weight)
                }
            })
    }

    private mutating func make(_ action: Mixture.Action) -> Operation? {
        switch action {
        case .map: map()
        case .unmap: unmap()
        case .move: move()
        case .protect: protect()
        case .read: touchedAddress(for: .read).map { .read($0) }
        case .write: write()
        case .discard: advise(.dontneed, mayBeGiant: true)
        case .free: advise(.free) { $0.kind == .anonymousPrivate }
        case .pageOut: advise(.pageout)
        case .populateRead: advise(.populateRead) { $0.protection.contains(.read) }
        case .populateWrite: advise(.populateWrite) { $0.protection.contains(.write) }
        case .discardLocked: advise(.dontneedLocked)
        case .hugePage: advise(.hugepage, mayBeGiant: true)
        case .noHugePage: advise(.nohugepage, mayBeGiant: true)
        case .collapse: collapsibleRange().map { .madvise($0, .collapse) }
        case .forkFlag: advise(chance(50) ? .dontfork : .dofork, mayBeGiant: true)
        case .dumpFlag: advise(chance(50) ? .dontdump : .dodump, mayBeGiant: true)
        case .installGuards: installGuards()
        case .removeGuards: range(amongst: guarded).map { .madvise($0, .guardRemove) }
        case .lock: usedRange().map { .mlock($0, onFault: chance(40)) }
        case .unlock: usedRange().map { .munlock($0) }
        case .register: register()
        case .unregister: range(amongst: registered).map { .unregister($0) }
        case .writeProtect: range(amongst: smallRegistered).map { .writeProtect($0, true) }
        case .unprotect: range(amongst: smallRegistered).map { .writeProtect($0, false) }
        case .reclaim: usedRange().map { .reclaim($0) }
        case .fork: .fork
        }
    }

    private mutating func advise(
        _ advice: Operation.Advice, mayBeGiant: Bool = false,
        where fits: (Sketch.Piece) -> Bool = { _ in true }
    ) -> Operation? {
        usedRange(mayBeGiant: mayBeGiant, where: fits).map { .madvise($0, advice) }
    }

    private mutating func write() -> Operation? {
        guard let address = touchedAddress(for: .write) else { return nil }
        let page = Self.page(address)
        let isAnonymous = sketch.pieces.contains {
            $0.kind == .anonymousPrivate && $0.pages.contains(page)
        }
        if isAnonymous { written = written.suffix(5) + [page] }
        return .write(address, UInt8(1 + random.next() % 255))
    }

    private mutating func installGuards() -> Operation? {
        guard let range = usedRange(where: { $0.kind != .hugetlb }) else { return nil }
        guarded = guarded.suffix(3) + [Self.pages(range)]
        return .madvise(range, .guardInstall)
    }

    private mutating func register() -> Operation? {
        guard let range = usedRange(mayBeGiant: true) else { return nil }
        registered = registered.suffix(3) + [Self.pages(range)]
        return .register(range, userfaultMode)
    }

    /// Protecting what is not there makes tables: not for all that lies between the windows.
    private var smallRegistered: [Range<Int>] {
        registered.filter { $0.count <= 4 * Field.pagesPerHalf }
    }

    // MARK: - Mappings

    private mutating func map() -> Operation {
        let kind = pick(mixture.kinds)
        let protection = pick([
            (VMA.Protection.readWrite, 80), (.read, 8), (.none, 7), ([.read, .execute], 5),
        ])
        var flags: Operation.MapFlags = []
        if chance(12) { flags.insert(.noReserve) }
        if chance(8) { flags.insert(.noReplace) }
        let pages: Range<Int>
        if kind == .hugetlb {
            // Few places, so that the pool lasts.
            let first = Self.windows[0].lowerBound + 512 * (2 + Int(random.next() % 3))
            pages = first..<first + 512 * (1 + Int(random.next() % 2))
        } else if chance(4) {
            // Across all that lies between the windows: tables of every level meet in it.
            pages = giantRange()
            // It must not be counted as if it were going to be filled.
            flags.insert(.noReserve)
        } else {
            pages = freshRange()
            if chance(9) { flags.insert(.populate) }
        }
        remember(pages)
        let isRefused =
            flags.contains(.noReplace) && sketch.pieces.contains { $0.pages.overlaps(pages) }
        if !isRefused {
            sketch.insert(Sketch.Piece(pages: pages, kind: kind, protection: protection))
        }
        return .mmap(Self.addresses(pages), kind, protection, flags)
    }

    private mutating func unmap() -> Operation? {
        guard let range = usedRange(mayBeGiant: true) else { return nil }
        sketch.remove(Self.pages(range))
        return .munmap(range)
    }

    private mutating func protect() -> Operation? {
        guard let range = usedRange() else { return nil }
        let protection = pick([
            (VMA.Protection.readWrite, 55), (.read, 25), (.none, 15), ([.read, .execute], 5),
        ])
        sketch.protect(Self.pages(range), protection)
        return .mprotect(range, protection)
    }

    private mutating func move() -> Operation? {
        guard let source = usedRange() else { return nil }
        let pages = Self.pages(source)
        guard !pages.isEmpty, let window = Self.window(of: pages.lowerBound) else { return nil }
        var count = chance(80) ? pages.count : max(1, pages.count + Int(random.next() % 9) - 4)
        if chance(25) {
            count = chance(50) ? count : max(1, pages.count / 2)
            count = min(count, window.upperBound - pages.lowerBound)
            guard count > 0 else { return nil }
            if count < pages.count {
                sketch.remove(pages.lowerBound + count..<pages.upperBound)
            }
            return .mremap(source, byteCount: Self.bytes(count), .inPlace)
        }
        guard let start = destination(of: pages, count: count) else { return nil }
        let keepsSource = chance(35)
        remember(start..<start + count)
        sketch.move(pages, to: start, count: count, keepsSource: keepsSource)
        let target = Self.address(start)
        return .mremap(
            source, byteCount: Self.bytes(count),
            keepsSource ? .keepingSource(target) : .fixed(target))
    }

    /// Half of the time as far from a table's boundary as the source is: the kernel then moves
    /// whole tables.
    private mutating func destination(of pages: Range<Int>, count: Int) -> Int? {
        for _ in 0..<8 {
            let window = Self.windows[Int(random.next() % 2)]
            var start = edge()
            if chance(60) { start = start & ~511 | pages.lowerBound & 511 }
            start = min(max(start, window.lowerBound), window.upperBound - count)
            guard start >= window.lowerBound else { return nil }
            let isClear = !pages.overlaps(start..<start + count)
            // The kernel refuses to move a mapping onto itself.
            if isClear || chance(4) { return start }
        }
        return nil
    }
}
