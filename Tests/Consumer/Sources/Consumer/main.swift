// SPDX-License-Identifier: Apache-2.0

import Glibc
import PTReclaim

// Another package's use of the library: 64 MiB touched, purged in small pieces, reclaimed in each
// of the three ways. Exits with an error unless the tables are gone.
let byteCount = 64 << 20
let madvNoHugePage: Int32 = 15
guard let memory = mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
    memory != MAP_FAILED
else { fatalError("mmap: errno \(errno)") }
madvise(memory, byteCount, madvNoHugePage)
let start = UInt(bitPattern: memory)
let range = start..<start + UInt(byteCount)

func touchAndPurge(_ memory: UnsafeMutableRawPointer) {
    memset(memory, 1, byteCount)
    for offset in stride(from: 0, to: byteCount, by: 64 << 10) {
        madvise(memory + offset, 64 << 10, MADV_DONTNEED)
    }
}

func check(_ name: String, _ report: ReclaimReport, mayBeKept: KeptReason...) {
    let kept = KeptReason.allCases.filter { report.kept[$0] > 0 }
    print("\(name): examined \(report.tablesExamined), freed \(report.tablesFreed), kept \(kept)")
    let excused = mayBeKept.reduce(0) { $0 + report.kept[$1] }
    guard report.tablesFreed + excused >= 31 else { fatalError("the tables are still there") }
}

touchAndPurge(memory)
check("owned", try ptReclaim(range: range, access: .owned))

// Where this process may not fence, and on kernels without PT_RECLAIM, private memory is kept.
touchAndPurge(memory)
check("shared", try ptReclaim(range: range), mayBeKept: .fenceUnavailable, .losesAttributes)

touchAndPurge(memory)
let (passes, continuation) = AsyncStream.makeStream(of: ReclaimPass.self)
let reclaimer = PeriodicReclaimer(interval: .seconds(3600)) { continuation.yield($0) }
let registration = try await reclaimer.register(range, access: .owned)
let work = Task { try await reclaimer.run() }
for await pass in passes {
    guard pass.failures.isEmpty else { fatalError("\(pass.failures)") }
    check("periodic", pass.report)
    break
}
work.cancel()
await reclaimer.unregister(registration)
munmap(memory, byteCount)
