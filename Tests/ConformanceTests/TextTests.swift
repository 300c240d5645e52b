// SPDX-License-Identifier: Apache-2.0

import Conformance
import PageTableModel
import ReclaimCore
import Testing

@Suite struct OperationTextTests {
    @Test(
        "every operation that is made reads back from its text", arguments: 0..<40 as Range<UInt64>)
    func roundTrip(seed: UInt64) throws {
        let operations = Generator.sequence(seed: seed, count: 300).operations
        #expect(try [PageTableModel.Operation](text: operations.text) == operations)
    }

    /// The generator makes no such operations, or seldom.
    @Test(
        "each form of a line reads back as it stands",
        arguments: [
            "mmap A-512..B+1 anonymous rw noreserve", "mmap A+0..A+1 shared:1 none populate",
            "mmap B-1..B+1 private:0 rwx noreserve populate noreplace",
            "mmap A+512..A+1024 hugetlb rw", "mmap A+1..A+2 shared r", "munmap A-1..A+1",
            "mremap B-512..B+69 to B-2048..B-1467 fixed dontunmap",
            "mremap A+0..A+5 to A+8..A+12 fixed", "mremap A+0..A+5 to A+0..A+9",
            "mprotect A-3..A+0 r", "madvise A+0..A+512 dontneed", "madvise A+0..A+1 guardInstall",
            "mlock A+0..A+1", "mlock A+0..A+1 onfault", "munlock A+0..A+1", "read B+365",
            "write A-673 15", "fork", "register A+0..A+4 wp", "register A+0..A+4 missing",
            "unregister A+0..A+4", "writeprotect A+0..A+4 on", "writeprotect A+0..A+4 off",
            "reclaim A+0..A+512",
        ])
    func line(text: String) throws {
        let operations = try [PageTableModel.Operation](text: text)
        #expect(operations.count == 1)
        #expect(operations.text == text + "\n")
    }

    @Test("a landmark alone, comments and empty lines are understood")
    func leniency() throws {
        let operations = try [PageTableModel.Operation](
            text: "\n# nothing\n  read A   # a boundary\n\tfork\r\n")
        #expect(operations.text == "read A+0\nfork\n")
    }

    @Test(
        "what is no operation is named with its line",
        arguments: [
            "frob A..B", "read", "read C+1", "read A+1 2", "write A+1", "write A+1 256",
            "mmap A..B", "mmap A..B anonymous", "mmap A..B anonymous rq", "mmap A..B common rw",
            "mmap A..B shared:2 rw", "mmap A..B anonymous rw fixed", "munmap B..A", "munmap A",
            "mremap A..B A..B", "mremap A+0..A+5 to A+1..A+6", "madvise A..B frob", "fork A",
            "register A..B", "writeprotect A..B maybe", "read A+99999999999999999999",
        ])
    func refusal(text: String) {
        let error = #expect(throws: OperationTextError.self) {
            try [PageTableModel.Operation](text: "fork\n" + text)
        }
        #expect(error?.line == 2)
        #expect(error?.text == text)
    }
}
