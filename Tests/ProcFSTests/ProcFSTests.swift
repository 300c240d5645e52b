// SPDX-License-Identifier: Apache-2.0

import Foundation
import ProcFS
import TestSupport
import Testing

let canSeeTables =
    (try? PageTableCensus.take(pid: getpid()))?.tables.live != nil

let mayHaveHugePages =
    (try? String(
        contentsOfFile: "/sys/kernel/mm/transparent_hugepage/enabled", encoding: .utf8))
    .map { !$0.contains("[never]") } ?? false

@Suite struct CensusTests {
    @Test("the parts add up to VmPTE in a process that sleeps", .enabled(if: canSeeTables))
    func partsAddUp() async throws {
        try await withSleep { pid in
            let census = try PageTableCensus.take(pid: pid)
            #expect(census.command == "sleep")
            // The second oracle: the kernel's own count of bytes.
            let status = try String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)
            let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("VmPTE:") })
            let kilobytes = try #require(UInt(line.split { !$0.isNumber }.joined()))
            #expect(census.vmPTEByteCount == kilobytes * 1024)
            let live = UInt(try #require(census.tables.live))
            let upper = try #require(census.pmdPUDByteCount)
            #expect(census.tables.empty == 0)
            #expect(live * 4096 + upper == census.vmPTEByteCount)
            // No tables above nothing: what is needed, counted from below, is all of VmPTE.
            #expect(census.neededByteCount == census.vmPTEByteCount)
            #expect(census.wasteByteCount == 0)
            #expect(census.unknown.isEmpty)
        }
    }

    @Test("a purge in pieces leaves 32 empty tables of 32", .enabled(if: canSeeTables))
    func purgeInPieces() async {
        await #expect(processExitsWith: .success) {
            let before = try PageTableCensus.take(pid: getpid())
            let window = Window(spans: 32, advice: 15)
            window.touch(window.everyPage)
            let full = try PageTableCensus.take(pid: getpid())
            #expect(!full.worst.contains { $0.start == window.start })
            #expect(try #require(full.tables.live) >= (try #require(before.tables.live)) + 32)
            window.purge(window.everyPage)
            let purged = try PageTableCensus.take(pid: getpid())
            let worst = try #require(purged.worst.first { $0.start == window.start })
            #expect(worst.end == window.end)
            #expect(worst.emptyTables == 32)
            #expect(try #require(purged.tables.empty) == (try #require(full.tables.empty)) + 32)
            #expect(
                try #require(purged.tables.reclaimable)
                    == (try #require(full.tables.reclaimable)) + 32)
            let waste = try #require(purged.wasteByteCount)
            #expect(waste >= (try #require(full.wasteByteCount)) + 32 * 4096)
        }
    }

    @Test("one page keeps one table live, at either end of it", .enabled(if: canSeeTables))
    func onePageKeepsATable() async {
        await #expect(processExitsWith: .success) {
            let window = Window(spans: 8, advice: 15)
            window.touch(window.everyPage)
            window.purge(window.everyPage)
            window.touch([0, 5 * Window.spanByteCount - 4096, 7 * Window.spanByteCount])
            let census = try PageTableCensus.take(pid: getpid())
            #expect(census.worst.first { $0.start == window.start }?.emptyTables == 5)
        }
    }

    @Test("spans without a table are not empty tables", .enabled(if: canSeeTables))
    func holesAreNotTables() async {
        await #expect(processExitsWith: .success) {
            let window = Window(spans: 8, advice: 15)
            window.touch([2 * Window.spanByteCount])
            window.purge([2 * Window.spanByteCount])
            let census = try PageTableCensus.take(pid: getpid())
            #expect(census.worst.first { $0.start == window.start }?.emptyTables == 1)
        }
    }

    @Test(
        "a huge page needs its deposited table, and has no live one",
        .enabled(if: canSeeTables && mayHaveHugePages, "needs transparent huge pages"))
    func hugePages() async {
        await #expect(processExitsWith: .success) {
            // The first census takes memory that the later ones find taken.
            _ = try PageTableCensus.take(pid: getpid())
            let window = Window(spans: 8, advice: 14)
            let before = try PageTableCensus.take(pid: getpid())
            window.touch(stride(from: 0, to: window.byteCount, by: Window.spanByteCount))
            let after = try PageTableCensus.take(pid: getpid())
            let needed = Int(try #require(after.neededByteCount))
            let growth = needed - Int(try #require(before.neededByteCount))
            // Eight deposited tables, no live ones, and at most two tables above them.
            #expect((8 * 4096...12 * 4096).contains(growth), "\(growth)")
            let live = try #require(after.tables.live) - (try #require(before.tables.live))
            #expect((0...2).contains(live), "\(live)")
            #expect(after.worst.allSatisfy { $0.start != window.start })
        }
    }

    @Test(
        "a process without memory of its own is an error that says so",
        arguments: [
            (pid: Int32(2), words: "kernel thread"), (pid: Int32.max, words: "no such process"),
        ])
    func errors(pid: Int32, words: String) throws {
        let error = try #require(throws: ProcFSError.self) { try PageTableCensus.take(pid: pid) }
        #expect("\(error)".contains(words))
        #expect(throws: ProcFSError.self) { try ProcessStatus.read(pid: pid) }
    }
}

