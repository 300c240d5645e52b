// SPDX-License-Identifier: Apache-2.0

import PageTableModel
import ReclaimCore
import TestSupport
import Testing

/// One thing a program does. Page numbers count from the start of the window.
enum Operation: Equatable {
    case map(Range<Int>, marked: Bool)
    case unmap(Range<Int>)
    case read(Int)
    case write(UInt8, Int)
    case discard(Range<Int>)
    case guardPages(Range<Int>)
    case unguardPages(Range<Int>)
    case free(Int)
    case walk(Range<Int>)

    var isAboutGuards: Bool {
        switch self {
        case .guardPages, .unguardPages: true
        default: false
        }
    }

    /// Most ranges end near span boundaries, where the rules differ.
    static func random(using random: inout SplitMix64, spanCount: Int) -> Operation {
        let perSpan = PageGeometry.entriesPerTable
        func edge(_ random: inout SplitMix64) -> Int {
            let boundary = Int.random(in: 0...spanCount, using: &random) * perSpan
            let offset =
                switch Int.random(in: 0..<4, using: &random) {
                case 0: Int.random(in: -perSpan...perSpan, using: &random)
                case 1: Int.random(in: -2...2, using: &random)
                default: 0
                }
            return min(max(boundary + offset, 0), spanCount * perSpan)
        }
        func range(_ random: inout SplitMix64) -> Range<Int> {
            let (one, other) = (edge(&random), edge(&random))
            guard one != other else { return range(&random) }
            return min(one, other)..<max(one, other)
        }
        func short(_ random: inout SplitMix64) -> Range<Int> {
            let start = min(edge(&random), spanCount * perSpan - 1)
            let count = Int.random(in: 1...16, using: &random)
            return start..<min(start + count, spanCount * perSpan)
        }
        func page(_ random: inout SplitMix64) -> Int {
            min(edge(&random), spanCount * perSpan - 1)
        }
        switch Int.random(in: 0..<20, using: &random) {
        case 0...1: return .map(range(&random), marked: Bool.random(using: &random))
        case 2: return .unmap(Bool.random(using: &random) ? range(&random) : short(&random))
        case 3...5: return .read(page(&random))
        case 6...10: return .write(UInt8.random(in: 1...255, using: &random), page(&random))
        case 11...13: return .discard(range(&random))
        case 14: return .discard(short(&random))
        case 15: return .guardPages(short(&random))
        case 16: return .unguardPages(range(&random))
        case 17: return .free(Int.random(in: 0..<spanCount, using: &random))
        default: return .walk(range(&random))
        }
    }
}

/// What playing an operation answers: the kernel and the model must say the same.
struct Outcome: Equatable {
    var errno: Int32 = 0
    var byte: UInt8 = 0
    var examined = 0
    var freed = 0
    var kept = KeptCounts()

    init<Space: Playable>(of operation: Operation, on space: Space) {
        do {
            switch operation {
            case .map(let range, let marked): try space.map(space.pages(range), marked: marked)
            case .unmap(let range): try space.unmap(space.pages(range))
            case .read(let page): byte = try space.read(at: space.address(ofPage: page))
            case .write(let byte, let page):
                try space.write(byte, at: space.address(ofPage: page))
            case .discard(let range): try space.discard(space.pages(range))
            case .guardPages(let range): try space.guardPages(space.pages(range))
            case .unguardPages(let range): try space.unguardPages(space.pages(range))
            case .free(let span): try space.freeTable(of: space.span(span))
            case .walk(let range):
                let report = try ReclaimWalk(space: space).reclaim(
                    space.pages(range), access: .owned)
                examined = report.tablesExamined
                freed = report.tablesFreed
                kept = report.kept
            }
        } catch let error as PlayError {
            errno = error.errno
        } catch let error as ReclaimError {
            errno = error.errno
        } catch {
            errno = -1
        }
    }
}

