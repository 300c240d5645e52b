// SPDX-License-Identifier: Apache-2.0

import LiveSpace
import PageTableModel
import ReclaimCore
import TestSupport

/// What the running kernel can do, found by trying.
enum KernelAbilities {
    /// Which backends free tables here.
    static let backends: [Backend] = Backend.allCases.filter { LiveSpace.frees($0) }

    /// An empty table can be told from a missing one.
    static let showsTables: Bool = {
        guard let backend = backends.first, let space = try? LivePlayground(backend) else {
            return false
        }
        return (try? space.look(at: space.span(0))) == .absent
    }()

    static let hasGuards: Bool = {
        guard let backend = backends.first, let space = try? LivePlayground(backend) else {
            return false
        }
        let page = space.pages(0..<1)
        return (try? space.map(page, marked: false)) != nil && (try? space.guardPages(page)) != nil
    }()

    static let profile = KernelProfile(
        dontneedFreesTables: backends.contains(.dontneed), showsEmptyTables: showsTables)
}
