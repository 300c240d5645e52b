// SPDX-License-Identifier: Apache-2.0

import Foundation

/// Threads of the kernel's, not of Swift's pool: they block.
struct Threads {
    private let group = DispatchGroup()

    init(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
        for index in 0..<count {
            group.enter()
            Thread.detachNewThread { [group] in
                body(index)
                group.leave()
            }
        }
    }

    func join() { group.wait() }
}
