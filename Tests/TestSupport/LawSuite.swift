// SPDX-License-Identifier: Apache-2.0

public import ReclaimCore

/// A law that did not hold.
public struct LawViolation: CustomStringConvertible, Sendable {
    public let law: String
    public let detail: String
    /// Whether VmPTE told, which counts every table of the process: a heap that grows or shrinks
    /// at this moment shows too.
    var isToldByVmPTE = false
    public var description: String { "\(law): \(detail)" }
}

/// What came of a run of a suite.
public struct LawRun: Sendable {
    public fileprivate(set) var violations: [LawViolation] = []
    /// Scenarios that were played.
    public fileprivate(set) var played: [String] = []
    /// Scenarios that this space cannot play, each with the reason.
    public fileprivate(set) var skipped: [String] = []

    /// The violations, a line each; empty where there is none.
    public var text: String { violations.map(\.description).joined(separator: "\n") }
}

/// The laws of a walk, for any space whose backend frees tables, one kind of memory and one
/// access.
///
/// Every scenario is checked by the same laws. What is expected follows from the scenario and
/// the rules of the call, written here once more: nothing of the code under test is asked.
public struct LawSuite<Space: Playable> {
    public typealias Walk = (Space, AddressRange, ReclaimAccess) throws -> ReclaimReport

    let memory: PlayMemory
    let access: ReclaimAccess
    let makeSpace: () throws -> Space
    let walk: Walk

    public init(
        _ memory: PlayMemory, _ access: ReclaimAccess, makeSpace: @escaping () throws -> Space,
        walk: @escaping Walk = { space, range, access in
            try ReclaimWalk(space: space).reclaim(range, access: access)
        }
    ) {
        self.memory = memory
        self.access = access
        self.makeSpace = makeSpace
        self.walk = walk
    }

    /// Runs every scenario, or those that are named, each in a fresh space.
    public func run(only names: [String]? = nil) throws -> LawRun {
        var run = LawRun()
        let scenarios = Scenario.all(memory).filter { names?.contains($0.name) ?? true }
        precondition(names.map { $0.count == scenarios.count } ?? true, "no such scenario")
        for scenario in scenarios {
            if let reason = reasonToSkip(scenario, try makeSpace()) {
                run.skipped.append("\(scenario.name): \(reason)")
                continue
            }
            run.played.append(scenario.name)
            // What only VmPTE tells must be wrong each time.
            var violations: [LawViolation] = []
            for _ in 0..<3 {
                violations = try play(scenario)
                if violations.contains(where: { !$0.isToldByVmPTE }) || violations.isEmpty { break }
            }
            run.violations += violations
        }
        return run
    }

    public func violations() throws -> [LawViolation] { try run().violations }

    /// Why the space cannot play the scenario of this name; nil: it can.
    public func reasonToSkip(_ name: String) throws -> String? {
        let space = try makeSpace()
        return Scenario.all(memory).first { $0.name == name }.flatMap { reasonToSkip($0, space) }
    }

    func play(_ scenario: Scenario) throws -> [LawViolation] {
        let space = try makeSpace()
        do {
            let contents = try prepare(scenario, space)
            let violations = try check(scenario, space, contents)
            try space.unmap(space.window)
            return violations
        } catch let error as PlayError {
            return [
                LawViolation(
                    law: "the scenario can be played",
                    detail: "\(scenario.name): errno \(error.errno)")
            ]
        }
    }

    func reasonToSkip(_ scenario: Scenario, _ space: Space) -> String? {
        for keeper in scenario.keepers {
            switch keeper.kind {
            case .guarded where !space.hasGuards(memory): return "no guard pages here"
            case .marker where !space.hasWriteProtectMarkers: return "no uffd-wp markers here"
            case .swap where memory == .shared: return "a shared page in swap leaves no entry"
            case .swap where !space.hasSwap: return "no swap here"
            case .page, .zeroPage, .guarded, .marker, .swap: break
            }
        }
        if !scenario.registered.isEmpty, !space.hasUserfaultfd { return "no userfaultfd here" }
        // Freed is told by VmPTE, which threads of other tests change.
        if scenario.hidesTables, !space.isAlone { return "needs a process alone" }
        if !space.showsTables, !space.isAlone { return "needs a process alone" }
        return nil
    }
}

