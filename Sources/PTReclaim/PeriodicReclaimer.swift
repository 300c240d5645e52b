// SPDX-License-Identifier: Apache-2.0

internal import LiveSpace
public import ReclaimCore
internal import Synchronization

/// Calls `ptReclaim` on registered ranges, again and again.
///
///     let reclaimer = PeriodicReclaimer(interval: .seconds(10))
///     let heap = try await reclaimer.register(start..<end)
///     let work = Task { try await reclaimer.run() }
///     ...
///     await reclaimer.unregister(heap)  // and only then munmap
///     work.cancel()
///
/// It looks at the ranges that were registered, and at nothing else of the process. One pass takes
/// them in the order of registration, each at most once, and looks at no more tables than
/// `tablesPerPass`. Where that ends a pass, the next one goes on:
///
///     pass 1  | range A  | range B ->|      the budget ends in B
///     pass 2               | -> B  | range C  | range A  |
///     pass 3  | range B  | range C ...      where the last one was cut short
///
/// The calls block a thread of the cooperative pool. So a pass is done in calls of 128 tables, about
/// a millisecond each, and gives way to other tasks after each of them. A pass over ranges of which
/// nothing was ever touched costs some 0.1 ms for each range.
///
/// The corresponding kernel function is the scanner of the proposal on linux-mm, July 2024
/// (asynchronous reclaim of PTE pages by task_work); never merged.
public actor PeriodicReclaimer<C: Clock> where C.Duration == Duration {
    /// The call that is made for a part of a range: first address, end, access, tables at most.
    package typealias Call =
        @Sendable (UInt, UInt, ReclaimAccess, Int) throws(ReclaimError) -> ReclaimReport

    private struct Entry {
        let registration: ReclaimRegistration
        let range: AddressRange
        let access: ReclaimAccess
        /// Where the next look begins.
        var position: UInt
    }

    private static var tablesPerCall: Int { 128 }

    private let interval: Duration
    private let tablesPerPass: Int
    private let clock: C
    private let onPass: @Sendable (ReclaimPass) -> Void
    private let call: Call
    private var entries: [Entry] = []
    /// Index of the entry at which the next pass begins; may be the end.
    private var first = 0

    /// Makes a reclaimer without ranges. It does nothing until `run()`.
    ///
    /// - Parameters:
    ///   - interval: from the start of one pass to the start of the next, more than zero. After a
    ///     pass that took longer there is a whole interval of rest.
    ///   - tablesPerPass: how many existing tables a pass looks at, at most; more than zero. It
    ///     bounds the work: expect 2 to 10 µs for each table.
    ///   - clock: measures the interval.
    ///   - onPass: called after each pass, and with what was done of a pass that was cancelled.
    ///     It runs on this actor: a long one keeps `unregister` waiting.
    public init(
        interval: Duration, tablesPerPass: Int = 4096, clock: C = ContinuousClock(),
        onPass: @escaping @Sendable (ReclaimPass) -> Void = { _ in }
    ) {
        self.init(
            interval: interval, tablesPerPass: tablesPerPass, clock: clock, onPass: onPass
        ) { start, end, access, maximumTables throws(ReclaimError) in
            try ReclaimCall.run(
                from: start, upTo: end, access: access, maximumTables: maximumTables)
        }
    }

    /// With a call of the caller's own, to test schedules without memory.
    package init(
        interval: Duration, tablesPerPass: Int, clock: C,
        onPass: @escaping @Sendable (ReclaimPass) -> Void, call: @escaping Call
    ) {
        precondition(interval > .zero, "an interval of nothing would take a whole core")
        precondition(tablesPerPass > 0, "a pass of no tables would do nothing")
        self.interval = interval
        self.tablesPerPass = tablesPerPass
        self.clock = clock
        self.onPass = onPass
        self.call = call
    }

    /// Adds a range, which the next pass to reach it will look at. Ranges may overlap.
    ///
    /// Until `unregister` has returned the caller keeps to what `ptReclaim(range:access:)` asks
    /// during a call. With `.shared` the range stays mapped as it is. With `.owned` nobody uses
    /// its contents either, which suits memory that lies idle for long; for all else it is wrong.
    ///
    /// - Parameters:
    ///   - range: addresses in bytes, half-open. The start is page-aligned; the length is rounded
    ///     up to whole pages.
    ///   - access: who else may touch the range.
    /// - Returns: what `unregister` wants.
    /// - Throws: `.invalidRange` with EINVAL, as the call would.
    public func register(
        _ range: Range<UInt>, access: ReclaimAccess = .shared
    ) throws(ReclaimError) -> ReclaimRegistration {
        let pages = try ReclaimCall.wholePages(from: range.lowerBound, upTo: range.upperBound)
        let registration = ReclaimRegistration()
        entries.append(
            Entry(registration: registration, range: pages, access: access, position: pages.start))
        return registration
    }

    /// Takes a range out. When this returns, no call on the range is running, and none will start:
    /// the memory may be unmapped. It waits for a call in progress, about a millisecond.
    ///
    /// A registration that is out already, or of another reclaimer, is no error.
    ///
    /// - Parameter registration: what `register` returned.
    public func unregister(_ registration: ReclaimRegistration) {
        // Calls run on this actor from start to end, so there is none now; each finds its entry
        // anew before it starts.
        guard let index = index(of: registration) else { return }
        entries.remove(at: index)
        if index < first { first -= 1 }
    }

    /// Does a pass at once and then one each interval, until the task is cancelled.
    ///
    /// An error of one range does not end it: see `ReclaimPass.failures`. It returns within one
    /// call, about a millisecond, of being cancelled, also in the middle of a pass. Two of it at
    /// once share the ranges, and each does passes of its own.
    ///
    /// - Throws: CancellationError, or what `sleep` of the clock throws.
    public func run() async throws {
        var start = clock.now
        while true {
            try await runPass()
            start = start.advanced(by: interval)
            let now = clock.now
            if start < now { start = now.advanced(by: interval) }
            try await clock.sleep(until: start, tolerance: nil)
        }
    }

    private func runPass() async throws {
        var pass = ReclaimPass()
        // Reported also when it is cancelled: the tables are gone.
        defer { onPass(pass) }
        let turn = entries[first...] + entries[..<first]
        for registration in turn.map(\.registration) {
            while pass.report.tablesLookedAt < tablesPerPass {
                try Task.checkCancellation()
                guard let index = index(of: registration) else { break }
                let isDone = callOnce(index, &pass)
                // Lets `register`, `unregister` and other tasks of the pool in.
                await Task.yield()
                if isDone { break }
            }
            if pass.report.tablesLookedAt >= tablesPerPass { return }
        }
    }

    /// Makes one call on the entry. Returns true when its range has been looked at to the end.
    private func callOnce(_ index: Int, _ pass: inout ReclaimPass) -> Bool {
        let entry = entries[index]
        let tablesLeft = tablesPerPass - pass.report.tablesLookedAt
        var position = entry.range.start
        do throws(ReclaimError) {
            let report = try call(
                entry.position, entry.range.end, entry.access,
                min(tablesLeft, Self.tablesPerCall))
            pass.add(report, isFirstOfRange: entry.position == entry.range.start)
            position = report.resumeAddress ?? position
        } catch {
            pass.failures.append(
                ReclaimPass.Failure(registration: entry.registration, error: error))
        }
        let isDone = position == entry.range.start
        entries[index].position = position
        first = isDone ? index + 1 : index
        return isDone
    }

    private func index(of registration: ReclaimRegistration) -> Int? {
        entries.firstIndex { $0.registration == registration }
    }
}

