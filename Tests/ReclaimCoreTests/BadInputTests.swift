// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import LiveSpace
import PTReclaim
import ReclaimCore
import TestSupport
import Testing

private let flags = TestMemory.anonymous

/// Ranges that are wrong, and memory that is not for us: each has a clear answer, and nothing
/// that anyone can read changes.
@Suite(.enabled(if: Weather.freesAndShows, Weather.needsFreesAndShows))
struct BadInputTests {

    // MARK: Wrong ranges

    @Test(arguments: Weather.bothAccesses)
    func refusesWrongRanges(access: Access) throws {
        let memory = TestMemory(2)
        try memory.map()
        try memory.makeEmptyTables(0..<1)
        memory.write(1)
        let (start, end) = (memory.spans.start, memory.spans.end)
        let wrong: [Range<UInt>] = [
            start + 1..<end, start + 2048..<end, start + 1..<start + 1,
            start..<(1 << 47) + 1, start..<UInt.max, start..<UInt.max - 4095,
            1 << 47..<1 << 48, 1 << 48..<1 << 48, UInt.max - 4095..<UInt.max,
        ]
        let before = try memory.states()
        for range in wrong {
            let said = ReclaimError(
                .invalidRange, errno: EINVAL,
                range: AddressRange(start: range.lowerBound, end: range.upperBound))
            #expect(throws: said) { try ptReclaim(range: range, access: access) }
        }
        #expect(try memory.states() == before)
        // Not because nothing could be freed there.
        #expect(try ptReclaim(range: start..<end, access: .owned).tablesFreed == 1)
        #expect(memory.changedBytes() == [])
    }

    @Test(arguments: Weather.bothAccesses)
    func anEmptyRangeDoesNothing(access: Access) throws {
        for address in [0, 4096, 1 << 44, 1 << 47] as [UInt] {
            let report = try ptReclaim(range: address..<address, access: access)
            #expect(report == ReclaimReport())
        }
    }

