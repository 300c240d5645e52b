// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

/// What anybody can see of an address space from outside, through procfs.
public struct Observation: Equatable, Sendable {
    /// PTE, PMD and PUD tables, in bytes.
    public var vmPTEByteCount: UInt
    /// Lowest first.
    public var vmas: [ObservedVMA]
    /// One for each page of the windows that were looked at, lowest first. Pages in a hole are none.
    public var pages: [PageState]

    public init(vmPTEByteCount: UInt, vmas: [ObservedVMA], pages: [PageState]) {
        self.vmPTEByteCount = vmPTEByteCount
        self.vmas = vmas
        self.pages = pages
    }
}

/// A VMA as `/proc/PID/smaps` shows it.
public struct ObservedVMA: Equatable, Sendable {
    public var range: AddressRange
    public var protection: VMA.Protection
    public var isShared: Bool
    /// Those that VmFlags shows: `lo`, `nh`, `dd`, `um`, `uw`, `hg`, `dc`, `ac`, `nr`, `lf`, and
    /// `gu` on kernels that mark VMAs for their guards.
    public var attributes: VMA.Attributes

    public init(
        range: AddressRange, protection: VMA.Protection, isShared: Bool,
        attributes: VMA.Attributes
    ) {
        self.range = range
        self.protection = protection
        self.isShared = isShared
        self.attributes = attributes
    }
}

/// A page as `/proc/PID/pagemap` and `/proc/kpageflags` show it.
public struct PageState: Hashable, Sendable {
    public enum Kind: UInt8, Sendable, CaseIterable {
        case none
        /// Present, an anonymous page; hugetlb pages are none of these but `file` where shared and
        /// `anonymous` where private.
        case anonymous
        /// Present, the page of zeros or a part of the huge page of zeros.
        case zeroPage
        /// Present, of the page cache.
        case file
        case swap
        case writeProtectMarker
        case guardMarker
    }

    public let kind: Kind
    /// Write-protected through userfaultfd. False for markers, which say so by themselves.
    public let isWriteProtected: Bool

    public init(_ kind: Kind, isWriteProtected: Bool = false) {
        self.kind = kind
        self.isWriteProtected = isWriteProtected
    }

    public static let none = PageState(.none)
}
