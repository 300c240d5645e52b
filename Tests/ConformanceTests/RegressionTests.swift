// SPDX-License-Identifier: Apache-2.0

import Testing

/// Sequences on which the model and a kernel once disagreed, as `ptreclaim conform` prints them.
@Suite(.serialized, .enabled(if: Playground.isOpen, Playground.why))
struct RegressionTests {
    /// Every kind of memory, and every state of a page: written by hand, to begin with.
    @Test func everyState() async throws {
        try await expectAgreement(
            """
            mmap A-512..A+512 anonymous rw
            madvise A+0..A+512 hugepage
            read A-3
            write A-2 1
            read A+5
            mmap B-3..B+5 shared:0 rw
            write B-1 1
            fork
            write A+5 6
            madvise A+0..A+1 dontneed
            mmap A+600..B-600 private:1 rw noreserve
            read A+601
            write B-601 4
            madvise A-512..A+0 dontneed
            reclaim A-512..A+512
            """)
    }
}