    @Test(arguments: Weather.accesses)
    func roundsTheLengthUpToPages(access: Access) throws {
        let memory = TestMemory(2)
        try memory.map()
        try memory.makeEmptyTables()
        let (start, end) = (memory.spans.start, memory.spans.end)
        #expect(
            try ptReclaim(range: start..<end - 4096, access: access).told
                == ["freed": 1, "partial": 1])
        #expect(try memory.states() == [.absent, .empty])
        #expect(
            try ptReclaim(range: start..<end - 4095, access: access).told
                == ["freed": 1, "absent": 1])
        #expect(memory.changedBytes() == [])
    }

    /// A buffer is rounded inward: the page that it covers in part is somebody else's too.
    @Test(arguments: Weather.accesses)
    func roundsBuffersInward(access: Access) throws {
        func told(_ start: UInt, _ count: Int) throws -> [String: Int] {
            let mutable = unsafe UnsafeMutableRawBufferPointer(
                start: UnsafeMutableRawPointer(bitPattern: start), count: count)
            let constant = UnsafeRawBufferPointer(mutable)
            // Twice the same: first through the one, then through the other.
            let first = try unsafe ptReclaim(range: constant, access: access).told
            let second = try unsafe ptReclaim(range: mutable, access: access).told
            #expect(second == (first["freed"] == nil ? first : ["absent": 1]))
            return first
        }
        let memory = TestMemory(1)
        try memory.map()
        try memory.makeEmptyTables()
        let start = memory.spans.start
        let byteCount = memory.spans.range.byteCount
        for (offset, count) in [(1, Int(byteCount) - 1), (0, Int(byteCount) - 1)] {
            #expect(try told(start + UInt(offset), count) == ["partial": 1])
        }
        // Shorter than a page, and a page's length that holds no whole page.
        for (offset, count) in [(0, 0), (0, 4095), (1, 4094), (1, 4096), (4095, 2)] {
            #expect(try told(start + UInt(offset), count) == [:])
        }
        #expect(try told(0, 0) == [:])
        #expect(try memory.states() == [.empty])
        #expect(try told(start, Int(byteCount)) == ["freed": 1])
        #expect(memory.changedBytes() == [])
    }

    @Test func aBufferBeyondUserSpaceIsRefused() throws {
        let buffer = unsafe UnsafeRawBufferPointer(
            start: UnsafeRawPointer(bitPattern: UInt(1) << 47), count: 8192)
        let error = #expect(throws: ReclaimError.self) { try unsafe ptReclaim(range: buffer) }
        #expect(error?.code == .invalidRange)
        #expect(error?.errno == EINVAL)
    }

    // MARK: Holes

    // |  empty | empty |  hole  | half | page | empty |
    @Test(arguments: Weather.accesses)
    func holesAreReportedAndTheRestIsDone(access: Access) throws {
        let memory = TestMemory(6)
        try memory.map()
        try memory.makeEmptyTables()
        memory.write(4)
        try memory.unmap(2..<3)
        memory.forget(2)
        _ = ptreclaim_munmap(memory.spans[3].start, 1 << 20)
        memory.forget(3)
        let report = try ptReclaim(range: memory.range, access: access)
        #expect(report.told == ["freed": 3, "unmapped": 1, "crossesVMA": 1, "populated": 1])
        #expect(
            try memory.states() == [.absent, .absent, .absent, .empty, .populated, .absent])
        #expect(memory.changedBytes() == [])
    }

    @Test(arguments: Weather.bothAccesses)
    func aRangeThatIsAllHoleIsNoError(access: Access) throws {
        let memory = TestMemory(64)
        #expect(try ptReclaim(range: memory.range, access: access).told == ["unmapped": 64])
        // Up to the end of user space, hundreds of GiB of it.
        let end = PageGeometry.userSpaceEnd
        let report = try ptReclaim(range: end - (1 << 21)..<end, access: access)
        #expect(report.tablesFreed == 0)
        #expect(report.tablesExamined == 1)
    }

    /// |        10 TiB, of which every 5120th span has a table: 1 GiB      |
    @Test(.timeLimit(.minutes(1)), arguments: Weather.accesses)
    func tenTerabytesOfWhichOneGigabyteWasTouched(access: Access) async {
        await #expect(processExitsWith: .success) { [name = "\(access)"] in
            let access: Access = name == "owned" ? .owned : .shared
            let (start, byteCount) = (UInt(0x3000_0000_0000), UInt(10) << 40)
            try check(
                ptreclaim_mmap(start, Int(byteCount), PROT_NONE, flags | MAP_FIXED, -1, 0))
            try check(
                ptreclaim_syscall(
                    Int(SYS_mprotect), Int(start), Int(byteCount), Int(PROT_READ | PROT_WRITE), 0,
                    0, 0))
            _ = ptreclaim_madvise(start, Int(byteCount), MADV_NOHUGEPAGE)
            let tables: UInt = 512
            for number in 0..<tables {
                let address = start + number * (byteCount / tables)
                // Sound: mapped above.
                unsafe UnsafeMutablePointer<UInt8>(bitPattern: address)?.pointee = 7
                if number % 8 != 0 {
                    try check(ptreclaim_madvise(address, 4096, PTRECLAIM_MADV_DONTNEED))
                }
            }
            let report = try ptReclaim(range: start..<start + byteCount, access: access)
            let spanCount = Int(byteCount / PageGeometry.spanByteCount)
            say(
                report.told == ["freed": 448, "populated": 64, "absent": spanCount - 512],
                "\(report.told)")
            for number in stride(from: UInt(0), to: tables, by: 8) {
                let address = start + number * (byteCount / tables)
                let byte = unsafe UnsafePointer<UInt8>(bitPattern: address)?.pointee
                say(byte == 7, "\(number): \(byte ?? 0)")
            }
            // Tens of milliseconds; a walk that visits each of five million spans takes seconds.
            say(report.duration < .seconds(2), "\(report.duration)")
        }
    }

    // MARK: Kinds of memory

    /// A kind of memory: three spans of it, the first and the last of them empty tables, and a
    /// table with pages between them. What becomes of the empty ones, and how the VMA is made.
    struct Kind: Sendable, CustomTestStringConvertible {
        let name: String
        let owned: String
        let shared: String
        let make: @Sendable (TestMemory) throws -> Void
        var testDescription: String { name }

        init(
            _ name: String, owned: String = "freed", shared: String = "freed",
            _ make: @escaping @Sendable (TestMemory) throws -> Void
        ) {
            self.name = name
            self.owned = owned
            self.shared = shared
            self.make = make
        }
    }

    static func emptyFullEmpty(_ memory: TestMemory, keepsContents: Bool = false) throws {
        try memory.makeEmptyTables(0..<1, keepsContents: keepsContents)
        memory.write(1)
        try memory.makeEmptyTables(2..<3, keepsContents: keepsContents)
    }

    private static func ofFile(
        _ memory: TestMemory, _ how: Int32, _ open: () -> Int32
    ) throws {
        let file = open()
        try check(Int(file))
        defer { _ = ptreclaim_close(file) }
        try memory.map(nil, how | MAP_NORESERVE, file: file)
        try emptyFullEmpty(memory, keepsContents: how == MAP_SHARED)
    }

    /// A regular file, unlinked, of three spans.
    private static func regularFile() -> Int32 {
        var path = Array("/var/tmp/ptreclaim-XXXXXX".utf8CString)
        // Sound: mkstemp changes the six characters and nothing else.
        let file = unsafe path.withUnsafeMutableBufferPointer {
            guard let name = $0.baseAddress else { return Int32(-1) }
            let file = unsafe mkstemp(name)
            if file >= 0 { unsafe unlink(name) }
            return file
        }
        return file >= 0 && ftruncate(file, 6 << 20) == 0 ? file : -errno
    }

    static let kinds: [Kind] = [
        Kind("anonymous") { memory in
            try memory.map()
            try emptyFullEmpty(memory)
        },
        Kind("anonymous, PROT_NONE") { memory in
            try memory.map()
            try emptyFullEmpty(memory)
            try memory.protect(nil, PROT_NONE)
        },
        Kind("anonymous, MAP_GROWSDOWN") { memory in
            try memory.map(nil, flags | MAP_GROWSDOWN)
            try emptyFullEmpty(memory)
        },
        Kind("a private memfd", shared: "privateFile") { memory in
            try ofFile(memory, MAP_PRIVATE) { ptreclaim_memfd(6 << 20) }
        },
        Kind("a shared memfd") { memory in
            try ofFile(memory, MAP_SHARED) { ptreclaim_memfd(6 << 20) }
        },
        Kind("shared anonymous memory") { memory in
            try memory.map(nil, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE)
            try emptyFullEmpty(memory, keepsContents: true)
        },
        Kind("a private mapping of a regular file", shared: "privateFile") { memory in
            try ofFile(memory, MAP_PRIVATE, regularFile)
        },
        // Bytes that no write-back has reached.
        Kind("a shared mapping of a regular file") { memory in
            try ofFile(memory, MAP_SHARED, regularFile)
        },
        // Anonymous to the kernel, a file by its name.
        Kind("/dev/zero, private", shared: "privateFile") { memory in
            try ofFile(memory, MAP_PRIVATE) { unsafe ptreclaim_open("/dev/zero", O_RDWR) }
        },
    ]

    /// Plays `kind`, and checks that the report is as it says, and true.
    static func play(_ kind: Kind, _ access: Access) throws {
        let memory = TestMemory(3)
        try kind.make(memory)
        let before = try memory.states()
        say(before == [.empty, .populated, .empty], "\(kind.name): \(before)")
        let answer = access == .owned ? kind.owned : kind.shared
        let told = try ptReclaim(range: memory.range, access: access).told
        say(told == [answer: 2, "populated": 1], "\(kind.name), \(access): \(told)")
        let after = try memory.states()
        say(
            after == (answer == "freed" ? [.absent, .populated, .absent] : before),
            "\(kind.name), \(access): \(after)")
        try memory.protect(nil, PROT_READ | PROT_WRITE)
        say(memory.changedBytes() == [], "\(kind.name), \(access): bytes have changed")
    }

    @Test(arguments: kinds, Weather.accesses)
    func eachKindOfMemoryHasItsAnswer(kind: Kind, access: Access) throws {
        try Self.play(kind, access)
    }

    /// The table goes, the lock stays, and what is locked stays where it is.
    @Test(arguments: Weather.accesses)
    func lockedMemoryStaysLocked(access: Access) throws {
        func lockOnFault(_ memory: TestMemory) throws {
            try check(
                ptreclaim_syscall(
                    Int(SYS_mlock2), Int(memory.spans.start), Int(memory.spans.range.byteCount), 1,
                    0, 0, 0))
        }
        let memory = TestMemory(3)
        try memory.map()
        try lockOnFault(memory)
        try Self.emptyFullEmpty(memory)
        #expect(ptreclaim_vma_flags(memory.spans.start) & Int(PTRECLAIM_VMA_LOCKED) != 0)
        let report = try ptReclaim(range: memory.range, access: access)
        #expect(report.told == ["freed": 2, "populated": 1])
        for index in 0..<3 {
            let flags = ptreclaim_vma_flags(memory.spans[index].start)
            #expect(flags & Int(PTRECLAIM_VMA_LOCKED) != 0)
        }
        #expect(try memory.states() == [.absent, .populated, .absent])
        #expect(memory.changedBytes() == [])
    }

    /// `mremap` would take the lock away.
    @Test(.enabled(if: KernelAbilities.backends.contains(.remap), "needs mremap of Linux 5.7"))
    func remapKeepsTheTableOfLockedMemory() async {
        await #expect(processExitsWith: .success) {
            guard LiveSpace.probeBackend(preferring: .remap) == .remap else { exit(2) }
            let memory = TestMemory(2)
            try memory.map()
            try memory.makeEmptyTables()
            try check(
                ptreclaim_syscall(
                    Int(SYS_mlock2), Int(memory.spans.start), 1 << 21, 1, 0, 0, 0))
            let report = try ptReclaim(range: memory.range, access: .owned)
            say(report.backend == .remap, "\(String(describing: report.backend))")
            say(report.told == ["freed": 1, "locked": 1], "\(report.told)")
            let flags = ptreclaim_vma_flags(memory.spans.start)
            say(flags & Int(PTRECLAIM_VMA_LOCKED) != 0, "\(flags)")
            try say(memory.states() == [.empty, .absent], "\(memory.states())")
            say(memory.changedBytes() == [], "bytes have changed")
        }
    }

    // |  one guard page  |  none any more  |
    @Test(
        .enabled(if: KernelAbilities.hasGuards(.anonymous), "needs MADV_GUARD_INSTALL, Linux 6.13"),
        arguments: Weather.accesses)
    func aGuardPageKeepsItsTable(access: Access) throws {
        let (install, remove): (Int32, Int32) = (102, 103)
        let memory = TestMemory(2)
        try memory.map()
        try memory.makeEmptyTables()
        for span in 0..<2 {
            try check(ptreclaim_madvise(memory.spans[span].start + 8192, 4096, install))
        }
        try check(ptreclaim_madvise(memory.spans[1].start + 8192, 4096, remove))
        let report = try ptReclaim(range: memory.range, access: access)
        #expect(report.told == ["freed": 1, "populated": 1])
        #expect(memory.changedBytes() == [])
        // The guard still refuses: reading from it into a pipe is EFAULT.
        #expect(canRead(memory.spans[0].start + 8192) == false)
        #expect(canRead(memory.spans[0].start + 4096) == true)
    }

    /// Whether the kernel can read a byte there for us.
    private func canRead(_ address: UInt) -> Bool {
        var pipes: [Int32] = [0, 0]
        let made = unsafe pipe(&pipes)
        precondition(made == 0)
        defer { for end in pipes { close(end) } }
        return ptreclaim_syscall(Int(SYS_write), Int(pipes[1]), Int(address), 1, 0, 0, 0) == 1
    }

    // MARK: Special memory

    @Test(
        .enabled(if: Weather.hasHugePages, "needs 2 MiB pages in /proc/sys/vm/nr_hugepages"),
        arguments: Weather.bothAccesses)
    func hugetlbMemoryIsSpecial(access: Access) throws {
        try Self.playHugetlb(access)
    }

    /// - Parameter ofFile: what is told of a file's huge pages.
    static func playHugetlb(
        _ access: Access, ofFile: [String: Int] = ["specialVMA": 2]
    ) throws {
        let pages = try #require(HugePages(3))
        defer { pages.giveBack() }
        let file = Weather.makeHugeFile(byteCount: 4 << 20)
        try check(Int(file))
        defer { _ = ptreclaim_close(file) }
        let huge: Int32 = 0x40000  // MAP_HUGETLB
        for (how, descriptor) in [(flags | huge, -1), (MAP_SHARED, file), (MAP_PRIVATE, file)] {
            let memory = TestMemory(2)
            try memory.map(nil, how | MAP_NORESERVE, file: descriptor)
            memory.write(1)
            let told = try ptReclaim(range: memory.range, access: access).told
            say(told == (descriptor < 0 ? ["specialVMA": 2] : ofFile), "\(told)")
            say(memory.changedBytes() == [], "bytes have changed")
        }
    }

    /// What user space cannot fence, or must not discard, by a decision of its own.
    @Test(
        .enabled(if: Weather.canSeal, "needs mseal, Linux 6.10"), arguments: Weather.accesses)
    func sealedMemoryIsLeftToTheKernel(access: Access) throws {
        // Sealed while it can be written: discarding is allowed. It stays mapped for ever.
        let writable = TestMemory(1)
        try writable.map()
        try writable.makeEmptyTables()
        try check(writable.seal())
        #expect(try ptReclaim(range: writable.range, access: access).told == ["freed": 1])
        #expect(writable.changedBytes() == [])
        // Sealed read-only: it is not, and the fence lets go of it.
        let readOnly = TestMemory(1)
        try readOnly.map()
        try readOnly.makeEmptyTables()
        try readOnly.protect(nil, PROT_READ)
        try check(readOnly.seal())
        #expect(try ptReclaim(range: readOnly.range, access: access).told == ["backendFailed": 1])
        #expect(try readOnly.states() == [.empty])
        #expect(readOnly.changedBytes() == [])
    }

    @Test(
        .enabled(if: Weather.canDrop, "needs MAP_DROPPABLE, Linux 6.11"),
        arguments: Weather.accesses)
    func droppableMemoryCannotBeFenced(access: Access) throws {
        let memory = TestMemory(2)
        try memory.map(nil, Weather.droppable)
        try memory.makeEmptyTables()
        let told = try ptReclaim(range: memory.range, access: access).told
        #expect(told == (access == .owned ? ["freed": 2] : ["specialVMA": 2]))
        #expect(memory.changedBytes() == [])
    }

    /// Pages that the kernel itself cannot reach: their bytes are in no other place.
    @Test(
        .enabled(if: Weather.hasSecretMemory, "needs memfd_secret"), arguments: Weather.accesses)
    func secretMemoryKeepsItsBytes(access: Access) throws {
        let file = Int32(ptreclaim_syscall(Int(SYS_memfd_secret), 0, 0, 0, 0, 0, 0))
        try check(Int(file))
        defer { _ = ptreclaim_close(file) }
        try check(Int(ftruncate(file, 4 << 20)))
        let memory = TestMemory(2)
        try memory.map(nil, MAP_SHARED, file: file)
        try memory.makeEmptyTables(0..<1, keepsContents: true)
        memory.write(1)
        #expect(
            try ptReclaim(range: memory.range, access: access).told
                == ["freed": 1, "populated": 1])
        #expect(memory.changedBytes() == [])
    }

    /// A huge page is mapped by no table, and its deposited one is needed.
    @Test(.enabled(if: Weather.hasTHP, "needs transparent huge pages"), arguments: Weather.accesses)
    func aTransparentHugePageIsKept(access: Access) throws {
        let memory = TestMemory(2)
        try memory.map()
        try memory.makeEmptyTables(1..<2)
        try memory.advise(0..<1, MADV_HUGEPAGE)
        memory.write(0)
        let before = try memory.states()
        #expect(before == [.populated, .empty])
        let report = try ptReclaim(range: memory.range, access: access)
        #expect(report.told == ["freed": 1, "populated": 1])
        #expect(memory.changedBytes() == [])
    }

    /// Memory that the kernel shares with us through a descriptor: a ring of io_uring, and one of
    /// perf, which is PFN-mapped.
    @Test(.enabled(if: Weather.hasRing, "needs io_uring"), arguments: Weather.bothAccesses)
    func aRingOfIOURingIsSpecial(access: Access) throws {
        try Self.playRing(access)
    }

    static func playRing(_ access: Access) throws {
        let ring = Weather.makeRing()
        try check(Int(ring))
        defer { _ = ptreclaim_close(ring) }
        // The kernel chooses the place, so it takes two spans to have one.
        let (submissions, byteCount) = (0x1000_0000, 4 << 20)  // IORING_OFF_SQES
        let address = UInt(
            try check(
                ptreclaim_mmap(0, byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, ring, submissions))
        )
        defer { _ = ptreclaim_munmap(address, byteCount) }
        let end = address + UInt(byteCount)
        // Sound: mapped above, until this function ends.
        for place in [address, end - 1] {
            unsafe UnsafeMutablePointer<UInt8>(bitPattern: place)?.pointee = 9
        }
        let report = try ptReclaim(range: address..<end, access: access)
        let whole = AddressRange(start: address, end: end).wholeSpans.count
        say(whole > 0 && report.told["specialVMA"] == whole, "\(report.told)")
        say(report.tablesExamined == whole, "\(report.tablesExamined) of \(whole)")
        for place in [address, end - 1] {
            let byte = unsafe UnsafePointer<UInt8>(bitPattern: place)?.pointee
            say(byte == 9, "\(byte ?? 0)")
        }
    }

    @Test(.enabled(if: Weather.hasPerf, "needs perf_event_open"), arguments: Weather.bothAccesses)
    func aPFNMappedRingOfPerfIsSpecial(access: Access) throws {
        let event = Weather.makePerfEvent()
        try check(Int(event))
        defer { _ = ptreclaim_close(event) }
        // A page of control, and 2^n pages of data: two whole spans, and a page that looks pass over.
        let memory = TestMemory(3)
        try check(
            ptreclaim_mmap(
                memory.spans.start, 4096 + 4 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                event, 0))
        let told = try ptReclaim(range: memory.range, access: access).told
        #expect(told == ["specialVMA": 2, "absent": 1])
        // The control page still says where the data begin, and how long they are.
        let control = unsafe UnsafePointer<UInt64>(bitPattern: memory.spans.start)
        let (offset, size) = unsafe (control?[130], control?[131])
        #expect(offset == 4096)
        #expect(size == 4 << 20)
    }

    /// A small mapping of the kernel's own covers no span; what is beside it is not ours to touch.
    @Test(.enabled(if: Weather.hasVDSO, "needs a vdso"), arguments: Weather.bothAccesses)
    func mappingsOfTheKernelAreNotTouched(access: Access) throws {
        for name in ["[vdso]", "[vvar]"] {
            let line = try #require(Weather.mapping(named: name))
            let page = try #require(UInt(line.prefix { $0 != "-" }, radix: 16))
            let span = Span(containing: page)
            let report = try ptReclaim(range: span.start..<span.end, access: access)
            #expect(report.tablesFreed == 0)
            #expect(report.tablesExamined == 1)
            #expect(Weather.mapping(named: name) == line)
        }
        var now = timespec()
        #expect(unsafe clock_gettime(CLOCK_MONOTONIC, &now) == 0)
    }

    // MARK: Stacks

    /// Frees what it can of the stack of the calling thread: `byteCount` below the frame, emptied.
    private static func playOwnStack(_ byteCount: UInt, _ access: Access) -> String {
        let here = ptreclaim_stack_address()
        let range = emptyStack(below: here, byteCount)
        do {
            let report = try ptReclaim(range: range.start..<range.end, access: access)
            return report.told == ["ownStack": range.wholeSpans.count] ? "kept" : "\(report.told)"
        } catch {
            return "\(error)"
        }
    }

    /// Whole spans below `here` that once were stack: their tables are empty now.
    private static func emptyStack(below here: UInt, _ byteCount: UInt) -> AddressRange {
        // A stack grows by faults, far below the frames that are in use.
        let end = Span(containing: here - (1 << 16)).start
        let range = AddressRange(start: end - byteCount, end: end)
        for address in stride(from: end - 4096, through: range.start, by: -4096) {
            // Sound: inside the stack's limit, below every frame and its red zone.
            unsafe UnsafeMutablePointer<UInt8>(bitPattern: address)?.pointee = 1
        }
        for piece in stride(from: range.start, to: end, by: 1 << 18) {
            _ = ptreclaim_madvise(piece, 1 << 18, PTRECLAIM_MADV_DONTNEED)
        }
        return range
    }

    @Test(arguments: Weather.bothAccesses)
    func theCallersOwnStackIsKept(access: Access) {
        var answer = ""
        onThread(stackByteCount: 16 << 20) {
            answer = Self.playOwnStack(4 << 20, access)
            return 0
        }
        #expect(answer == "kept")
    }

    /// Since Linux 6.7 a thread's stack looks like any memory without huge pages, and merges with
    /// what is mapped above it.
    // |  stack, 2 spans  |  4 empty tables   |    one VMA
    @Test(arguments: Weather.accesses)
    func memoryThatMergedWithTheCallersStackIsNotKept(access: Access) throws {
        let memory = TestMemory(6)
        try memory.map()
        let above = memory.spans.suffix(from: memory.spans[2].start)
        var told: [String: Int] = [:]
        onThread(stackByteCount: 4 << 20, stack: memory.spans.start) {
            try? memory.makeEmptyTables(2..<6)
            told = (try? ptReclaim(range: above.start..<above.end, access: access).told) ?? [:]
            return 0
        }
        #expect(told == ["freed": 4])
    }

    /// It grows by faults, and is no mapping of pthread's.
    @Test(arguments: Weather.bothAccesses)
    func theMainThreadsOwnStackIsKept(access: Access) async {
        await #expect(processExitsWith: .success) { [name = "\(access)"] in
            var answer = "no answer"
            let isDone = MainThread.run {
                let here = Weather.mapping(at: ptreclaim_stack_address()) ?? ""
                let said = BadInputTests.playOwnStack(2 << 20, name == "owned" ? .owned : .shared)
                answer = "\(said) in \(here.split(separator: " ").last ?? "nothing")"
            }
            say(isDone && answer == "kept in [stack]", answer)
        }
    }

    /// To everybody else it is memory like any other.
    @Test(arguments: Weather.accesses)
    func theStackOfAnotherThreadIsNotKept(access: Access) {
        var told: [String: Int] = [:]
        var bytes: [UInt8] = []
        onThread(stackByteCount: 16 << 20) {
            let kept = (0..<100).map { UInt8($0) }
            let range = Self.emptyStack(below: ptreclaim_stack_address(), 4 << 20)
            onThread {
                told = (try? ptReclaim(range: range.start..<range.end, access: access).told) ?? [:]
                return 0
            }
            bytes = kept
            return 0
        }
        #expect(told == ["freed": 2])
        #expect(bytes == (0..<100).map { UInt8($0) })
    }

    // MARK: Memory that is somebody else's

    @Test(.enabled(if: Weather.hasFence, Weather.needsFence))
    func memoryOfAnotherUserfaultfdIsKept() throws {
        let memory = TestMemory(3)
        try memory.map()
        try Self.emptyFullEmpty(memory)
        let userfaultfd = try register(memory, PTRECLAIM_UFFD_REGISTER_MISSING)
        defer { _ = ptreclaim_close(userfaultfd) }
        let before = try memory.states()
        #expect(
            try ptReclaim(range: memory.range, access: .shared).told
                == ["registered": 2, "populated": 1])
        #expect(try memory.states() == before)
        #expect(
            ptreclaim_vma_flags(memory.spans.start)
                & Int(PTRECLAIM_VMA_REGISTERED) != 0)
        // Who owns the contents too needs no fence.
        #expect(
            try ptReclaim(range: memory.range, access: .owned).told
                == ["freed": 2, "populated": 1])
        _ = ptreclaim_close(userfaultfd)
        #expect(memory.changedBytes() == [])
    }

    // In a VMA registered for uffd-wp nobody can tell an empty table from none: VmPTE does.
    @Test(.enabled(if: Weather.hasFence, Weather.needsFence))
    func writeProtectedMemoryIsKeptAndItsMarkersToo() async {
        await #expect(processExitsWith: .success) {
            let memory = TestMemory(4)
            try memory.map()
            try memory.makeEmptyTables(0..<2)
            memory.write(2)
            try memory.makeEmptyTables(3..<4)
            let userfaultfd = try BadInputTests().register(memory, PTRECLAIM_UFFD_REGISTER_WP)
            // One entry of the last span is a page that is write-protected.
            unsafe UnsafeMutablePointer<UInt8>(bitPattern: memory.spans[3].start)?.pointee = 0
            var protect = WriteProtect(start: UInt64(memory.spans[3].start), byteCount: 4096)
            let isProtected = unsafe ptreclaim_ioctl(userfaultfd, 0xc018_aa06, &protect)
            try check(isProtected)
            // The first such call starts a thread, which needs memory of its own.
            try ptReclaim(range: 0..<4096, access: .shared)
            let before = ptreclaim_self_vm_pte()
            let shared = try ptReclaim(range: memory.range, access: .shared)
            say(
                shared.told == ["writeProtectRegistered": 2, "populated": 2], "\(shared.told)")
            let between = ptreclaim_self_vm_pte()
            say(between == before, "VmPTE \(before), \(between)")
            let owned = try ptReclaim(range: memory.range, access: .owned)
            say(owned.told == ["freed": 2, "populated": 2], "\(owned.told)")
            let after = ptreclaim_self_vm_pte()
            say(after == before - 2 * 4096, "VmPTE \(before), \(after)")
            let flags = ptreclaim_vma_flags(memory.spans.start)
            say(flags & Int(PTRECLAIM_VMA_WRITE_PROTECT_REGISTERED) != 0, "\(flags)")
            _ = ptreclaim_close(userfaultfd)
            say(memory.changedBytes() == [], "bytes have changed")
        }
    }

    /// `struct uffdio_writeprotect`.
    struct WriteProtect {
        var start: UInt64
        var byteCount: UInt64
        var mode: UInt64 = 1
    }

    func register(_ memory: TestMemory, _ mode: UInt64) throws -> Int32 {
        let userfaultfd = ptreclaim_open_userfaultfd()
        try check(Int(userfaultfd))
        var registration = ptreclaim_uffd_register()
        registration.range.start = UInt64(memory.spans.start)
        registration.range.len = UInt64(memory.spans.range.byteCount)
        registration.mode = mode
        let result = unsafe ptreclaim_ioctl(
            userfaultfd, PTRECLAIM_UFFDIO_REGISTER, &registration)
        try check(result)
        return userfaultfd
    }
}
