// SPDX-License-Identifier: Apache-2.0

import ProcFS

/// What one server looks like after one step, and what the work since the row before took.
struct Measurement {
    let configuration: Configuration
    let step: String
    /// All keys are gone: what is left should need nothing.
    let isAllDeleted: Bool
    let census: PageTableCensus
    let rssByteCount: UInt
    let vmaCount: Int
    /// The most seen since the row before.
    let peakVMACount: Int
    let work: Work
    let forkMicroseconds: Int?
    /// nil without the shim.
    let spansZapped: UInt64?
}

/// Measures one server from outside, and watches its VMAs while it works.
final class Meter {
    let target: any ChurnTarget
    private var peakVMACount = 0
    private var work = Work()
    private var cpuSecondsBefore: Double?
    private var nextSample = ContinuousClock.now
    private let watch: TableWatch?

    /// - Parameter watch: looks at the page tables, too, all the while.
    init(_ target: any ChurnTarget, watch: TableWatch? = nil) {
        self.target = target
        self.watch = watch
        target.betweenBatches = { [unowned self] in sampleIfDue() }
    }

    /// Runs `body` and adds its work to the next measurement. The CPU time counts from the first
    /// call on until the measurement: jemalloc's threads purge, and the shim works, in the wait.
    func time(_ body: () throws -> Work) throws {
        if cpuSecondsBefore == nil {
            cpuSecondsBefore = try ProcessStatus.read(pid: target.pid).cpuSeconds
        }
        watch?.resume()
        defer { watch?.pause() }
        work.add(try body())
        sample()
    }

    /// Around a time in which nobody works.
    func beginWait() { watch?.resume() }
    func endWait() { watch?.pause() }

    /// Counts the VMAs: at most four times a second, and for at most a twentieth of the time.
    func sampleIfDue() {
        watch?.sampleIfDue()
        guard ContinuousClock.now >= nextSample else { return }
        sample()
    }

    private func sample() {
        let took = ContinuousClock().measure {
            guard let status = try? ProcessStatus.read(pid: target.pid) else { return }
            peakVMACount = max(peakVMACount, status.vmaCount)
        }
        nextSample = .now + max(.milliseconds(250), took * 20)
    }

    func measure(step: String, isAllDeleted: Bool) throws -> Measurement {
        let census = try PageTableCensus.take(pid: target.pid)
        let status = try ProcessStatus.read(pid: target.pid)
        work.cpuSeconds = status.cpuSeconds - (cpuSecondsBefore ?? status.cpuSeconds)
        // The page must be there under the shim: a server it did not enter is an error, not a row.
        let spansZapped =
            target.configuration == .shim
            ? try StatsPage.read(pid: target.pid)["spans_zapped"] : nil
        defer {
            work = Work()
            peakVMACount = 0
            cpuSecondsBefore = nil
        }
        return Measurement(
            configuration: target.configuration, step: step, isAllDeleted: isAllDeleted,
            census: census, rssByteCount: status.rssByteCount, vmaCount: status.vmaCount,
            peakVMACount: max(peakVMACount, status.vmaCount), work: work,
            // Last: a fork's child shares pages and costs the next faults a copy.
            forkMicroseconds: isAllDeleted ? try target.forkMicroseconds() : nil,
            spansZapped: spansZapped)
    }
}
