// SPDX-License-Identifier: Apache-2.0

internal import PageTableModel

/// What a sequence is mostly about.
public enum Mixture: String, CaseIterable, Sendable {
    /// Private anonymous memory.
    case plain
    /// Shared and private mappings of files.
    case files
    /// Transparent huge pages.
    case huge
    /// Memory registered with a userfaultfd, for missing pages or for write protection.
    case userfault
    /// Guards, and locked memory.
    case guards
    /// Huge pages of the pool; nothing is ever moved then, because Linux 6.18 has an oops there.
    case hugetlb
    /// Everything but the pool.
    case everything

    /// What is done, one word for a family of operations that are made alike.
    enum Action {
        case map, unmap, move, protect, read, write
        case discard, free, pageOut, populateRead, populateWrite, discardLocked
        case hugePage, noHugePage, collapse, forkFlag, dumpFlag
        case lock, unlock, installGuards, removeGuards
        case register, unregister, writeProtect, unprotect
        case reclaim, fork
    }

    /// How often each is done, by weight.
    var weights: [(Action, Int)] {
        Self.base.map { action, weight in (action, self.weight(of: action) ?? weight) }
    }

    private static let base: [(Action, Int)] = [
        (.map, 60), (.unmap, 30), (.move, 40), (.protect, 35), (.read, 130), (.write, 240),
        (.discard, 150), (.free, 25), (.pageOut, 15), (.populateRead, 12), (.populateWrite, 25),
        (.discardLocked, 6), (.hugePage, 5), (.noHugePage, 8), (.collapse, 2), (.forkFlag, 8),
        (.dumpFlag, 12), (.lock, 6), (.unlock, 6), (.installGuards, 6), (.removeGuards, 5),
        (.register, 4), (.unregister, 3), (.writeProtect, 4), (.unprotect, 3), (.reclaim, 70),
        (.fork, 12),
    ]

    private func weight(of action: Action) -> Int? {
        switch (self, action) {
        case (.plain, .register), (.plain, .unregister), (.plain, .writeProtect),
            (.plain, .unprotect), (.plain, .installGuards), (.plain, .removeGuards),
            (.plain, .lock), (.plain, .unlock), (.plain, .discardLocked):
            0
        case (.huge, .hugePage): 40
        case (.huge, .noHugePage): 12
        case (.huge, .collapse): 40
        case (.huge, .move): 55
        case (.userfault, .register): 60
        case (.userfault, .unregister): 30
        case (.userfault, .writeProtect): 80
        case (.userfault, .unprotect): 50
        case (.guards, .installGuards): 70
        case (.guards, .removeGuards): 40
        case (.guards, .lock): 35
        case (.guards, .unlock): 25
        case (.guards, .discardLocked): 40
        case (.hugetlb, .move): 0
        case (.everything, .hugePage), (.everything, .collapse), (.everything, .installGuards):
            20
        case (.everything, .register), (.everything, .writeProtect): 25
        default: nil
        }
    }

    /// What is mapped, by weight.
    var kinds: [(VMA.Kind, Int)] {
        let files: [(VMA.Kind, Int)] = [
            (.shared(file: 0), 4), (.shared(file: 1), 1), (.privateFile(file: 0), 4),
            (.privateFile(file: 1), 1), (.sharedAnonymous, 2),
        ]
        return switch self {
        case .plain: [(.anonymousPrivate, 1)]
        case .files: files + [(.anonymousPrivate, 1)]
        case .huge: [(.anonymousPrivate, 9)] + files.prefix(1).map { ($0.0, 1) }
        case .userfault, .guards, .everything: files + [(.anonymousPrivate, 10)]
        case .hugetlb: files + [(.anonymousPrivate, 8), (.hugetlb, 14)]
        }
    }
}
