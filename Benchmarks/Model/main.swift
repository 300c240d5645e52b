// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Glibc
import PageTableModel
import ReclaimCore

// How fast the model is, on one core. Prints a line for each figure: name, operations a second of
// each repetition, what the address space was like.

func fail(_ message: String) -> Never {
    Swift.print("failed", message, separator: "\t")
    exit(1)
}

func expect(_ holds: Bool, _ what: String) {
    if !holds { fail(what) }
}

func report(_ name: String, _ rates: [Double], _ space: ModelSpace) {
    let numbers = rates.map { "\(Int($0))" }.joined(separator: " ")
    let made = space.tables.pteTablesMade
    print(name, numbers, "\(space.vmas.count) VMAs, \(made) tables made", separator: "\t")
}

func secondsOf(_ body: () throws(ModelError) -> Void) -> Double {
    let before = ptreclaim_monotonic_nanoseconds()
    do throws(ModelError) { try body() } catch { fail("\(error)") }
    return Double(ptreclaim_monotonic_nanoseconds() - before) / 1e9
}

struct SplitMix64: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
        return z ^ z >> 31
    }
}

let base: UInt = 0x7000_0000_0000
let page = PageGeometry.pageByteCount

// MARK: - Pages

/// Touches runs of pages in random order, purges every other one, touches them again. Counted are
/// page touches; the purges are in the time.
func measureTouches(pagesPerRun: Int, repetitions: Int) {
    let spans = 2048
    let runCount = spans * PageGeometry.entriesPerTable / pagesPerRun
    let field = AddressRange(
        start: base, end: base + UInt(spans) * PageGeometry.spanByteCount)
    var generator = SplitMix64(state: 1)
    let order = Array(0..<runCount).shuffled(using: &generator)
    let runs = order.map { number in
        let start = base + UInt(number * pagesPerRun) * page
        return AddressRange(start: start, end: start + UInt(pagesPerRun) * page)
    }
    var rates: [Double] = []
    var last = ModelSpace(profile: .linux618, backend: .dontneed)
    for _ in 0..<repetitions {
        let space = ModelSpace(profile: .linux618, backend: .dontneed)
        let seconds = secondsOf { () throws(ModelError) in
            try space.mmap(field, attributes: .noHugePage)
            for run in runs { try space.touch(run) }
            for index in stride(from: 0, to: runs.count, by: 2) { try space.dontneed(runs[index]) }
            for index in stride(from: 0, to: runs.count, by: 2) { try space.touch(runs[index]) }
        }
        rates.append(Double(runCount * pagesPerRun * 3 / 2) / seconds)
        expect(space.tables.pteTableCount == spans, "\(space.tables.pteTableCount) tables")
        for span in 0..<spans {
            let start = base + UInt(span) * PageGeometry.spanByteCount
            let count = space.tables.populatedCount(inTableAt: start)
            expect(count == PageGeometry.entriesPerTable, "\(count) pages in a table")
        }
        last = space
    }
    report("touch in runs of \(pagesPerRun) pages", rates, last)
}

// MARK: - Random operations

enum Kind: UInt8 { case write, read, dontneed, mmap, munmap, mprotect }

struct Step {
    let kind: Kind
    let isReadOnly: Bool
    let range: AddressRange
}

/// 64 KiB mapped, 64 KiB not, and so on; half of all slots are mapped at a time.
struct RandomField {
    static let slotCount = 16_500
    static let pagesPerSlot: UInt = 16

    static func slot(_ number: Int) -> AddressRange {
        let start = base + UInt(number) * 2 * pagesPerSlot * page
        return AddressRange(start: start, end: start + pagesPerSlot * page)
    }

    static func fill(_ space: ModelSpace) throws(ModelError) {
        for number in stride(from: 0, to: slotCount, by: 2) { try space.mmap(slot(number)) }
    }

    static func step(using generator: inout SplitMix64) -> Step {
        let number = Int(generator.next() % UInt64(slotCount))
        let choice = generator.next() % 100
        let kind: Kind =
            switch choice {
            case 0..<40: .write
            case 40..<60: .read
            case 60..<80: .dontneed
            case 80..<87: .mmap
            case 87..<94: .munmap
            default: .mprotect
            }
        let all = slot(number)
        let pages = 1 + UInt(generator.next() % 8)
        let first = UInt(generator.next() % UInt64(pagesPerSlot - pages + 1))
        let start = all.start + first * page
        let range: AddressRange =
            switch kind {
            case .mmap, .munmap: all
            case .write, .read: AddressRange(start: start, end: start + page)
            case .dontneed, .mprotect: AddressRange(start: start, end: start + pages * page)
            }
        return Step(kind: kind, isReadOnly: generator.next() % 2 == 0, range: range)
    }
}

/// - Returns: whether the kernel would have done it.
func play(_ step: Step, _ space: ModelSpace) -> Bool {
    do throws(ModelError) {
        switch step.kind {
        case .write: try space.write(1, at: step.range.start)
        case .read: _ = try space.read(at: step.range.start)
        case .dontneed: try space.dontneed(step.range)
        case .mmap: try space.mmap(step.range)
        case .munmap: try space.munmap(step.range)
        case .mprotect: try space.mprotect(step.range, step.isReadOnly ? .read : .readWrite)
        }
        return true
    } catch {
        return false
    }
}

func measureRandomOperations(repetitions: Int) {
    let count = 200_000
    var generator = SplitMix64(state: 2)
    let steps = (0..<count).map { _ in RandomField.step(using: &generator) }
    var rates: [Double] = []
    var results: Set<[Int]> = []
    var last = ModelSpace(profile: .linux618, backend: .dontneed)
    for _ in 0..<repetitions {
        let space = ModelSpace(profile: .linux618, backend: .dontneed)
        do throws(ModelError) { try RandomField.fill(space) } catch { fail("\(error)") }
        // Once outside the clock: from then on as much is mapped as goes.
        for step in steps { _ = play(step, space) }
        var done = 0
        let seconds = secondsOf {
            for step in steps where play(step, space) { done += 1 }
        }
        rates.append(Double(count) / seconds)
        results.insert([done, space.vmas.count, space.tables.pteTableCount])
        last = space
    }
    expect(results.count == 1, "repetitions differ: \(results)")
    expect((9_000...11_000).contains(last.vmas.count), "\(last.vmas.count) VMAs")
    let done = results.first?[0] ?? 0
    expect(done > count / 3 && done < count, "\(done) of \(count) were done")
    report("random operations", rates, last)
}

guard CommandLine.arguments.count == 2, let repetitions = Int(CommandLine.arguments[1]),
    repetitions > 0
else { fail("usage: model-speed REPETITIONS") }
measureTouches(pagesPerRun: 16, repetitions: repetitions)
measureTouches(pagesPerRun: 512, repetitions: repetitions)
measureRandomOperations(repetitions: repetitions)
