// SPDX-License-Identifier: Apache-2.0

/// A PTE that is not `pte_none`. A none entry is one that is not there.
public enum PTE: Equatable, Sendable {
    /// A page; one byte stands for its contents.
    case present(contents: UInt8)
    /// The shared page of zeros, mapped by a read.
    case zeroPage
    /// A page on the swap device.
    case swap(contents: UInt8)
    /// Write protection of a page that does not exist, set through userfaultfd.
    case uffdWPMarker
    /// A guard: every access faults. `MADV_GUARD_INSTALL`, Linux 6.13.
    case guardMarker
}

/// One PTE table: a page of 512 entries that maps one span.
public struct PTETable: Equatable, Sendable {
    /// Entries that are not none, by index 0..<512.
    public internal(set) var entries: [Int: PTE] = [:]

    /// All 512 entries are `pte_none`.
    public var isAllNone: Bool { entries.isEmpty }

    /// Whether a write to the page of `index` waits for a userfaultfd handler. A marker says so by
    /// itself.
    public internal(set) var writeProtected: Set<Int> = []

    /// What `MADV_DONTNEED` does to `indices`: everything goes but guard markers and, in memory
    /// that is not anonymous, the write protection: it becomes a marker or stays one.
    /// The corresponding kernel function is `zap_pte_range`.
    mutating func zap(_ indices: Range<Int>, isAnonymous: Bool) {
        for index in entries.keys where indices.contains(index) {
            switch entries[index] {
            case .guardMarker: break
            case .uffdWPMarker where !isAnonymous: break
            case .some where !isAnonymous && writeProtected.contains(index):
                entries[index] = .uffdWPMarker
            default: entries[index] = nil
            }
        }
        writeProtected.subtract(indices)
    }

    /// What munmap does to `indices`.
    mutating func clear(_ indices: Range<Int>) {
        entries = entries.filter { index, _ in !indices.contains(index) }
        writeProtected.subtract(indices)
    }
}
