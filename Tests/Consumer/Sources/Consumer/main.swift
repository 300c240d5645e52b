// SPDX-License-Identifier: Apache-2.0

import Glibc
import PTReclaim

// Another package's use of the library: 64 MiB touched, purged in small pieces, reclaimed.
let byteCount = 64 << 20
let madvNoHugePage: Int32 = 15
guard let memory = mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
    memory != MAP_FAILED
else { fatalError("mmap: errno \(errno)") }
madvise(memory, byteCount, madvNoHugePage)
memset(memory, 1, byteCount)
for offset in stride(from: 0, to: byteCount, by: 64 << 10) {
    madvise(memory + offset, 64 << 10, MADV_DONTNEED)
}
let start = UInt(bitPattern: memory)
let report = try ptReclaim(range: start..<start + UInt(byteCount), access: .owned)
print("examined \(report.tablesExamined), freed \(report.tablesFreed)")
guard report.tablesFreed >= 31 else { fatalError("the tables are still there") }
