// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Glibc
import LiveSpace
import PTReclaim
import ReclaimCore
import Synchronization
import TestSupport
import Testing

/// Spans of no memory, each with a table; writes down the calls that are made on them.
private final class FakeMemory: Sendable {
    struct Call: Equatable, Sendable {
        /// In spans.
        var from: Int
        var upTo: Int
        var access = ReclaimAccess.shared
    }
    private struct State {
        var calls: [Call] = []
        var tablesInAll = 0
        var failing: Set<Int> = []
        var duringNextCall: (@Sendable () -> Void)?
    }
    private let state = Mutex(State())

    /// What was called since the last question.
    func takeCalls() -> [Call] {
        state.withLock { state in
            defer { state.calls = [] }
            return state.calls
        }
    }
    func fail(at span: Int) { state.withLock { _ = $0.failing.insert(span) } }
    func heal() { state.withLock { $0.failing = [] } }
    func duringNextCall(_ body: @escaping @Sendable () -> Void) {
        state.withLock { $0.duringNextCall = body }
    }

    static let call:
        @Sendable (FakeMemory, UInt, UInt, ReclaimAccess, Int) throws(ReclaimError) ->
            ReclaimReport = {
                memory, start, end, access, maximumTables throws(ReclaimError) in
                let first = Int(start / PageGeometry.spanByteCount)
                let last = Int(end / PageGeometry.spanByteCount)
                let stop = min(last, first + maximumTables)
                let (isFailing, during) = memory.state.withLock { state in
                    state.calls.append(Call(from: first, upTo: stop, access: access))
                    defer { state.duringNextCall = nil }
                    return (state.failing.contains(first), state.duringNextCall)
                }
                during?()
                if isFailing {
                    throw ReclaimError(
                        .lookFailed, errno: ENOENT, range: AddressRange(start: start, end: end))
                }
                var report = ReclaimReport()
                report.tablesExamined = stop - first
                report.tablesFreed = stop - first
                report.tablesLookedAt = stop - first
                report.kept[.partial] = 1
                report.durationNanoseconds = 10
                report.vmPTEBefore = UInt(1_000_000 - first)
                report.vmPTEAfter = UInt(1_000_000 - stop)
                if stop < last { report.resumeAddress = UInt(stop) * PageGeometry.spanByteCount }
                return report
            }

    func reclaimer(
        _ clock: ManualClock, every interval: Duration = .seconds(10), tablesPerPass: Int = 100,
        onPass: @escaping @Sendable (ReclaimPass) -> Void = { _ in }
    ) -> PeriodicReclaimer<ManualClock> {
        PeriodicReclaimer(
            interval: interval, tablesPerPass: tablesPerPass, clock: clock, onPass: onPass
        ) { start, end, access, maximumTables throws(ReclaimError) in
            try Self.call(self, start, end, access, maximumTables)
        }
    }
}

private func spans(_ range: Range<Int>) -> Range<UInt> {
    UInt(range.lowerBound) * PageGeometry.spanByteCount..<UInt(range.upperBound)
        * PageGeometry.spanByteCount
}

/// The reports of passes, as they come in.
private final class Passes: Sendable {
    private let passes = Mutex<[ReclaimPass]>([])
    func append(_ pass: ReclaimPass) { passes.withLock { $0.append(pass) } }
    var all: [ReclaimPass] { passes.withLock { $0 } }
}

@Suite("PeriodicReclaimer", .timeLimit(.minutes(1)))
struct PeriodicReclaimerTests {
    private let clock = ManualClock()
    private let memory = FakeMemory()
    private let passes = Passes()

    /// Does one pass and stops; what it called.
    private func onePass(
        _ reclaimer: PeriodicReclaimer<ManualClock>
    ) async -> [FakeMemory.Call] {
        let work = Task { try await reclaimer.run() }
        _ = await clock.nextWakeUp()
        work.cancel()
        await #expect(throws: CancellationError.self) { try await work.value }
        return memory.takeCalls()
    }

    // MARK: Time

    @Test("A pass at once, then one each interval")
    func keepsIntervals() async throws {
        let reclaimer = memory.reclaimer(clock)
        _ = try await reclaimer.register(spans(8..<12))
        let work = Task { try await reclaimer.run() }
        for pass in 1...5 {
            #expect(await clock.nextWakeUp().offset == .seconds(10 * pass))
            #expect(memory.takeCalls() == [.init(from: 8, upTo: 12)])
            clock.advance(by: .seconds(9))
            #expect(clock.sleeperCount == 1, "it sleeps until the interval is over")
            #expect(memory.takeCalls() == [])
            clock.advance(by: .seconds(1))
        }
        work.cancel()
        await #expect(throws: CancellationError.self) { try await work.value }
    }