/// A range that is registered with a `PeriodicReclaimer`. No other registration of the process is
/// equal to it.
public struct ReclaimRegistration: Hashable, Sendable {
    private static let count = Atomic<UInt64>(0)
    private let number = Self.count.add(1, ordering: .relaxed).newValue
}

/// What one pass of a `PeriodicReclaimer` did.
public struct ReclaimPass: Sendable {
    /// A call that failed. Its range stays registered, and is tried again in the next pass.
    public struct Failure: Equatable, Sendable {
        /// The range whose turn it was.
        public let registration: ReclaimRegistration
        /// Why the call failed.
        public let error: ReclaimError
    }

    /// The sum of the pass's calls; VmPTE before the first and after the last of them.
    /// `resumeAddress` is set where the budget or a cancellation ended the pass inside a range.
    public internal(set) var report = ReclaimReport()
    /// The calls that failed, in the order in which they were made; one for each range at most.
    public internal(set) var failures: [Failure] = []

    private var hasReport = false

    init() {}

    mutating func add(_ other: ReclaimReport, isFirstOfRange: Bool) {
        if !hasReport { report.vmPTEBefore = other.vmPTEBefore }
        hasReport = true
        report.vmPTEAfter = other.vmPTEAfter
        report.tablesExamined += other.tablesExamined
        report.tablesFreed += other.tablesFreed
        report.tablesLookedAt += other.tablesLookedAt
        // A call on the rest of a range would count the partial span at its end once more.
        for reason in KeptReason.allCases where reason != .partial || isFirstOfRange {
            report.kept[reason] += other.kept[reason]
        }
        report.backend = other.backend ?? report.backend
        report.durationNanoseconds += other.durationNanoseconds
        report.resumeAddress = other.resumeAddress
    }
}
