// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import LiveSpace
import PageTableModel
import ReclaimCore
import TestSupport
import Testing

/// What the call means, rule by rule, on the model and on the kernel. Each rule is played by
/// scenarios of the law suite, which knows what must come of them, and by what needs words of its
/// own here.
@Suite(.enabled(if: KernelAbilities.showsTables, "needs PAGEMAP_SCAN, Linux 6.7"))
struct RuleTests {
    private let pagesPerSpan = PageGeometry.entriesPerTable

    /// Plays `scenario` on the model, and with every backend in a process alone.
    private func play(_ scenario: String, _ law: LawCase) async throws {
        for (profile, backend) in LawTests.models {
            let run = try LawSuite(law.memory, law.access) {
                ModelPlayground(profile, backend, hasHugePages: false)
            }.run(only: [scenario])
            if !run.skipped.isEmpty { try Test.cancel("\(run.skipped)") }
            #expect(run.text == "", "on the model, \(backend)")
        }
        // Whether the kernel can play it is the same in every process.
        let live = try LawTests.live(law, #require(KernelAbilities.backends.first), isAlone: true)
        if let reason = try live.reasonToSkip(scenario) { try Test.cancel("\(reason)") }
        await #expect(processExitsWith: .success) { [scenario, law] in
            LivePlayground.switchHugePagesOff()
            for backend in KernelAbilities.backends {
                let run = try LawTests.live(law, backend, isAlone: true).run(only: [scenario])
                if run.text != "" || run.played != [scenario] {
                    Issue.record("\(backend): \(run.text)\(run.skipped)")
                }
            }
        }
    }

    // MARK: 1. An entry that is not none keeps its table

    // |  span 0  |  span 1   |  span 2   |  span 3  |
    // |    E     |         x | x         |    E     |   x: the last entry, and the first
    @Test(
        arguments: [
            "pages", "pages that were only read", "swap entries", "guard markers",
            "watched for writes, with markers",
        ], LawCase.all)
    func anEntryThatIsNotNoneKeepsItsTable(scenario: String, law: LawCase) async throws {
        try await play(scenario, law)
    }

    // MARK: 2. Memory that is registered for write protection

    // |  VMA              ||  registered            |
    // |  span 0  | span 1 ||  span 2 E  | span 3 .  |
    @Test(arguments: LawCase.all)
    func writeProtectedMemoryIsReclaimedByItsOwnerOnly(law: LawCase) async throws {
        try await play("watched for writes", law)
    }

