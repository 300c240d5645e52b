// SPDX-License-Identifier: Apache-2.0

/// One entry of a PTE table, in 16 bits: what the entry is, and one byte for the contents of its
/// page.
public struct PTE: Hashable, Sendable {
    public let rawValue: UInt16

    init(rawValue: UInt16) { self.rawValue = rawValue }

    init(_ state: State, contents: UInt8 = 0, isWriteProtected: Bool = false) {
        rawValue =
            UInt16(contents) | UInt16(state.rawValue) << 8 | (isWriteProtected ? Self.protected : 0)
    }

    public enum State: UInt8, Sendable, CaseIterable {
        /// `pte_none`.
        case none = 0
        /// An anonymous page: memory of its own.
        case anonymous
        /// The shared page of zeros, mapped by a read.
        case zeroPage
        /// A page of the page cache.
        case file
        /// A page on the swap device.
        case swap
        /// Write protection of a page that does not exist, set through userfaultfd.
        case writeProtectMarker
        /// A guard: every access faults. `MADV_GUARD_INSTALL`, Linux 6.13.
        case guardMarker
        /// An anonymous page that `MADV_FREE` has offered: it may go at any time until it is written.
        case lazyFree
    }

    private static let protected: UInt16 = 1 << 11

    public static let none = PTE(.none)

    public var state: State { State(rawValue: UInt8(rawValue >> 8 & 7)).unsafelyUnwrappedState }
    public var contents: UInt8 { UInt8(truncatingIfNeeded: rawValue) }
    public var isNone: Bool { rawValue == 0 }
    /// Whether a write waits for a userfaultfd handler (`pte_uffd_wp`). A marker says so by itself.
    public var isWriteProtected: Bool { rawValue & Self.protected != 0 }

    func with(isWriteProtected: Bool) -> PTE {
        PTE(rawValue: isWriteProtected ? rawValue | Self.protected : rawValue & ~Self.protected)
    }
}

extension PTE.State? {
    /// All eight values of the three bits are states.
    fileprivate var unsafelyUnwrappedState: PTE.State { self ?? .none }
}

extension PTE.State {
    /// Whether an instruction finds memory there, without a fault.
    public var isPresent: Bool {
        switch self {
        case .anonymous, .zeroPage, .file, .lazyFree: true
        case .none, .swap, .writeProtectMarker, .guardMarker: false
        }
    }
}