    @Test("After a pass that took longer than the interval there is a whole one of rest")
    func restsAfterLongPass() async throws {
        let reclaimer = memory.reclaimer(clock)
        _ = try await reclaimer.register(spans(8..<12))
        // A pass of 4 s takes nothing from the rhythm, one of 25 s does.
        memory.duringNextCall { clock.advance(by: .seconds(4)) }
        let work = Task { try await reclaimer.run() }
        #expect(await clock.nextWakeUp().offset == .seconds(10))
        memory.duringNextCall { clock.advance(by: .seconds(25)) }
        clock.advance(by: .seconds(6))
        #expect(await clock.nextWakeUp().offset == .seconds(45))
        work.cancel()
    }

    @Test("It returns at once when it is cancelled asleep")
    func cancelledAsleep() async throws {
        let reclaimer = memory.reclaimer(clock)
        _ = try await reclaimer.register(spans(8..<12))
        #expect(await onePass(reclaimer) == [.init(from: 8, upTo: 12)])
        #expect(clock.now.offset == .zero)
    }

    @Test("Cancelled in the middle of a pass it makes no further call, and says what was done")
    func cancelledInPass() async throws {
        let reclaimer = memory.reclaimer(clock, tablesPerPass: 10_000, onPass: passes.append)
        _ = try await reclaimer.register(spans(0..<1000))
        _ = try await reclaimer.register(spans(1000..<2000))
        memory.duringNextCall { unsafe withUnsafeCurrentTask { unsafe $0?.cancel() } }
        let work = Task { try await reclaimer.run() }
        await #expect(throws: CancellationError.self) { try await work.value }
        #expect(memory.takeCalls() == [.init(from: 0, upTo: 128)])
        #expect(passes.all.map(\.report.tablesFreed) == [128])
        #expect(passes.all[0].report.resumeAddress == spans(128..<129).lowerBound)
        #expect(await onePass(reclaimer).first == .init(from: 128, upTo: 256))
    }

    @Test("A task that was cancelled before makes no call")
    func cancelledBefore() async throws {
        let reclaimer = memory.reclaimer(clock)
        _ = try await reclaimer.register(spans(8..<12))
        let work = Task {
            unsafe withUnsafeCurrentTask { unsafe $0?.cancel() }
            try await reclaimer.run()
        }
        await #expect(throws: CancellationError.self) { try await work.value }
        #expect(memory.takeCalls() == [])
    }

    // MARK: Budget

    @Test("The budget ends a pass, the next one goes on there, and every range has its turn")
    func keepsBudget() async throws {
        let reclaimer = memory.reclaimer(clock, tablesPerPass: 10)
        _ = try await reclaimer.register(spans(0..<6))
        _ = try await reclaimer.register(spans(100..<125), access: .owned)
        _ = try await reclaimer.register(spans(200..<203))
        let passes: [[FakeMemory.Call]] = [
            [.init(from: 0, upTo: 6), .init(from: 100, upTo: 104, access: .owned)],
            [.init(from: 104, upTo: 114, access: .owned)],
            [.init(from: 114, upTo: 124, access: .owned)],
            [
                .init(from: 124, upTo: 125, access: .owned), .init(from: 200, upTo: 203),
                .init(from: 0, upTo: 6),
            ],
            // Nothing was left over for the second one, so it comes first.
            [.init(from: 100, upTo: 110, access: .owned)],
        ]
        for pass in passes {
            #expect(await onePass(reclaimer) == pass)
        }
    }

    @Test("A pass with budget to spare looks at each range once")
    func looksOnce() async throws {
        let reclaimer = memory.reclaimer(clock, tablesPerPass: 1000)
        _ = try await reclaimer.register(spans(0..<6))
        _ = try await reclaimer.register(spans(4..<8))
        for _ in 0..<2 {
            #expect(await onePass(reclaimer) == [.init(from: 0, upTo: 6), .init(from: 4, upTo: 8)])
        }
    }

