// SPDX-License-Identifier: Apache-2.0

internal import LiveSpace
public import PageTableModel
public import ReclaimCore

/// What the running kernel can do, found by trying.
public enum KernelAbilities {
    /// Which backends free tables here.
    public static let backends: [Backend] = Backend.allCases.filter { LiveSpace.frees($0) }

    /// An empty table can be told from a missing one.
    public static let showsTables: Bool = {
        guard let backend = backends.first, let space = try? LivePlayground(backend) else {
            return false
        }
        return (try? space.look(at: space.span(0))) == .absent
    }()

    public static let hasGuards: Bool = {
        guard let backend = backends.first, let space = try? LivePlayground(backend) else {
            return false
        }
        let page = space.pages(0..<1)
        return (try? space.map(page, marked: false)) != nil && (try? space.guardPages(page)) != nil
    }()

    public static let profile = KernelProfile(
        dontneedFreesTables: backends.contains(.dontneed), showsEmptyTables: showsTables)
}
