// SPDX-License-Identifier: Apache-2.0

import LiveSpace
import PageTableModel
import ReclaimCore
import TestSupport
import Testing

/// What a suite is run for.
struct LawCase: CustomTestStringConvertible, Codable, Sendable {
    let memory: PlayMemory
    private let isOwned: Bool
    var access: ReclaimAccess { isOwned ? .owned : .shared }

    init(_ memory: PlayMemory, _ access: ReclaimAccess) {
        self.memory = memory
        self.isOwned = access == .owned
    }

    static let all = PlayMemory.allCases.flatMap { memory in
        [ReclaimAccess.owned, .shared].map { LawCase(memory, $0) }
    }
    var testDescription: String { "\(memory), .\(access)" }
}

@Suite struct LawTests {
    static let models: [(KernelProfile, Backend)] = [
        (.linux618, .dontneed), (.linux618, .remap), (.linux618, .mapfixed),
        (.linux612, .remap), (.linux612, .mapfixed),
        (.linux61, .remap), (.linux61, .mapfixed),
    ]

    @Test(arguments: LawCase.all, models)
    func theWalkKeepsTheLawsOnTheModel(
        law: LawCase, model: (profile: KernelProfile, backend: Backend)
    ) throws {
        for (hasHugePages, hasFence) in [(false, true), (true, true), (false, false)] {
            let run = try LawSuite(law.memory, law.access) {
                ModelPlayground(
                    model.profile, model.backend, hasHugePages: hasHugePages, hasFence: hasFence)
            }.run()
            #expect(run.text == "", "huge pages: \(hasHugePages), fence: \(hasFence)")
            // One scenario needs guards, one markers of a userfaultfd.
            let cannot =
                (model.profile.hasGuards ? 0 : 1)
                + (model.profile.hasWriteProtectUnpopulated ? 0 : 1)
            #expect(run.played.count >= 22 - cannot)
        }
    }

    /// Beside other tests: what VmPTE would have to tell is left to the process alone below.
    @Test(
        .enabled(if: KernelAbilities.showsTables, "needs PAGEMAP_SCAN, Linux 6.7"),
        arguments: LawCase.all, KernelAbilities.backends)
    func theWalkKeepsTheLawsOnTheKernel(law: LawCase, backend: Backend) throws {
        guard law.access == .owned || backend == LiveSpace.probeBackend() else { return }
        let run = try Self.live(law, backend, isAlone: false).run()
        #expect(run.text == "")
        #expect(run.played.count >= 16)
    }

    /// In a process of its own nobody else changes VmPTE, `ptReclaim` can be given any backend, and
    /// huge pages are off without an attribute.
    @Test(.enabled(if: KernelAbilities.showsTables, "needs PAGEMAP_SCAN, Linux 6.7"))
    func theWalkKeepsTheLawsInAProcessAlone() async {
        await #expect(processExitsWith: .success) {
            LivePlayground.switchHugePagesOff()
            for backend in KernelAbilities.backends {
                for law in LawCase.all {
                    // The text of an issue reaches the test's own process; captured values do not.
                    let run = try Self.live(law, backend, isAlone: true).run()
                    if run.text != "" {
                        Issue.record("\(backend), \(law.testDescription): \(run.text)")
                    }
                    if run.played.count < 19 {
                        Issue.record("only \(run.played.count) scenarios; \(run.skipped)")
                    }
                }
            }
        }
    }

    static func live(
        _ law: LawCase, _ backend: Backend, isAlone: Bool
    ) -> LawSuite<LivePlayground> {
        LawSuite(law.memory, law.access) {
            if isAlone {
                LivePlayground.use(backend)
                // Starts the service thread, whose stack has tables of its own.
                _ = try ReclaimCall.run(from: 0, upTo: PageGeometry.spanByteCount, access: .shared)
            }
            return try LivePlayground(backend, isAlone: isAlone, hasHugePages: !isAlone)
        } walk: { space, range, access in
            switch access {
            case .owned: try ReclaimWalk(space: space).reclaim(range, access: access)
            case .shared: try space.call(range, access)
            }
        }
    }
}

/// Negative controls: the suite can fail, for the reasons that matter.
@Suite struct BrokenWalkTests {
    private typealias Walk = LawSuite<ModelPlayground>.Walk

