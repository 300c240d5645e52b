// SPDX-License-Identifier: Apache-2.0

// Gives 64 MiB back to Linux in small pieces, as allocators do, and then the page tables too:
// half of it owned, half behind a fence while another thread uses it.

import Glibc
import PTReclaim

let byteCount = 64 << 20
let pieceByteCount = 64 << 10
let noHugePages: Int32 = 15  // MADV_NOHUGEPAGE: a huge page has no table to free

let readWrite = PROT_READ | PROT_WRITE
let mapped = unsafe mmap(nil, byteCount, readWrite, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
guard let memory = unsafe mapped, unsafe memory != MAP_FAILED else {
    fatalError("mmap: errno \(errno)")
}
unsafe madvise(memory, byteCount, noHugePages)
unsafe memset(memory, 1, byteCount)
for offset in stride(from: 0, to: byteCount, by: pieceByteCount) {
    unsafe madvise(memory + offset, pieceByteCount, MADV_DONTNEED)
}

let start = UInt(bitPattern: memory)
let half = start + UInt(byteCount / 2)
let end = start + UInt(byteCount)

func show(_ name: String, _ report: ReclaimReport) {
    print("\(name) examined: \(report.tablesExamined)")
    print("\(name) freed: \(report.tablesFreed)")
    for reason in KeptReason.allCases where report.kept[reason] > 0 {
        print("\(name) kept, \(reason.name): \(report.kept[reason])")
    }
}

// Nobody uses the first half meanwhile.
show("owned", try ptReclaim(range: start..<half, access: .owned))

// The second half may be used freely meanwhile; it only stays mapped. `rest` says where.
let rest = half..<end
let writer = Task.detached {
    let last = unsafe UnsafeMutablePointer<UInt64>(bitPattern: rest.upperBound - 8)!
    for number in 1...100_000 { unsafe last.pointee = UInt64(number) }
    return unsafe last.pointee
}
show("shared", try ptReclaim(range: rest))
print("written: \(await writer.value)")
