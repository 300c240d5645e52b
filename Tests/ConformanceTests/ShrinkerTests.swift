// SPDX-License-Identifier: Apache-2.0

import Conformance
import PageTableModel
import ReclaimCore
import Testing

@Suite struct ShrinkerTests {
    private func operations(_ text: String) throws -> [PageTableModel.Operation] {
        try [PageTableModel.Operation](text: text)
    }

    @Test("only what the failure needs is left, in its order")
    func drops() throws {
        let sequence = Generator.sequence(seed: 3, count: 150).operations
        let needed = try operations("fork\nwrite A-673 1\nreclaim B+0..B+1\n")
        var padded = sequence
        padded.insert(needed[0], at: 20)
        padded.insert(needed[1], at: 77)
        padded.insert(needed[2], at: 140)
        let short = Shrinker { candidate in
            var rest = needed[...]
            for operation in candidate where operation == rest.first { rest.removeFirst() }
            return rest.isEmpty
        }.shrink(padded)
        #expect(short == needed)
    }

    @Test("ranges get as small as the failure allows")
    func ranges() throws {
        let long = try operations("mmap A-512..B+1 anonymous rw noreserve populate\nread A+7")
        let short = Shrinker { candidate in
            candidate.contains {
                guard case .mmap(let range, _, _, _) = $0 else { return false }
                return range.byteCount >= 5 * 4096
            }
        }.shrink(long)
        #expect(short.count == 1)
        guard case .mmap(let range, .anonymousPrivate, .readWrite, []) = short[0] else {
            Issue.record("\(short.text)")
            return
        }
        #expect(range.byteCount < 10 * 4096)
    }

    @Test("when time is out the best so far is taken, and it fails")
    func limit() throws {
        let sequence = Generator.sequence(seed: 3, count: 150).operations
        let short = Shrinker(limit: .zero) { _ in true }.shrink(sequence)
        #expect(short == sequence)
    }
}