    private func brokenLaws(
        _ memory: PlayMemory = .anonymous, _ access: ReclaimAccess = .owned,
        _ walk: @escaping Walk
    ) throws -> Set<String> {
        try Set(
            LawSuite(
                memory, access,
                makeSpace: { ModelPlayground(.linux618, .dontneed, hasHugePages: false) },
                walk: walk
            ).violations().map(\.law))
    }

    /// Frees every span of which `isWanted` is true, and counts as if all had gone well.
    private static func free(
        _ space: ModelPlayground, _ range: AddressRange,
        where isWanted: (Span) throws -> Bool
    ) throws -> ReclaimReport {
        var report = ReclaimReport()
        let spans = range.wholeSpans
        for index in 0..<spans.count {
            guard try isWanted(spans[index]) else { continue }
            _ = try? space.freeTable(of: spans[index])
            report.tablesExamined += 1
            report.tablesFreed += 1
        }
        return report
    }

    @Test func aWalkThatDoesNotLookBreaksTheLaws() throws {
        let laws = try brokenLaws { space, range, _ in
            try Self.free(space, range) { try space.eligibility(of: $0) == nil }
        }
        #expect(laws.contains("frees exactly the all-none tables"))
        #expect(laws.contains("never changes a readable byte"))
        #expect(laws.contains("counts what it freed"))
    }

    /// With PT_RECLAIM a boundary costs nothing but the table: MADV_DONTNEED minds it by itself.
    /// Over both sides a fixed mapping is one VMA.
    @Test func aWalkThatIgnoresVMABoundariesBreaksTheLaws() throws {
        let violations = try LawSuite(
            .anonymous, .owned,
            makeSpace: { ModelPlayground(.linux612, .mapfixed, hasHugePages: false) },
            walk: { space, range, _ in
                try Self.free(space, range) { try space.look(at: $0) == .empty }
            }
        ).violations().filter { $0.law == "frees exactly the all-none tables" }.map(\.detail)
        for name in [
            "a hole in a span", "a VMA boundary in a span", "a VMA that ends within spans",
        ] {
            #expect(violations.contains { $0.hasPrefix(name) }, "\(name)")
        }
    }

    /// A copy is a byte that stands in a page table and nowhere else.
    @Test func aWalkThatFreesCopiesOfFilesBreaksTheLaws() throws {
        let laws = try brokenLaws(.privateFile) { space, range, _ in
            try Self.free(space, range) { span in
                let mapping = try space.mapping(at: span.start)
                return mapping.kind == .privateFile && mapping.range.contains(span.range)
            }
        }
        #expect(laws.contains("never changes a readable byte"))
        #expect(laws.contains("frees exactly the all-none tables"))
    }

    /// No fence stops a write to a page that the page cache has.
    @Test func aWalkThatTakesPrivateFilesForOwnedBreaksTheLaws() throws {
        let laws = try brokenLaws(.privateFile, .shared) { space, range, _ in
            try ReclaimWalk(space: space).reclaim(range, access: .owned)
        }
        #expect(laws.contains("kept for the right reason"))
    }

    @Test func aKernelThatFreesNothingBreaksTheLaws() throws {
        let laws = try Set(
            LawSuite(.anonymous, .owned) { ModelPlayground(.linux612, .dontneed) }
                .violations().map(\.law))
        #expect(laws.contains("frees exactly the all-none tables"))
        #expect(laws.contains("VmPTE falls by one page a table"))
    }

    @Test func aWalkThatFreesTooLittleBreaksTheLaws() throws {
        let laws = try brokenLaws { space, range, access in
            let half = AddressRange(start: range.start, end: range.start + range.byteCount / 2)
            return try ReclaimWalk(space: space).reclaim(half, access: access)
        }
        #expect(laws.contains("examines each whole span once"))
        #expect(laws.contains("frees exactly the all-none tables"))
    }

    @Test func aWalkThatMiscountsBreaksTheLaws() throws {
        let laws = try brokenLaws { space, range, access in
            var report = try ReclaimWalk(space: space).reclaim(range, access: access)
            report.kept[.populated] = 0
            report.vmPTEAfter = report.vmPTEBefore
            return report
        }
        #expect(laws.contains("the report adds up"))
        #expect(laws.contains("kept for the right reason"))
        #expect(laws.contains("the report tells VmPTE before and after"))
    }
}