    @Test("A pass is made of short calls, and its report is their sum")
    func sumsCalls() async throws {
        let reclaimer = memory.reclaimer(clock, tablesPerPass: 300, onPass: passes.append)
        _ = try await reclaimer.register(spans(0..<200))
        _ = try await reclaimer.register(spans(500..<700))
        let calls = await onePass(reclaimer)
        #expect(calls.map(\.from) == [0, 128, 500])
        #expect(calls.map(\.upTo) == [128, 200, 600])
        let report = try #require(passes.all.first).report
        #expect(report.tablesExamined == 300)
        #expect(report.tablesFreed == 300)
        #expect(report.tablesLookedAt == 300)
        #expect(report.vmPTEBefore == 1_000_000)
        #expect(report.vmPTEAfter == 999_400)
        #expect(report.durationNanoseconds == 30)
        #expect(report.kept[.partial] == 2, "once for each range")
        #expect(report.resumeAddress == spans(600..<601).lowerBound)
        _ = await onePass(reclaimer)
        let next = try #require(passes.all.last).report
        #expect(next.tablesLookedAt == 300)
        #expect(next.kept[.partial] == 1)
        #expect(next.resumeAddress == nil)
    }

    @Test("Other tasks get in between the calls of a pass")
    func yields() async throws {
        let reclaimer = memory.reclaimer(clock, tablesPerPass: .max)
        let registration = try await reclaimer.register(spans(0..<10_000_000))
        memory.duringNextCall {
            Task(priority: .high) { await reclaimer.unregister(registration) }
        }
        let calls = await onePass(reclaimer).count
        #expect(calls < 10_000_000 / 128)
    }

    // MARK: Registrations

    @Test("unregister waits for a call in progress, and none starts afterwards")
    func unregisterWaits() async throws {
        enum Event { case callBegan, asked, callEnded, unregistered }
        let events = Mutex<[Event]>([])
        let reclaimer = memory.reclaimer(clock, tablesPerPass: 100_000)
        let registration = try await reclaimer.register(spans(0..<100_000))
        let (asking, ask) = AsyncStream.makeStream(of: Void.self)
        let asker = Task {
            for await _ in asking { break }
            events.withLock { $0.append(.asked) }
            await reclaimer.unregister(registration)
            events.withLock { $0.append(.unregistered) }
            return memory.takeCalls()
        }
        memory.duringNextCall {
            events.withLock { $0.append(.callBegan) }
            ask.yield()
            // Until it has been asked, and then long enough for an answer that would not wait.
            func spin(for time: Duration, until isOver: () -> Bool = { false }) {
                let end = ContinuousClock.now + time
                while ContinuousClock.now < end, !isOver() { sched_yield() }
            }
            spin(for: .seconds(20)) { events.withLock { $0.contains(.asked) } }
            spin(for: .milliseconds(50))
            events.withLock { $0.append(.callEnded) }
        }
        let work = Task { try await reclaimer.run() }
        let callsUntilThen = await asker.value
        #expect(callsUntilThen.first == .init(from: 0, upTo: 128))
        _ = await clock.nextWakeUp()
        #expect(memory.takeCalls() == [])
        clock.advance(by: .seconds(10))
        _ = await clock.nextWakeUp()
        #expect(memory.takeCalls() == [])
        work.cancel()
        #expect(events.withLock { $0 } == [.callBegan, .asked, .callEnded, .unregistered])
    }

    @Test("Ranges that come and go leave the turn of the others as it is")
    func keepsTurn() async throws {
        let reclaimer = memory.reclaimer(clock, tablesPerPass: 4)
        let first = try await reclaimer.register(spans(0..<2))
        let second = try await reclaimer.register(spans(10..<14))
        _ = try await reclaimer.register(spans(20..<22))
        #expect(await onePass(reclaimer) == [.init(from: 0, upTo: 2), .init(from: 10, upTo: 12)])
        await reclaimer.unregister(first)
        await reclaimer.unregister(first)
        #expect(await onePass(reclaimer) == [.init(from: 12, upTo: 14), .init(from: 20, upTo: 22)])
        #expect(await onePass(reclaimer) == [.init(from: 10, upTo: 14)])
        await reclaimer.unregister(second)
        _ = try await reclaimer.register(spans(30..<31))
        #expect(await onePass(reclaimer) == [.init(from: 20, upTo: 22), .init(from: 30, upTo: 31)])
        // A registration of another reclaimer means nothing here.
        let other = memory.reclaimer(clock)
        await reclaimer.unregister(try await other.register(spans(20..<22)))
        #expect(await onePass(reclaimer).count == 2)
    }

    @Test("With nothing registered it sleeps, and takes up what comes")
    func startsEmpty() async throws {
        let reclaimer = memory.reclaimer(clock)
        let work = Task { try await reclaimer.run() }
        _ = await clock.nextWakeUp()
        _ = try await reclaimer.register(spans(3..<5))
        clock.advance(by: .seconds(10))
        #expect(await clock.nextWakeUp().offset == .seconds(20))
        #expect(memory.takeCalls() == [.init(from: 3, upTo: 5)])
        work.cancel()
    }

