// SPDX-License-Identifier: Apache-2.0

import PageTableSimulator
import Testing

/// What each policy must make of a workload, exactly.
@Suite struct SimulationTests {
    private static let scale = 1.0 / 4096

    private func outcome(
        _ policy: String, of workload: String = "server", scale: Double = Self.scale,
        seed: UInt64 = 1
    ) throws -> Outcome {
        let workload = try #require(Workload.named(workload, scale: scale, seed: seed))
        return try workload.run(try #require(Policy.named(policy)), costs: .default)
    }

    @Test(arguments: [1.0 / 4096, 1.0 / 2048], [1, 2] as [UInt64])
    func theServerEndsAtTheFiguresReported(scale: Double, seed: UInt64) throws {
        let end = try outcome("nothing", scale: scale, seed: seed).end
        func isWithin2Percent(_ byteCount: UInt, ofGibibytes target: Double) -> Bool {
            abs(Double(byteCount) / 0x1p30 / (target * scale) - 1) < 0.02
        }
        #expect(isWithin2Percent(end.virtualByteCount, ofGibibytes: 55 * 1024))
        #expect(isWithin2Percent(end.residentByteCount, ofGibibytes: 590))
        #expect(isWithin2Percent(end.vmPTEByteCount, ofGibibytes: 110))
        #expect(isWithin2Percent(end.wasteByteCount, ofGibibytes: 108))
    }

    @Test(arguments: ["nothing", "pt-reclaim-free"])
    func whatDoesNothingFreesNothing(policy: String) throws {
        let outcome = try outcome(policy)
        #expect(outcome.tablesFreed == 0)
        #expect(outcome.tablesRebuilt == 0)
        #expect(outcome.work.seconds(.default) == 0)
        #expect(outcome.end.wasteByteCount > outcome.end.vmPTEByteCount * 9 / 10)
    }

    @Test(
        arguments: ["reference-counted", "retain-false"],
        ["server", "redis", "virtio-mem-2m", "virtio-mem-4m"])
    func whatFreesAtOnceNeverWastes(policy: String, workload: String) throws {
        let outcome = try outcome(policy, of: workload)
        #expect(outcome.samples.allSatisfy { $0.wasteByteCount == 0 })
        #expect(outcome.tablesFreed > 0)
        // The same samples see the waste of others.
        let control = try self.outcome("nothing", of: workload)
        #expect(control.samples.contains { $0.wasteByteCount > 0 })
    }

    @Test func ptReclaimFreesWhatOnePurgeCovers() throws {
        let outcome = try outcome("pt-reclaim")
        // 22 % of the spans; those that come back are freed twice.
        let tables = Double(outcome.tablesBuilt - outcome.tablesRebuilt)
        let share = Double(outcome.tablesFreed - outcome.tablesRebuilt) / tables
        #expect(abs(share - 0.22) < 0.02)
        #expect(outcome.end.wasteByteCount > 0)
    }

    @Test(arguments: ["server", "redis", "virtio-mem-2m"])
    func ourModesWasteNoMoreThanPTReclaim(workload: String) throws {
        let kernel = try outcome("pt-reclaim", of: workload).end.wasteByteCount
        for policy in ["hooks", "madvise", "scan"] {
            #expect(try outcome(policy, of: workload).end.wasteByteCount <= kernel)
        }
        #expect(kernel <= (try outcome("nothing", of: workload).end.wasteByteCount))
    }

    @Test func hooksFreeWhatCountingWouldFree() throws {
        // Every extent of this server is given to the hooks, so they miss nothing.
        let hooks = try outcome("hooks")
        let counted = try outcome("reference-counted")
        #expect(hooks.end.wasteByteCount == 0)
        #expect(hooks.tablesFreed == counted.tablesFreed)
        #expect(hooks.tablesRebuilt == counted.tablesRebuilt)
        #expect(hooks.work.tablesScanned == 0)
    }

    @Test func theLastCallLeavesNoWaste() throws {
        for policy in ["pt-reclaim-call", "pt-reclaim-call-hinted"] {
            let outcome = try outcome(policy, scale: 1.0 / 1024)
            #expect(outcome.samples.contains { $0.wasteByteCount > 0 })
            #expect(outcome.end.wasteByteCount == 0)
        }
        let hinted = try outcome("pt-reclaim-call-hinted").work.tablesScanned
        #expect(hinted < (try outcome("pt-reclaim-call").work.tablesScanned))
    }

    @Test func aScannerThatLooksAtLittleLeavesMuch() throws {
        let workload = try #require(Workload.named("server", scale: Self.scale, seed: 1))
        func waste(_ delay: Double, _ size: UInt) throws -> UInt {
            try workload.run(.taskWork(delay: delay, size: size), costs: .default)
                .end.wasteByteCount
        }
        #expect(try waste(1, 1 << 30) == 0)
        #expect(try waste(8640, 64 << 20) > waste(8640, 1 << 30))
    }

    @Test func onlyUnmappingFreesPMDTables() throws {
        let nothing = try outcome("nothing")
        for policy in Policy.all() where policy != .nothing {
            let upper = try outcome(policy.name).end.upperByteCount
            if policy == .retainFalse {
                #expect(upper < nothing.end.upperByteCount)
            } else {
                #expect(upper == nothing.end.upperByteCount)
            }
        }
        #expect(nothing.idleUpperByteCount > 0)
    }

    @Test(arguments: ["redis", "virtio-mem-4m"])
    func thePagesAreTheSameUnderEveryPolicy(workload: String) throws {
        let pages = try outcome("nothing", of: workload).samples.map(\.residentByteCount)
        for policy in ["hooks", "madvise", "retain-false"] {
            let others = try outcome(policy, of: workload).samples.map(\.residentByteCount)
            #expect(others == pages)
        }
    }

    @Test func theSeedDecidesEverything() throws {
        let one = try outcome("hooks", of: "redis", seed: 1)
        #expect(one.samples == (try outcome("hooks", of: "redis", seed: 1)).samples)
        #expect(one.samples != (try outcome("hooks", of: "redis", seed: 2)).samples)
    }

    @Test func theCSVHasALineForEachSample() throws {
        let workload = try #require(Workload.named("redis", scale: Self.scale, seed: 1))
        var comparison = Comparison(workload, costs: .default)
        try comparison.run(.nothing)
        try comparison.run(.hooks)
        let lines = comparison.csv.split(separator: "\n")
        #expect(lines.count == 1 + comparison.outcomes.reduce(0) { $0 + $1.samples.count })
        let columns = lines.map { $0.split(separator: ",", omittingEmptySubsequences: false).count }
        #expect(Set(columns) == [12])
        #expect(lines.count { $0.last != "," } == 3)
    }

    @Test func impossibleParametersAreNamed() {
        #expect(Workload.named("mars", scale: 1, seed: 1) == nil)
        #expect(Policy.named("hope") == nil)
        #expect(Policy.Knobs().complaint == nil)
        for seconds in [0, -1, .nan, .infinity] {
            var knobs = Policy.Knobs()
            knobs.everySeconds = seconds
            #expect(knobs.complaint?.contains("more than 0") == true)
            knobs = Policy.Knobs()
            knobs.taskWorkDelay = seconds
            #expect(knobs.complaint?.contains("delay") == true)
        }
        var knobs = Policy.Knobs()
        knobs.taskWorkSize = 4096
        #expect(knobs.complaint?.contains("2 MiB") == true)
        knobs = Policy.Knobs()
        knobs.scanShare = 1.5
        #expect(knobs.complaint?.contains("CPU") == true)
    }
}
