// SPDX-License-Identifier: Apache-2.0

import PageTableModel
import ReclaimCore
import TestSupport
import Testing

@Suite struct ReclaimWalkTests {
    private let space: ModelPlayground
    private let pagesPerSpan = PageGeometry.entriesPerTable
    private var fourSpans: AddressRange { space.pages(0..<4 * pagesPerSpan) }

    init() throws { space = try Self.fourEmptyTables(.linux618, .dontneed) }

    private static func fourEmptyTables(
        _ profile: KernelProfile, _ backend: Backend
    ) throws -> ModelPlayground {
        let space = ModelPlayground(profile, backend)
        let pages = 4 * PageGeometry.entriesPerTable
        try space.map(space.pages(0..<pages), marked: false)
        for span in 0..<4 { try space.write(1, at: space.span(span).start) }
        try space.discardInPieces(0..<pages)
        return space
    }

    // | empty | page | empty | empty |    two runs
    @Test func aBackendThatRefusesKeepsThatRunOnly() throws {
        try space.write(9, at: space.span(1).start)
        let faulty = FaultingSpace(wrapping: space, failing: .free, times: 1)
        let report = try ReclaimWalk(space: faulty).reclaim(fourSpans, access: .owned)
        #expect(report.kept[.backendFailed] == 1)
        #expect(report.kept[.populated] == 1)
        #expect(report.tablesFreed == 2)
        #expect(report.tablesExamined == 4)
    }

    @Test(arguments: [
        FaultingSpace<ModelPlayground>.Requirement.mapping, .firstPopulatedPage, .firstTables,
    ])
    func aFailedLookEndsTheWalk(requirement: FaultingSpace<ModelPlayground>.Requirement) throws {
        let faulty = FaultingSpace(wrapping: space, failing: requirement, times: 1, errno: 4)
        let error = #expect(throws: ReclaimError.self) {
            try ReclaimWalk(space: faulty).reclaim(fourSpans, access: .owned)
        }
        #expect(error?.code == .lookFailed)
        #expect(error?.errno == 4)
        #expect(space.model.tables.pteTableCount == 4)
    }

    @Test func aFailedDiscardFailsTheDecommit() throws {
        try space.write(9, at: space.span(1).start)
        let faulty = FaultingSpace(wrapping: space, failing: .discard, times: 1)
        let walk = ReclaimWalk(space: faulty)
        #expect(throws: ReclaimError(.discardFailed, errno: 12, range: fourSpans)) {
            try walk.decommit(fourSpans)
        }
        #expect(try space.read(at: space.span(1).start) == 9)
        #expect(try walk.decommit(fourSpans).zapped == 4)
        #expect(space.model.tables.pteTableCount == 0)
    }

    @Test func aRefusedZapIsSkippedAndCounted() throws {
        let space = try Self.fourEmptyTables(.linux612, .remap)
        let faulty = FaultingSpace(wrapping: space, failing: .freeTable, times: 1)
        let count = try ReclaimWalk(space: faulty).decommit(fourSpans)
        #expect(count.zapped == 3)
        #expect(count.skipped == 1)
        #expect(space.model.tables.pteTableCount == 1)
    }

    @Test func withoutATableToSeeVmPTETells() throws {
        let space = try Self.fourEmptyTables(.linux61, .remap)
        let report = try ReclaimWalk(space: space).reclaim(
            space.pages(0..<5 * pagesPerSpan), access: .owned)
        #expect(report.tablesFreed == 4)
        let again = try ReclaimWalk(space: space).reclaim(fourSpans, access: .owned)
        #expect(again.tablesFreed == 0)
        #expect(again.kept[.absent] == 4)
    }

    @Test func aKernelThatKeepsTheTableIsSaidToKeepIt() throws {
        let space = try Self.fourEmptyTables(.linux612, .dontneed)
        let report = try ReclaimWalk(space: space).reclaim(fourSpans, access: .owned)
        #expect(report.kept[.stillThere] == 4)
    }

    @Test func markersAndSwapKeepTheirTables() throws {
        try space.write(5, at: space.span(0).start)
        space.model.swapOut(space.span(0).range)
        try space.register(space.span(1).range, writeProtect: true)
        try space.writeProtectUnpopulated(space.pages(pagesPerSpan..<pagesPerSpan + 1))
        try space.model.installGuards(space.pages(2 * pagesPerSpan..<2 * pagesPerSpan + 1))
        let report = try ReclaimWalk(space: space).reclaim(fourSpans, access: .owned)
        #expect(report.kept[.populated] == 3)
        #expect(report.tablesFreed == 1)
        #expect(try space.read(at: space.span(0).start) == 5)
        #expect(space.model.entry(at: space.span(1).start).state == .writeProtectMarker)
    }

    @Test func specialMemoryIsNotTouched() throws {
        try space.model.mmap(space.span(2).range, kind: .special)
        #expect(try space.eligibility(of: space.span(2)) == .specialVMA)
        let report = try ReclaimWalk(space: space).reclaim(fourSpans, access: .owned)
        #expect(report.tablesFreed == 3)
        #expect(report.kept[.specialVMA] == 1)
    }

    @Test func lockedMemoryKeepsItsPages() throws {
        try space.model.mlock(space.pages(3..<4))
        let report = try ReclaimWalk(space: space).reclaim(fourSpans, access: .owned)
        #expect(report.kept[.populated] == 1)
        let error = #expect(throws: ReclaimError.self) { try space.discard(fourSpans) }
        #expect(error?.errno == 22)
    }
}