/// Plays one random sequence on both. Returns where they first differ, nil where they agree.
func firstDifference(
    seed: UInt64, operations: Int, _ profile: KernelProfile, _ backend: Backend, isAlone: Bool
) throws -> String? {
    var random = SplitMix64(seed: seed)
    let live = try LivePlayground(backend, isAlone: isAlone)
    let model = ModelPlayground(profile, backend)
    let base = model.window.start
    precondition(base != live.window.start)
    let spans = model.window.wholeSpans
    let vmPTEBefore = live.vmPTEByteCount()
    for step in 0..<operations {
        let operation = Operation.random(using: &random, spanCount: spans.count)
        if operation.isAboutGuards, !live.hasGuards(.anonymous) { continue }
        let expected = Outcome(of: operation, on: model)
        switch operation {
        // Would be SIGSEGV on the kernel.
        case .read, .write: if expected.errno != 0 { continue }
        // Maps a hole too; the walk asks before it does, and so must whoever plays.
        case .free(let index):
            if backend == .mapfixed, try model.eligibility(of: model.span(index)) != nil {
                continue
            }
        default: break
        }
        let found = Outcome(of: operation, on: live)
        let place = "seed \(seed), step \(step), \(operation)"
        if expected != found { return "\(place): \(expected) on the model, \(found) here" }
        for index in 0..<spans.count {
            let (expected, found) = (
                try model.trueState(of: model.span(index)), try live.trueState(of: live.span(index))
            )
            if expected != found {
                return "\(place): table of span \(index) is \(expected) on the model, \(found) here"
            }
            if try model.eligibility(of: model.span(index))
                != live.eligibility(of: live.span(index))
            {
                return "\(place): VMAs around span \(index) differ"
            }
        }
        if isAlone, let vmPTEBefore, let now = live.vmPTEByteCount(),
            let modelled = model.vmPTEByteCount(), now != vmPTEBefore + modelled
        {
            return "\(place): VmPTE \(modelled) on the model, \(Int(now) - Int(vmPTEBefore)) here"
        }
        if let broken = model.model.brokenInvariants().first { return "\(place): \(broken)" }
    }
    // Every byte that the model says is there, is there.
    for (start, table) in model.model.pteTables {
        for (index, entry) in table.entries {
            guard case .present(let byte) = entry else { continue }
            let offset = start - base + UInt(index) * PageGeometry.pageByteCount
            if try live.read(at: live.window.start + offset) != byte {
                return "seed \(seed): byte at offset \(offset) is not \(byte)"
            }
        }
    }
    return nil
}

@Suite(.enabled(if: KernelAbilities.showsTables, "needs PAGEMAP_SCAN, Linux 6.7"))
struct DifferentialTests {
    /// 240 sequences of 60 operations.
    @Test(arguments: KernelAbilities.backends)
    func theModelDoesWhatTheKernelDoes(backend: Backend) throws {
        let first = UInt64.random(in: 0...UInt64(UInt32.max))
        print("DifferentialTests: \(backend), seeds from \(first)")
        for seed in first..<first + 80 {
            let difference = try firstDifference(
                seed: seed, operations: 60, KernelAbilities.profile, backend, isAlone: false)
            #expect(difference == nil)
            if difference != nil { return }
        }
    }

    /// In a process of its own VmPTE is compared too, to the byte: PMD and PUD tables count.
    @Test func theModelsVmPTEIsTheKernels() async {
        await #expect(processExitsWith: .success) {
            let first = UInt64.random(in: 0...UInt64(UInt32.max))
            for seed in first..<first + 40 {
                for backend in KernelAbilities.backends {
                    // The test's own heap may need a table too; only what comes back is a
                    // difference.
                    var difference: String?
                    for _ in 0..<3 {
                        difference = try firstDifference(
                            seed: seed, operations: 60, KernelAbilities.profile, backend,
                            isAlone: true)
                        if difference == nil { break }
                    }
                    if let difference {
                        Issue.record("\(backend): \(difference)")
                        return
                    }
                }
            }
        }
    }

    /// Negative control: a model of another kernel is told from this one.
    @Test(.enabled(if: KernelAbilities.backends.contains(.dontneed), "needs PT_RECLAIM"))
    func aModelOfAnOlderKernelDisagrees() throws {
        let differences = try (1...20).compactMap { seed in
            try firstDifference(
                seed: seed, operations: 60, .beforePTReclaim, .dontneed, isAlone: false)
        }
        #expect(!differences.isEmpty)
    }
}
