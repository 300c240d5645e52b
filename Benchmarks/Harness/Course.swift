// SPDX-License-Identifier: Apache-2.0

import Foundation
import ProcFS

/// The page tables of one process at one time, in bytes.
struct TablePoint: Codable {
    /// On the clock of the process, see `Course`.
    let seconds: Double
    let vmPTE: UInt
    /// nil where the kernel does not tell empty tables.
    let waste: UInt?
}

/// A process whose page tables are looked at now and then. Its clock runs while it is worked on, and
/// while all wait.
final class TableWatch {
    private let pid: Int32
    private let isRecording: Bool
    private(set) var points: [TablePoint] = []
    private var secondsBefore = 0.0
    private var resumedAt: ContinuousClock.Instant?
    private var nextSample = ContinuousClock.now

    init(pid: Int32, isRecording: Bool) {
        self.pid = pid
        self.isRecording = isRecording
    }

    var seconds: Double {
        secondsBefore + (resumedAt.map { (ContinuousClock.now - $0).seconds } ?? 0)
    }

    func resume() {
        guard resumedAt == nil else { return }
        resumedAt = .now
        sample()
    }

    func pause() {
        sample()
        secondsBefore = seconds
        resumedAt = nil
    }

    /// At most ten times a second, and for at most a twentieth of the time.
    func sampleIfDue() {
        if ContinuousClock.now >= nextSample { sample() }
    }

    private func sample() {
        guard isRecording else { return }
        let now = seconds
        let took = ContinuousClock().measure {
            guard let census = try? PageTableCensus.take(pid: pid) else { return }
            add(
                TablePoint(
                    seconds: now, vmPTE: census.vmPTEByteCount, waste: census.wasteByteCount))
        }
        nextSample = .now + max(.milliseconds(100), took * 20)
    }

    /// Of equal ones in a row the first and the last stay: they are one level line.
    private func add(_ point: TablePoint) {
        if let last = points.last, let before = points.dropLast().last,
            (last.vmPTE, before.vmPTE) == (point.vmPTE, point.vmPTE), last.waste == point.waste,
            before.waste == point.waste
        {
            points.removeLast()
        }
        points.append(point)
    }
}

/// Processes that are worked on in turn and wait together. While one is worked on, the clocks of the
/// others stand still: so the same work stands at the same time of each.
final class Course {
    /// Something that has been done to all, on the clock of the first.
    struct Mark: Codable {
        let name: String
        let seconds: Double
    }

    private let isRecording: Bool
    private var watches: [(mode: Mode?, pid: Int32, commandLine: String, watch: TableWatch)] = []
    private var marks: [Mark] = []

    init(isRecording: Bool) { self.isRecording = isRecording }

    /// The next one; the first is plain.
    @discardableResult
    func add(_ mode: Mode?, pid: Int32, commandLine: String) -> TableWatch {
        let watch = TableWatch(pid: pid, isRecording: isRecording)
        watches.append((mode, pid, commandLine, watch))
        return watch
    }

    /// - Parameter body: works on one; calls its argument now and then.
    func work(on index: Int, _ body: (_ meanwhile: () -> Void) throws -> Void) rethrows {
        let watch = watches[index].watch
        watch.resume()
        defer { watch.pause() }
        try body(watch.sampleIfDue)
    }

    /// The same, where all run at once.
    func together(_ body: (_ meanwhile: () -> Void) throws -> Void) rethrows {
        for one in watches { one.watch.resume() }
        defer { for one in watches { one.watch.pause() } }
        try body { for one in watches { one.watch.sampleIfDue() } }
    }

    func wait(_ seconds: Double) {
        together { meanwhile in
            let end = ContinuousClock.now + .seconds(seconds)
            while ContinuousClock.now < end {
                Thread.sleep(forTimeInterval: min(0.1, max(0, (end - .now).seconds)))
                meanwhile()
            }
        }
    }

    func mark(_ name: String) {
        guard let watch = watches.first?.watch else { return }
        marks.append(Mark(name: name, seconds: watch.seconds))
    }

    /// Looks at all of them a last time.
    func finish(_ program: String, _ allocator: Allocator) -> ChurnOutcome {
        let processes = watches.map { one in
            var row: WasteRow?
            var failure: String?
            do {
                row = try WasteRow(
                    program: program, allocator: allocator, mode: one.mode, pid: one.pid)
            } catch { failure = "\(error)" }
            return ChurnOutcome.Process(
                mode: one.mode, command: one.commandLine, points: one.watch.points, row: row,
                failure: failure)
        }
        return ChurnOutcome(
            program: program, allocator: allocator, processes: processes, marks: marks)
    }
}

/// What became of the processes of one program, the plain one first.
struct ChurnOutcome: Codable {
    struct Process: Codable {
        /// nil: plain.
        let mode: Mode?
        /// As one would type it.
        let command: String
        /// Empty where nobody recorded.
        let points: [TablePoint]
        let row: WasteRow?
        /// Why there is no row.
        let failure: String?
    }

    let program: String
    let allocator: Allocator
    let processes: [Process]
    let marks: [Course.Mark]

    /// - Throws: where one of them could not be looked at.
    func rows() throws -> [WasteRow] {
        try processes.map { process in
            guard let row = process.row else {
                throw HarnessError(process.failure ?? "\(process.command): no figures")
            }
            return row
        }
    }
}