    /// The kernel's MADV_DONTNEED drops anonymous markers and frees; the call does not.
    // |  registered for write protection  |
    // |  E  |  one marker  |  E  |    .   |
    @Test(
        .enabled(if: KernelAbilities.hasWriteProtectMarkers, "needs WP_UNPOPULATED, Linux 6.4"),
        .enabled(if: KernelAbilities.backends.contains(.dontneed), "needs PT_RECLAIM"))
    func oneMarkerOutlivesTheCallAndNotTheKernelsOwnDiscard() async {
        await #expect(processExitsWith: .success) {
            LivePlayground.switchHugePagesOff()
            LivePlayground.use(.dontneed)
            let space = try LivePlayground(.dontneed, isAlone: true, hasHugePages: false)
            let span = PageGeometry.entriesPerTable
            let four = space.pages(0..<4 * span)
            try space.map(four, marked: false)
            for index in 0..<3 { try space.write(1, at: space.span(index).start) }
            try space.discardInPieces(0..<3 * span)
            try space.register(four, writeProtect: true)
            let marked = span + 77
            try space.writeProtectUnpopulated(space.pages(marked..<marked + 1))

            let kept = try space.call(four, .shared)
            if kept.kept[.writeProtectRegistered] != 3 || kept.tablesFreed != 0 {
                Issue.record("shared: \(kept.tablesFreed) freed")
            }
            let owned = try space.call(four, .owned)
            if owned.tablesFreed != 2 || owned.kept[.populated] != 1 || owned.kept[.absent] != 1 {
                Issue.record("owned: \(owned.tablesFreed) freed, \(owned.kept[.absent]) absent")
            }
            if try space.firstPopulatedPage(in: four) != space.address(ofPage: marked) {
                Issue.record("the marker is gone")
            }
            // That the table was worth keeping: this is what is lost without the look.
            try space.discard(space.span(1).range)
            if try space.firstPopulatedPage(in: four) != nil {
                Issue.record("the kernel keeps anonymous markers now")
            }
        }
    }

    // MARK: 3. Boundaries, holes and special memory

    // a hole in a span          |   VMA       |hole|    VMA    |
    // a hole of two spans       | VMA |     hole      |  VMA   |
    // a VMA that ends within    |hole|     VMA          | hole |
    // a boundary in a span      |   VMA  ||  marked VMA        |
    // a boundary between spans  |   VMA     ||   marked VMA    |
    // all kinds                 | anonymous | shared | private |
    // two kinds in a span       | one kind |   another kind    |
    // special memory            | VMA | special        |  VMA  |
    //                           |  span 0   |  span 1  | span 2 …
    @Test(
        arguments: [
            "a hole in a span", "a hole of two spans", "a VMA that ends within spans",
            "a VMA boundary in a span", "a VMA boundary between spans", "neighbours of all kinds",
            "two kinds of memory in a span", "special memory",
        ], LawCase.all)
    func aSpanThatIsNotInsideOneVMAIsLeftAlone(scenario: String, law: LawCase) async throws {
        try await play(scenario, law)
    }

    // |  VMA     | hugetlb, two pages   |  VMA     |
    // |  span 0  |  span 1  |  span 2   |  span 3  |
    @Test(arguments: [ReclaimAccess.owned, .shared])
    func hugetlbIsLeftAlone(access: ReclaimAccess) throws {
        guard let pages = HugePages(2) else { try Test.cancel("no huge pages can be reserved") }
        defer { pages.giveBack() }
        let backend = try #require(LiveSpace.probeBackend())
        let space = try LivePlayground(backend)
        try space.map(space.pages(0..<4 * pagesPerSpan), marked: false)
        for index in [0, 3] { try space.write(1, at: space.span(index).start) }
        for index in [0, 3] { try space.discardInPieces(spanPages(index)) }
        let huge = space.pages(pagesPerSpan..<3 * pagesPerSpan)
        // MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_HUGETLB, 2 MiB
        let flags: Int32 = 0x22 | 0x10 | 0x40000 | 21 << 26
        guard ptreclaim_mmap(huge.start, Int(huge.byteCount), 3, flags, -1, 0) == huge.start else {
            try Test.cancel("two huge pages could not be had")
        }
        try space.write(0x5A, at: huge.start)
        try space.write(0xA5, at: huge.end - 1)
        let report = try space.call(space.pages(0..<4 * pagesPerSpan), access)
        #expect(report.kept[.specialVMA] == 2)
        #expect(report.tablesFreed == 2)
        #expect(try space.read(at: huge.start) == 0x5A)
        #expect(try space.read(at: huge.end - 1) == 0xA5)
    }

    private func spanPages(_ index: Int) -> Range<Int> {
        index * pagesPerSpan..<(index + 1) * pagesPerSpan
    }

    // MARK: 4. Look, keep everybody out, look again, free

    /// A page that another thread fills between the look and the fence.
    // |  span 0  |  span 1  |  span 2  |  span 3  |
    // |    E     |    E     | E, then P|    E     |
    @Test(arguments: LawTests.models)
    func aPageThatIsFilledBeforeTheFenceStaysOnTheModel(
        profile: KernelProfile, backend: Backend
    ) throws {
        let space = ModelPlayground(profile, backend, hasHugePages: false)
        try fourEmptyTables(in: space)
        let model = space.model
        let address = space.span(2).start + 5 * 4096
        model.beforeFence = { try? model.write(0x99, at: address) }
        let report = try ReclaimWalk(space: space).reclaim(
            space.pages(0..<4 * pagesPerSpan), access: .shared)
        #expect(report.kept[.refilled] == 1)
        #expect(report.tablesFreed == 3)
        #expect(try space.states().picture.hasPrefix("..P."))
        #expect(try space.read(at: address) == 0x99)
    }

    /// Negative control: an owner who breaks the promise loses the page, so that the look behind
    /// the fence is what keeps it above.
    @Test func withoutAFenceAPageThatIsFilledMeanwhileIsLost() throws {
        let space = ModelPlayground(.linux618, .dontneed)
        try fourEmptyTables(in: space)
        let address = space.span(2).start
        let filling = FaultingSpace(wrapping: space, failing: .free, times: 0) {
            try? space.write(0x99, at: address)
        }
        let report = try ReclaimWalk(space: filling).reclaim(
            space.pages(0..<4 * pagesPerSpan), access: .owned)
        #expect(report.tablesFreed == 4)
        #expect(try space.read(at: address) == 0)
    }

    /// The same on the kernel: the fence is given a run in which one page has appeared.
    @Test(
        .enabled(if: KernelAbilities.hasUserfaultfd, "needs a userfaultfd"),
        arguments: [Backend.dontneed, .mapfixed])
    func aPageThatIsFilledBeforeTheFenceStaysOnTheKernel(backend: Backend) throws {
        guard KernelAbilities.backends.contains(backend) else {
            try Test.cancel("needs PT_RECLAIM")
        }
        let space = try LivePlayground(backend)
        try fourEmptyTables(in: space)
        let address = space.span(2).start + 5 * 4096
        try space.write(0x99, at: address)
        var fence = unsafe ptreclaim_fence()
        unsafe fence.userfaultfd = ptreclaim_open_userfaultfd()
        unsafe fence.pagemap = ptreclaim_open_self_pagemap()
        defer {
            _ = unsafe ptreclaim_close(fence.userfaultfd)
            _ = unsafe ptreclaim_close(fence.pagemap)
        }
        unsafe fence.has_pagemap_scan = true
        unsafe fence.may_wait_for_forks = true
        unsafe fence.how = UInt32(
            backend == .dontneed
                ? PTRECLAIM_FENCED_DONTNEED.rawValue : PTRECLAIM_FENCED_MAPFIXED.rawValue)
        unsafe fence.protection = 3
        unsafe fence.is_noreserve = true
        #expect(unsafe ptreclaim_map_wiped_on_fork(ptreclaim_live_state()) == 0)
        let result = unsafe ptreclaim_fenced_free(
            &fence, space.span(0).start, space.span(3).end)
        #expect(result == 0)
        #expect(unsafe fence.was_up)
        #expect(try space.states().picture.hasPrefix("..P."))
        #expect(try space.read(at: address) == 0x99)
    }

    private func fourEmptyTables(in space: some Playable) throws {
        try space.map(space.pages(0..<4 * pagesPerSpan), marked: false)
        for index in 0..<4 { try space.write(1, at: space.span(index).start) }
        try space.discardInPieces(0..<4 * pagesPerSpan)
    }

    // MARK: 5. No byte changes

    // |  anonymous  |  shared      |  private file  |
    // |   8 spans, pages written, read and purged at random   |
    @Test(arguments: [ReclaimAccess.owned, .shared])
    func noByteChanges(access: ReclaimAccess) throws {
        let seed = UInt64.random(in: 0...UInt64(UInt32.max))
        print("RuleTests: seed \(seed)")
        let backend = try #require(LiveSpace.probeBackend())
        for (profile, backend) in LawTests.models {
            let space = ModelPlayground(profile, backend, hasHugePages: false)
            try checkBytes(space, seed) {
                try ReclaimWalk(space: space).reclaim(space.window, access: access)
            }
        }
        let space = try LivePlayground(backend)
        try checkBytes(space, seed) { try space.call(space.window, access) }
    }

    private func checkBytes(
        _ space: some Playable, _ seed: UInt64, _ walk: () throws -> ReclaimReport
    ) throws {
        var random = SplitMix64(seed: seed)
        var bytes: [Int: UInt8] = [:]
        for (number, memory) in PlayMemory.allCases.enumerated() {
            let pages = 8 * number * pagesPerSpan..<8 * (number + 1) * pagesPerSpan
            try space.map(space.pages(pages), memory, marked: false)
            for _ in 0..<300 {
                let page = Int.random(in: pages, using: &random)
                let byte = UInt8.random(in: 1...255, using: &random)
                for offset in [0, 1, 2047, 4095] as [UInt] {
                    try space.write(byte, at: space.address(ofPage: page) + offset)
                }
                bytes[page] = byte
            }
            // Some spans are purged: all of it, or all but a few pages.
            for _ in 0..<6 {
                let first = Int.random(in: pages, using: &random) / pagesPerSpan * pagesPerSpan
                let skipped = Bool.random(using: &random) ? 0 : 16
                let purged = first + skipped..<first + pagesPerSpan
                try space.discardInPieces(purged)
                for page in purged where bytes[page] != nil && memory != .shared {
                    bytes[page] = 0
                }
            }
        }
        let report = try walk()
        #expect(report.tablesExamined == 24, "seed \(seed)")
        for (page, byte) in bytes {
            for offset in [0, 1, 2047, 4095] as [UInt] {
                let now = try space.read(at: space.address(ofPage: page) + offset)
                if now != byte { Issue.record("seed \(seed), page \(page): \(byte), now \(now)") }
            }
        }
    }

    // MARK: 6. The report

    // |part|  E  |  P  |  .  | E || E |  E  | hole | E | special | private file  E  |part|
    //  0      1     2     3      4       5      6      7    8 ... 9   10 ......... 11   12
    @Test(.enabled(if: KernelAbilities.hasUserfaultfd, "needs a userfaultfd"))
    func theReportOfACallSaysWhatItDid() async {
        await #expect(processExitsWith: .success) {
            LivePlayground.switchHugePagesOff()
            for backend in KernelAbilities.backends {
                LivePlayground.use(backend)
                // Starts the service thread, whose stack has tables of its own.
                _ = try ReclaimCall.run(from: 0, upTo: 2 << 20, access: .shared)
                let space = try LivePlayground(backend, isAlone: true, hasHugePages: false)
                let span = PageGeometry.entriesPerTable
                try space.map(space.pages(0..<4 * span + 99), marked: false)
                try space.map(space.pages(4 * span + 99..<6 * span), marked: true)
                try space.map(space.pages(7 * span..<8 * span - 1), marked: false)
                try space.mapSpecial(space.pages(8 * span - 1..<10 * span))
                try space.map(space.pages(10 * span..<13 * span), .privateFile, marked: false)
                for index in [0, 1, 4, 5, 7, 10, 11, 12] {
                    try space.write(1, at: space.span(index).start)
                    try space.discardInPieces(index * span..<(index + 1) * span - 1)
                }
                try space.write(7, at: space.span(2).start)
                let before = space.vmPTEByteCount()
                let start = ContinuousClock.now
                let report = try space.call(space.pages(9..<12 * span + 9), .shared)
                let duration = ContinuousClock.now - start
                let after = space.vmPTEByteCount()

                // The marked VMA has an attribute, which a new mapping would lose.
                let freed = backend == .dontneed ? 2 : 1
                var expected: [KeptReason: Int] = [
                    .partial: 2, .populated: 1, .absent: 1, .crossesVMA: 2, .unmapped: 1,
                    .specialVMA: 2, .privateFile: 2,
                ]
                if backend != .dontneed { expected[.losesAttributes] = 1 }
                for reason in KeptReason.allCases
                where report.kept[reason] != expected[reason, default: 0] {
                    Issue.record("\(backend): \(report.kept[reason]) kept as \(reason)")
                }
                let bytes = UInt(freed) * PageGeometry.pageByteCount
                let holds = [
                    report.tablesExamined == 11, report.tablesFreed == freed,
                    report.vmPTEBefore == before, report.vmPTEAfter == after,
                    before == after.map { $0 + bytes }, report.backend == backend,
                    report.duration > .zero, report.duration <= duration,
                    report.resumeAddress == nil,
                ]
                if holds.contains(false) { Issue.record("\(backend): \(holds), \(report)") }
            }
        }
    }

    @Test(arguments: LawTests.models)
    func theReportOfTheModelSaysWhatItDid(profile: KernelProfile, backend: Backend) throws {
        let space = ModelPlayground(profile, backend, hasHugePages: false)
        try fourEmptyTables(in: space)
        try space.write(7, at: space.span(2).start)
        let before = space.vmPTEByteCount()
        let report = try ReclaimWalk(space: space).reclaim(
            space.pages(3..<5 * pagesPerSpan + 3), access: .shared)
        #expect(report.kept[.partial] == 2)
        #expect(report.tablesFreed == 2)
        #expect(report.kept[.populated] == 1)
        #expect(report.kept[.unmapped] == 1)
        #expect(report.tablesExamined == 4)
        #expect(report.vmPTEBefore == before)
        #expect(report.vmPTEAfter == before.map { $0 - 2 * PageGeometry.pageByteCount })
    }
}
