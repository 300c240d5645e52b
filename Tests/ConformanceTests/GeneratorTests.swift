// SPDX-License-Identifier: Apache-2.0

import Conformance
import PageTableModel
import ReclaimCore
import Testing

@Suite struct GeneratorTests {
    @Test("a seed makes the same sequence each time, and another makes another")
    func determinism() {
        for seed in 0..<20 as Range<UInt64> {
            let first = Generator.sequence(seed: seed, count: 200)
            let second = Generator.sequence(seed: seed, count: 200)
            #expect(first.mixture == second.mixture)
            #expect(first.operations == second.operations)
            #expect(first.operations != Generator.sequence(seed: seed + 1, count: 200).operations)
        }
    }

    @Test("without swap a sequence is the same but for pageout")
    func swap() {
        for seed in 0..<20 as Range<UInt64> {
            let with = Generator.sequence(seed: seed, count: 300).operations
            let without = Generator.sequence(
                seed: seed, count: 300, limits: Generator.Limits(hasSwap: false)
            ).operations
            #expect(without == with.filter { !$0.text.contains("pageout") })
        }
    }

    @Test("a mixture that is left out changes no other sequence")
    func leftOut() {
        let limits = Generator.Limits(without: [.hugetlb])
        for seed in 0..<60 as Range<UInt64> {
            let all = Generator.sequence(seed: seed, count: 50)
            let rest = Generator.sequence(seed: seed, count: 50, limits: limits)
            #expect(rest.mixture != .hugetlb)
            if all.mixture != .hugetlb { #expect(rest.operations == all.operations) }
        }
    }

    @Test("every mixture comes up, and every operation")
    func coverage() {
        var mixtures: Set<Mixture> = []
        var kinds: Set<String> = []
        for seed in 0..<200 as Range<UInt64> {
            let (mixture, operations) = Generator.sequence(seed: seed, count: 200)
            mixtures.insert(mixture)
            kinds.formUnion(operations.map(\.kindName))
        }
        #expect(mixtures == Set(Mixture.allCases))
        let calls: Set = [
            "mmap", "munmap", "mremap", "mprotect", "mlock", "munlock", "read", "write", "fork",
            "register", "unregister", "writeprotect", "reclaim",
        ]
        #expect(kinds == calls.union(PageTableModel.Operation.Advice.allCases.map { "\($0)" }))
    }

    @Test("nothing is moved where huge pages of the pool are")
    func poolIsNotMoved() {
        for seed in 0..<200 as Range<UInt64> {
            let operations = Generator.sequence(seed: seed, count: 200).operations
            let usesPool = operations.contains { $0.text.contains(" hugetlb ") }
            if usesPool { #expect(!operations.contains { $0.kindName == "mremap" }) }
        }
    }

    @Test("what fills memory stays inside the windows")
    func windows() {
        for seed in 0..<200 as Range<UInt64> {
            for operation in Generator.sequence(seed: seed, count: 200).operations {
                guard let range = filledRange(operation) else { continue }
                #expect(
                    Field.windows.contains { $0.contains(range) }, "\(operation.text), seed \(seed)"
                )
            }
        }
    }

    private func filledRange(_ operation: PageTableModel.Operation) -> AddressRange? {
        switch operation {
        case .mmap(let range, _, _, let flags) where flags.contains(.populate): range
        case .mlock(let range, _), .writeProtect(let range, _), .reclaim(let range): range
        case .madvise(let range, .populateRead), .madvise(let range, .populateWrite),
            .madvise(let range, .collapse), .madvise(let range, .guardInstall),
            .madvise(let range, .pageout):
            range
        default: nil
        }
    }
}
