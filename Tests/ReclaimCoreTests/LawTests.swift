// SPDX-License-Identifier: Apache-2.0

import PageTableModel
import ReclaimCore
import TestSupport
import Testing

/// Free without looking: what the laws must catch.
private func walkWithoutLook<Space: Playable>(
    _ space: Space, _ range: AddressRange
) throws -> ReclaimReport {
    var report = ReclaimReport()
    let spans = range.wholeSpans
    for index in 0..<spans.count where try space.eligibility(of: spans[index]) == nil {
        try space.freeTable(of: spans[index])
        report.tablesExamined += 1
        report.tablesFreed += 1
    }
    return report
}

@Suite struct LawTests {
    static let models: [(KernelProfile, Backend)] = [
        (.ptReclaim, .dontneed), (.ptReclaim, .remap), (.ptReclaim, .mapfixed),
        (.beforePTReclaim, .remap), (.beforePTReclaim, .mapfixed),
    ]

    @Test(arguments: models)
    func theWalkKeepsTheLawsOnTheModel(profile: KernelProfile, backend: Backend) throws {
        let violations = try LawSuite { ModelPlayground(profile, backend) }.violations()
        #expect(violations.isEmpty)
    }

    @Test(
        .enabled(if: KernelAbilities.showsTables, "needs PAGEMAP_SCAN, Linux 6.7"),
        arguments: KernelAbilities.backends)
    func theWalkKeepsTheLawsOnTheKernel(backend: Backend) throws {
        let violations = try LawSuite { try LivePlayground(backend) }.violations()
        #expect(violations.isEmpty)
    }

    /// In a process of its own, where nobody else changes VmPTE.
    @Test(.enabled(if: KernelAbilities.showsTables, "needs PAGEMAP_SCAN, Linux 6.7"))
    func theKernelsVmPTEFallsByWhatTheWalkFreed() async {
        await #expect(processExitsWith: .success) {
            for backend in KernelAbilities.backends {
                let violations = try LawSuite { try LivePlayground(backend, isAlone: true) }
                    .violations()
                // The text of an issue reaches the test's own process; captured values do not.
                if !violations.isEmpty { Issue.record("\(backend): \(violations)") }
            }
        }
    }

    /// Negative control: the suite can fail, for the reasons that matter.
    @Test func aWalkThatDoesNotLookBreaksTheLaws() throws {
        let laws = try Set(
            LawSuite(
                makeSpace: { ModelPlayground(.ptReclaim, .dontneed) },
                walk: { try walkWithoutLook($0, $1) }
            ).violations().map(\.law))
        #expect(laws.contains("frees exactly the all-none tables"))
        #expect(laws.contains("never changes a readable byte"))
        #expect(laws.contains("counts what it freed"))
    }

    @Test func aKernelThatFreesNothingBreaksTheLaws() throws {
        let violations = try LawSuite { ModelPlayground(.beforePTReclaim, .dontneed) }.violations()
        #expect(!violations.isEmpty)
    }

    @Test func aWalkThatFreesTooLittleBreaksTheLaws() throws {
        let violations = try LawSuite(
            makeSpace: { ModelPlayground(.ptReclaim, .dontneed) },
            walk: { space, range in
                let half = AddressRange(start: range.start, end: range.start + range.byteCount / 2)
                return try ReclaimWalk(space: space).reclaim(half, access: .owned)
            }
        ).violations()
        #expect(!violations.isEmpty)
    }
}
