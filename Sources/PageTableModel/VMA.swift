// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

/// A virtual memory area: neighbouring pages of one kind with the same attributes.
public struct VMA: Equatable, Sendable {
    public enum Kind: Equatable, Sendable {
        /// `MAP_PRIVATE | MAP_ANONYMOUS`, readable and writable.
        case anonymousPrivate
        /// `MAP_SHARED` of a file in memory; a page's offset in the file is its address.
        case shared(file: Int)
        /// `MAP_PRIVATE` of such a file: written pages are copies.
        case privateFile(file: Int)
        /// Made by the kernel or a driver; nobody reclaims from it.
        case special
    }

    /// What makes neighbouring VMAs differ.
    public struct Attributes: OptionSet, Sendable {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }

        /// mlock; `MADV_DONTNEED` is refused.
        public static let locked = Attributes(rawValue: 1 << 0)
        public static let noHugePage = Attributes(rawValue: 1 << 1)
        public static let dontDump = Attributes(rawValue: 1 << 2)
        /// Registered with a userfaultfd for missing pages.
        public static let missingRegistered = Attributes(rawValue: 1 << 3)
        /// Registered with a userfaultfd for write protection.
        public static let writeProtectRegistered = Attributes(rawValue: 1 << 4)
    }

    public internal(set) var range: AddressRange
    public internal(set) var kind: Kind
    public internal(set) var attributes: Attributes
    /// Which `anon_vma` the first written page tied this VMA to; nil before. Two VMAs that were
    /// tied apart never merge, however much they look alike.
    public internal(set) var anonVMA: Int?

    public var start: UInt { range.start }
    public var end: UInt { range.end }

    /// Whether `next` could be part of this VMA but for the `anon_vma` of either.
    func looksLike(_ next: VMA) -> Bool {
        kind == next.kind && attributes == next.attributes && kind != .special
    }

    /// The corresponding kernel function is `is_mergeable_anon_vma`.
    func canMerge(with next: VMA) -> Bool {
        end == next.start && looksLike(next)
            && (anonVMA == nil || next.anonVMA == nil || anonVMA == next.anonVMA)
    }
}
