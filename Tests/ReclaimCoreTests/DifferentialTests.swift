// SPDX-License-Identifier: Apache-2.0

import LiveSpace
import PageTableModel
import ReclaimCore
import TestSupport
import Testing

/// One thing a program does. Page numbers count from the start of the window.
enum Operation: Equatable {
    case map(Range<Int>, PlayMemory, marked: Bool)
    case unmap(Range<Int>)
    case read(Int)
    case write(UInt8, Int)
    case discard(Range<Int>)
    case guardPages(Range<Int>)
    case unguardPages(Range<Int>)
    case free(Int)
    case walk(Range<Int>, ReclaimAccess)
    case register(Range<Int>, writeProtect: Bool)
    case writeProtect(Range<Int>)

    /// Whether `space` can play it, or the test must not.
    func isPlayable(on space: LivePlayground) -> Bool {
        switch self {
        case .guardPages, .unguardPages:
            PlayMemory.allCases.allSatisfy { space.hasGuards($0) }
        case .register(_, writeProtect: false): space.hasUserfaultfd
        // There VmPTE has to tell, which other tests change.
        case .register(_, writeProtect: true), .writeProtect:
            space.hasWriteProtectMarkers && space.isAlone
        // The process has one backend, that of its first call.
        case .walk(_, .shared):
            space.hasFence && (space.isAlone || space.backend == LiveSpace.probeBackend())
        default: true
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
        switch Int.random(in: 0..<23, using: &random) {
        case 0...1:
            let memory = PlayMemory.allCases[Int.random(in: 0..<3, using: &random)]
            return .map(range(&random), memory, marked: Bool.random(using: &random))
        case 2: return .unmap(Bool.random(using: &random) ? range(&random) : short(&random))
        case 3...5: return .read(page(&random))
        case 6...10: return .write(UInt8.random(in: 1...255, using: &random), page(&random))
        case 11...13: return .discard(range(&random))
        case 14: return .discard(short(&random))
        case 15: return .guardPages(short(&random))
        case 16: return .unguardPages(range(&random))
        case 17: return .free(Int.random(in: 0..<spanCount, using: &random))
        case 18: return .register(range(&random), writeProtect: Bool.random(using: &random))
        case 19: return .writeProtect(short(&random))
        default:
            return .walk(range(&random), Bool.random(using: &random) ? .owned : .shared)
        }
    }
}

/// What playing an operation answers: the kernel and the model must say the same.
struct Outcome: Equatable, CustomStringConvertible {
    var errno: Int32 = 0
    var byte: UInt8 = 0
    var examined = 0
    var freed = 0
    var kept = KeptCounts()

    var description: String {
        let reasons = KeptReason.allCases.filter { kept[$0] != 0 }.map { "\($0) \(kept[$0])" }
        return "errno \(errno), byte \(byte), \(freed) freed of \(examined), kept \(reasons)"
    }

    init<Space: Playable>(of operation: Operation, on space: Space) {
        do {
            switch operation {
            case .map(let range, let memory, let marked):
                try space.map(space.pages(range), memory, marked: marked)
            case .unmap(let range): try space.unmap(space.pages(range))
            case .read(let page): byte = try space.read(at: space.address(ofPage: page))
            case .write(let byte, let page):
                try space.write(byte, at: space.address(ofPage: page))
            case .discard(let range): try space.discard(space.pages(range))
            case .guardPages(let range): try space.guardPages(space.pages(range))
            case .unguardPages(let range): try space.unguardPages(space.pages(range))
            case .free(let span): try space.freeTable(of: space.span(span))
            case .register(let range, let writeProtect):
                try space.register(space.pages(range), writeProtect: writeProtect)
            case .writeProtect(let range): try space.writeProtectUnpopulated(space.pages(range))
            case .walk(let range, let access):
                let pages = space.pages(range)
                let report =
                    if access == .shared, let live = space as? LivePlayground {
                        try live.call(pages, access)
                    } else {
                        try ReclaimWalk(space: space).reclaim(pages, access: access)
                    }
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
    if isAlone { LivePlayground.use(backend) }
    let live = try LivePlayground(backend, isAlone: isAlone, hasHugePages: !isAlone)
    var model = ModelPlayground(profile, backend, hasHugePages: !isAlone)
    precondition(model.window.start != live.window.start)
    let spans = model.window.wholeSpans
    let vmPTEBefore = live.vmPTEByteCount()
    for step in 0..<operations {
        let operation = Operation.random(using: &random, spanCount: spans.count)
        guard operation.isPlayable(on: live) else { continue }
        let ahead = ModelPlayground(copyOf: model)
        let expected = Outcome(of: operation, on: ahead)
        switch operation {
        // Would be SIGSEGV on the kernel, or wait for ever.
        case .read, .write: if expected.errno != 0 { continue }
        case .guardPages: if expected.errno == ModelError.wouldBlock.errno { continue }
        // Maps a hole too; the walk asks before it does, and so must whoever plays.
        case .free(let index):
            if backend == .mapfixed, try model.eligibility(of: model.span(index)) != nil {
                continue
            }
        default: break
        }
        model = ahead
        let found = Outcome(of: operation, on: live)
        let place = "seed \(seed), step \(step), \(operation)"
        if expected != found { return "\(place): \(expected) on the model, \(found) here" }
        let picture = try model.states().picture
        let states = try live.states()
        if !states.agree(with: picture) {
            return "\(place): \(picture) on the model, \(states.picture) here"
        }
        for index in 0..<spans.count {
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
    for page in 0..<Int(model.window.byteCount / PageGeometry.pageByteCount) {
        let entry = model.model.entry(at: model.address(ofPage: page))
        guard entry.state == .anonymous else { continue }
        if try live.read(at: live.address(ofPage: page)) != entry.contents {
            return "seed \(seed): the byte of page \(page) is not \(entry.contents)"
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
            LivePlayground.switchHugePagesOff()
            // Starts the service thread, whose stack has tables of its own.
            _ = try ReclaimCall.run(from: 0, upTo: 2 << 20, access: .shared)
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
                seed: seed, operations: 60, .linux612, .dontneed, isAlone: false)
        }
        #expect(!differences.isEmpty)
    }
}
