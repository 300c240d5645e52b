// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM
internal import Glibc

/// Something that is looked at as often as its price allows: its CPU time is measured each time, and
/// it may take `share` of one core.
struct Paced {
    let share: Double
    private var start: ContinuousClock.Instant?
    /// CPU time of the last look.
    private(set) var price = Duration.zero

    init(share: Double) { self.share = share }

    /// From one look to the next, at least.
    var period: Duration { price * (1 / share) }

    func isDue(at now: ContinuousClock.Instant) -> Bool { start.map { now >= $0 + period } ?? true }

    /// Makes the next look due at once.
    mutating func hurry() { start = nil }

    mutating func look<Result>(
        at now: ContinuousClock.Instant, _ body: () -> Result
    ) -> Result {
        let before = Self.cpuTime
        defer {
            start = now
            price = Self.cpuTime - before
        }
        return body()
    }

    /// Of the calling thread: waiting for a CPU costs the machine nothing.
    private static var cpuTime: Duration {
        var time = timespec()
        unsafe clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return .seconds(time.tv_sec) + .nanoseconds(time.tv_nsec)
    }
}