@Suite struct ProcessStatusTests {
    @Test("sizes, VMAs and command are those that procfs shows")
    func figures() async throws {
        try await withSleep { pid in
            let status = try ProcessStatus.read(pid: pid)
            let maps = try String(contentsOfFile: "/proc/\(pid)/maps", encoding: .utf8)
            let lines = maps.split(separator: "\n").filter { !$0.hasSuffix("[vsyscall]") }
            #expect(status.command == "sleep")
            #expect((lines.count...lines.count + 1).contains(status.vmaCount))
            #expect(status.rssByteCount > 0)
            #expect(status.rssByteCount < status.vmSizeByteCount)
            #expect(status.vmPTEByteCount % 4096 == 0)
        }
    }

    @Test("CPU time grows by the time that was burnt, and finer than a tick")
    func cpuTime() throws {
        let before = try ProcessStatus.read(pid: getpid()).cpuSeconds
        let end = clock() + clock_t(CLOCKS_PER_SEC / 20)
        while clock() < end {}
        let burnt = try ProcessStatus.read(pid: getpid()).cpuSeconds - before
        #expect(burnt >= 0.049)
        #expect((burnt * 100).truncatingRemainder(dividingBy: 1) != 0)
    }
}

@Suite(.enabled(if: Masquerader.isPossible, "needs python3"))
struct StrangeNameTests {
    @Test("a name that ends with a carriage return hides no mapping and no other line")
    func carriageReturn() async throws {
        try await Masquerader.withNames(command: "name\r") { pid in
            let status = try ProcessStatus.read(pid: pid)
            #expect(status.command == "name\r")
            // Not by Foundation, which stops at a short read.
            let maps = try await Victim.run(["/bin/cat", "/proc/\(pid)/maps"]).output
            #expect(maps.utf8.contains(UInt8(ascii: "\r")))
            #expect(status.vmaCount == maps.utf8.count { $0 == UInt8(ascii: "\n") })
            #expect(try ProcessGlance(pid: pid).command == "name\r")
            #expect(try PageTableCensus.take(pid: pid).command == "name\r")
        }
    }

    @Test("a name that joins with the parenthesis behind it does not hide when a process started")
    func prependedSign() async throws {
        // U+0600 makes one Character with what follows.
        try await Masquerader.withNames(command: "name\u{600}") { first in
            try await Masquerader.withNames(command: "name\u{600}") { second in
                let identity = try ProcessIdentity(pid: first)
                #expect(!identity.isSameProcess(as: try ProcessIdentity(pid: second)))
                #expect(identity.isSameProcess(as: try ProcessIdentity(pid: first)))
            }
        }
    }
}

@Suite struct ProcessListTests {
    @Test("of a command line that is very long the beginning is taken")
    func longCommandLine() async throws {
        let victim = try Victim.start([
            "/bin/sleep", "600", String(repeating: "0", count: 100_000),
        ])
        // The kernel lets the parent go on before the new program has its arguments.
        var patience = Patience(.seconds(10))
        var line = ProcessList.commandLine(pid: victim.pid)
        while !line.hasPrefix("/bin/sleep"), !patience.isOver {
            try await patience.wait()
            line = ProcessList.commandLine(pid: victim.pid)
        }
        _ = try await victim.end(within: .zero)
        #expect(line.hasPrefix("/bin/sleep 600 0") && line.utf8.count == 4096, "\(line.utf8.count)")
    }
}

@Suite struct StatsPageTests {
    @Test("a process without the library has no page, and the error says so")
    func noLibrary() async throws {
        try await withSleep { pid in
            let error = try #require(throws: ProcFSError.self) { try StatsPage.read(pid: pid) }
            #expect("\(error)".contains("ptreclaim"))
        }
    }
    @Test(
        "the page is found by the ID of any thread",
        .enabled(if: Masquerader.isPossible, "needs python3"))
    func thread() async throws {
        try await Masquerader.withPage { pid in
            let threads = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task")
            let other = try #require(threads.compactMap { Int32($0) }.first { $0 != pid })
            #expect(try StatsPage.read(pid: other).mode == "scan")
        }
    }
}