    static let wrongRanges: [Range<UInt>] = [1..<4096, 0..<(1 << 47) + 1, 4096..<UInt.max]

    @Test("A range that no call would take is refused", arguments: wrongRanges)
    func refusesWrongRanges(range: Range<UInt>) async throws {
        let reclaimer = memory.reclaimer(clock)
        let expected = ReclaimError(
            .invalidRange, errno: EINVAL,
            range: AddressRange(start: range.lowerBound, end: range.upperBound))
        await #expect(throws: expected) { try await reclaimer.register(range) }
        #expect(await onePass(reclaimer) == [])
    }

    @Test("An error of one range is told, and ends neither the pass nor the loop")
    func survivesErrors() async throws {
        let reclaimer = memory.reclaimer(clock, onPass: passes.append)
        _ = try await reclaimer.register(spans(0..<2))
        let bad = try await reclaimer.register(spans(10..<12))
        _ = try await reclaimer.register(spans(20..<22))
        memory.fail(at: 10)
        let work = Task { try await reclaimer.run() }
        for seconds in [10, 20] {
            #expect(await clock.nextWakeUp().offset == .seconds(seconds))
            #expect(memory.takeCalls().map(\.from) == [0, 10, 20])
            if seconds == 20 { memory.heal() }
            clock.advance(by: .seconds(10))
        }
        _ = await clock.nextWakeUp()
        work.cancel()
        let error = ReclaimError(
            .lookFailed, errno: ENOENT,
            range: AddressRange(start: spans(10..<12).lowerBound, end: spans(10..<12).upperBound))
        #expect(passes.all.map { $0.failures.map(\.registration) } == [[bad], [bad], []])
        #expect(passes.all[0].failures.map(\.error) == [error])
        #expect(passes.all.map(\.report.tablesFreed) == [4, 4, 6])
    }
}

/// With the real call, on memory.
@Suite("PeriodicReclaimer, live", .enabled(if: KernelAbilities.showsTables, "needs Linux 6.7"))
struct LivePeriodicReclaimerTests {
    @Test(
        "Tables that become empty are freed by the next pass, with contents that live kept",
        .timeLimit(.minutes(1)), arguments: [false, true])
    func freesMemory(isShared: Bool) async throws {
        let access: ReclaimAccess = isShared ? .shared : .owned
        let backend = try #require(LiveSpace.probeBackend())
        let playground = try LivePlayground(backend)
        let pagesPerSpan = PageGeometry.entriesPerTable
        // A shared mapping needs no permission for a fence.
        try playground.map(
            playground.pages(0..<8 * pagesPerSpan), isShared ? .shared : .anonymous,
            marked: false)
        func touch() throws {
            for span in 0..<8 {
                try playground.write(UInt8(span), at: playground.span(span).start)
                if span != 3 {
                    try playground.discardInPieces(span * pagesPerSpan..<(span + 1) * pagesPerSpan)
                }
            }
        }
        try touch()
        let clock = ManualClock()
        let passes = Passes()
        let reclaimer = PeriodicReclaimer(
            interval: .seconds(1), tablesPerPass: 4, clock: clock, onPass: passes.append)
        let registration = try await reclaimer.register(
            playground.span(0).start..<playground.span(7).end, access: access)
        let work = Task { try await reclaimer.run() }
        _ = await clock.nextWakeUp()
        // Four tables a pass: three were freed, one holds a byte.
        var states = try playground.states()[0..<8]
        #expect(states == [.absent, .absent, .absent, .populated, .empty, .empty, .empty, .empty])
        clock.advance(by: .seconds(1))
        _ = await clock.nextWakeUp()
        states = try playground.states()[0..<8]
        #expect(
            states == [.absent, .absent, .absent, .populated, .absent, .absent, .absent, .absent])
        #expect(try playground.read(at: playground.span(3).start) == 3)
        #expect(passes.all.map(\.report.tablesFreed) == [3, 4])
        #expect(passes.all.map(\.report.tablesLookedAt) == [4, 4])
        #expect(passes.all.map { $0.report.kept[.populated] } == [1, 0])
        #expect(passes.all.flatMap(\.failures) == [])
        #expect(passes.all[0].report.backend == backend)

        await reclaimer.unregister(registration)
        try touch()
        clock.advance(by: .seconds(1))
        _ = await clock.nextWakeUp()
        #expect(try playground.states()[0..<8].filter { $0 == .empty }.count == 7)
        work.cancel()
    }
}
