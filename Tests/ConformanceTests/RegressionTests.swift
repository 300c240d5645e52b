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

    /// What each of these is about, and the shortest sequence that once showed it on some kernel.
    static let texts: [(about: String, text: String)] = [
        (
            "guards are copied by fork",
            """
            mmap B+1023..B+1274 anonymous rw
            madvise B+1273..B+1274 guardInstall
            fork
            """
        ),
        (
            "faults map 64 KiB from where the VMA starts",
            """
            mmap A+356..A+369 private:0 rx populate
            madvise A+356..A+369 dontneed
            read A+356
            """
        ),
        (
            "COLLAPSE wants a VMA that has been written",
            """
            mmap B-512..B-511 anonymous rw
            mremap B-512..B-511 to B-1536..B-1535 fixed dontunmap
            madvise B-1536..B-1535 collapse
            """
        ),
        (
            "COLLAPSE of nothing is fine",
            """
            mmap B+0..B+512 anonymous rw
            madvise B+0..B+1 populateWrite
            madvise B+0..B+1 collapse
            """
        ),
        (
            "COLLAPSE over watched none entries",
            """
            mmap B+0..B+512 anonymous rw
            register B+0..B+512 wp
            write B+0 1
            madvise B+0..B+512 collapse
            """
        ),
        (
            "COLLAPSE stops at a missing table",
            """
            mmap A+0..A+1024 anonymous none
            madvise A+862..A+863 guardInstall
            register A+0..A+1024 wp
            madvise A+0..A+1024 collapse
            """
        ),
        (
            "DONTUNMAP beside its source",
            """
            mmap B-512..B+1024 anonymous rw
            mremap B+1023..B+1024 to B-513..B-512 fixed dontunmap
            """
        ),
        (
            "the page offset after DONTUNMAP",
            """
            mmap A+1671..A+1673 anonymous rw
            write A+1671 1
            mremap A+1671..A+1675 to B+510..B+512 fixed
            mremap B+510..B+512 to A+2046..A+2048 fixed dontunmap
            mmap B+509..B+510 anonymous rw
            """
        ),
        (
            "what is zapped belongs to no huge page",
            """
            mmap B+0..B+512 anonymous rw
            write B+0 1
            madvise B+0..B+512 collapse
            madvise B+0..B+1 dontneed
            madvise B+0..B+1 free
            """
        ),
        (
            "a moved huge page in two tables is split by FREE",
            """
            mmap B+0..B+512 anonymous rw
            write B+511 1
            madvise B+0..B+512 collapse
            mremap B+0..B+512 to B-1022..B-506 fixed
            madvise B-1022..B-510 free
            """
        ),
        (
            "a collapse beside a hole is one",
            """
            mmap A-950..A-438 anonymous rw
            mremap A-950..A-438 to B-2048..B-1536 fixed dontunmap
            madvise B-2048..B-1536 populateWrite
            madvise B-2048..B-1535 collapse
            madvise B-1537..B-1536 free
            """
        ),
        (
            "mprotect that changes nothing",
            """
            mmap A+506..A+1023 anonymous rw
            write A+1022 1
            mprotect A+506..A+507 r
            mremap A+506..A+507 to A+2039..A+2040 fixed dontunmap
            mprotect A+506..A+507 r
            """
        ),
        (
            "an unwritten neighbour",
            """
            mmap A-1552..A-673 private:1 rw
            mmap A-673..A+475 anonymous r noreserve
            mprotect A-1552..A+0 rw
            write A-673 15
            mprotect A-1175..A+0 r
            """
        ),
        (
            "advice beside what was written",
            """
            mmap A+615..A+1024 anonymous rw
            madvise A+615..A+616 hugepage
            write A+1023 159
            madvise A+615..A+617 nohugepage
            """
        ),
        (
            "a moved file at the start of a hole",
            """
            mmap B+491..B+1536 private:0 rw
            read B+1492
            mremap B+496..B+1536 to B-1024..B+16 fixed
            munmap B-1024..B+16
            madvise B-140..B+512 populateRead
            """
        ),
        (
            "pages that are locked are not mapped to the page of zeros",
            """
            mmap A+512..A+1024 anonymous rw
            madvise A+512..A+513 populateWrite
            madvise A+512..A+1024 collapse
            mlock A+1020..A+1021
            madvise A+512..A+513 free
            """
        ),
        (
            "a child of hugetlb gets no tables above holes",
            """
            mmap A-512..A+1 hugetlb rw
            write A+511 1
            mmap A+0..A+1 hugetlb none
            fork
            """
        ),
    ]

    @Test(arguments: texts)
    func disagreement(about: String, text: String) async throws {
        try await expectAgreement(text)
    }
}