// MARK: - Laws

extension LawSuite {
    /// Walks twice, and names each law that does not hold.
    func check(
        _ scenario: Scenario, _ space: Space, _ contents: [Int: UInt8]
    ) throws -> [LawViolation] {
        var violations: [LawViolation] = []
        func expect(
            _ law: String, _ holds: Bool, _ detail: @autoclosure () -> String,
            byVmPTE isToldByVmPTE: Bool = false
        ) {
            guard !holds else { return }
            violations.append(
                LawViolation(
                    law: law, detail: "\(scenario.name): \(detail())",
                    isToldByVmPTE: isToldByVmPTE))
        }
        let range = space.pages(scenario.range)
        let expected = expectation(scenario, space)
        let before = try space.states()
        expect(
            "the scenario is what it says", before.agree(with: expected.before),
            "\(before.picture), not \(expected.before)")
        let isHidden = expected.hidden > 0
        let vmPTEBefore = space.vmPTEByteCount()

        let report = try walk(space, range, access)
        let vmPTEAfter = space.vmPTEByteCount()
        let found = try space.states()
        expect(
            "frees exactly the all-none tables", found.agree(with: expected.after),
            "\(before.picture) became \(found.picture), not \(expected.after)")
        expect(
            "examines each whole span once", report.tablesExamined == range.wholeSpans.count,
            "\(report.tablesExamined) of \(range.wholeSpans.count)")
        expect(
            "counts what it freed", report.tablesFreed == expected.freed,
            "\(report.tablesFreed), not \(expected.freed)", byVmPTE: isHidden)
        let kept = KeptReason.allCases.filter { $0 != .partial }.reduce(0) {
            $0 + report.kept[$1]
        }
        expect(
            "the report adds up", report.tablesExamined == report.tablesFreed + kept,
            "\(report.tablesExamined) != \(report.tablesFreed) + \(kept)")
        for reason in KeptReason.allCases {
            let count = expected.kept[reason, default: 0]
            expect(
                "kept for the right reason", report.kept[reason] == count,
                "\(reason): \(report.kept[reason]), not \(count)", byVmPTE: isHidden)
        }
        if space.isAlone, let vmPTEBefore, let vmPTEAfter {
            let freed = UInt(expected.tables) * PageGeometry.pageByteCount
            expect(
                "VmPTE falls by one page a table", vmPTEBefore == vmPTEAfter + freed,
                "\(vmPTEBefore) to \(vmPTEAfter), not by \(freed)", byVmPTE: true)
            expect(
                "the report tells VmPTE before and after",
                report.vmPTEBefore == vmPTEBefore && report.vmPTEAfter == vmPTEAfter,
                "\(report.vmPTEBefore ?? 0) to \(report.vmPTEAfter ?? 0),"
                    + " not \(vmPTEBefore) to \(vmPTEAfter)", byVmPTE: true)
        }

        let again = try walk(space, range, access)
        expect(
            "a second walk frees nothing", again.tablesFreed == 0, "\(again.tablesFreed)",
            byVmPTE: isHidden)
        expect(
            "a second walk finds what was freed absent",
            again.kept[.absent] == report.kept[.absent] + report.tablesFreed,
            "\(again.kept[.absent])", byVmPTE: isHidden)
        let last = try space.states()
        expect(
            "a second walk changes nothing", last.picture == found.picture,
            "\(found.picture) became \(last.picture)")
        // Now only: reading brings tables.
        for (page, byte) in contents.sorted(by: { $0.key < $1.key }) {
            let now = try space.read(at: space.address(ofPage: page))
            expect(
                "never changes a readable byte", now == byte, "page \(page): \(byte), now \(now)")
        }
        return violations
    }
}
