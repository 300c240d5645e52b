// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// A clock that stands still until it is told to go on. Who sleeps on it sleeps in no time.
public final class ManualClock: Clock {
    public struct Instant: InstantProtocol {
        /// Since the clock was made.
        public let offset: Duration

        public func advanced(by duration: Duration) -> Instant {
            Instant(offset: offset + duration)
        }
        public func duration(to other: Instant) -> Duration { other.offset - offset }
        public static func < (left: Instant, right: Instant) -> Bool { left.offset < right.offset }
    }

    private struct State {
        var now = Instant(offset: .zero)
        var nextSleeper = 0
        var sleepers: [Int: (until: Instant, wake: CheckedContinuation<Void, any Error>)] = [:]
        /// Sleepers that were cancelled before they lay down.
        var cancelled: Set<Int> = []
        var watchers: [CheckedContinuation<Instant, Never>] = []
    }
    private let state = Mutex(State())

    public init() {}

    public var now: Instant { state.withLock { $0.now } }
    public var minimumResolution: Duration { .nanoseconds(1) }

    /// How many are asleep.
    public var sleeperCount: Int { state.withLock { $0.sleepers.count } }

    public func sleep(until deadline: Instant, tolerance: Duration? = nil) async throws {
        let sleeper = state.withLock { state in
            state.nextSleeper += 1
            return state.nextSleeper
        }
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                enum Start {
                    case cancelled, over
                    case asleep([CheckedContinuation<Instant, Never>])
                }
                let start: Start = state.withLock { state in
                    if state.cancelled.remove(sleeper) != nil { return .cancelled }
                    if deadline <= state.now { return .over }
                    state.sleepers[sleeper] = (deadline, continuation)
                    defer { state.watchers = [] }
                    return .asleep(state.watchers)
                }
                switch start {
                case .cancelled: continuation.resume(throwing: CancellationError())
                case .over: continuation.resume()
                case .asleep(let watchers):
                    for watcher in watchers { watcher.resume(returning: deadline) }
                }
            }
        } onCancel: {
            let asleep = state.withLock { state in
                let asleep = state.sleepers.removeValue(forKey: sleeper)
                if asleep == nil { state.cancelled.insert(sleeper) }
                return asleep
            }
            asleep?.wake.resume(throwing: CancellationError())
        }
    }

    /// Waits until somebody sleeps. Returns the first time at which somebody wakes up.
    public func nextWakeUp() async -> Instant {
        await withCheckedContinuation { continuation in
            let first = state.withLock { state in
                let first = state.sleepers.values.map(\.until).min()
                if first == nil { state.watchers.append(continuation) }
                return first
            }
            if let first { continuation.resume(returning: first) }
        }
    }

    /// Goes on, and wakes whose time has come.
    public func advance(by duration: Duration) {
        let due = state.withLock { state in
            state.now = state.now.advanced(by: duration)
            let due = state.sleepers.filter { $0.value.until <= state.now }
            for sleeper in due.keys { state.sleepers[sleeper] = nil }
            return due.values.sorted { $0.until < $1.until }
        }
        for sleeper in due { sleeper.wake.resume() }
    }
}
