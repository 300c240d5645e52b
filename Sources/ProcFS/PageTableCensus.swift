// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

/// One look at the page tables of a process: what its live pages need, and what is waste.
///
/// Looks without stopping the process. About one system call for each live table and for each gap
/// between them; holes of terabytes cost nothing.
public struct PageTableCensus: Sendable {
    public struct Tables: Sendable {
        /// PTE tables with at least one entry that is not none.
        public let live: Int?
        /// PTE tables whose 512 entries are all none.
        public let empty: Int?
        /// Empty tables whose span lies wholly inside one VMA.
        public let reclaimable: Int?
    }

    /// A VMA and the empty tables that begin in it.
    public struct WorstRange: Sendable {
        public let start: UInt
        public let end: UInt
        public let emptyTables: Int
        public let name: String
    }

    public let pid: Int32
    public let command: String
    /// The kernel's own count of PTE, PMD and PUD tables.
    public let vmPTEByteCount: UInt
    /// What the live pages need: their PTE tables, the PMD and PUD tables above them, and the
    /// table that the kernel deposits for each anonymous huge page. Nil where unknown.
    public let neededByteCount: UInt?
    public let tables: Tables
    /// PMD and PUD tables that exist.
    public let pmdPUDByteCount: UInt?
    /// At most ten, most empty tables first.
    public let worst: [WorstRange]
    /// What could not be told, in sentences.
    public let unknown: [String]

    /// VmPTE minus what live pages need. Nil where unknown.
    public var wasteByteCount: UInt? {
        neededByteCount.map { vmPTEByteCount > $0 ? vmPTEByteCount - $0 : 0 }
    }

    /// Waste in percent of VmPTE. Nil where unknown.
    public var wastePercent: Double? {
        wasteByteCount.map {
            vmPTEByteCount == 0 ? 0 : Double($0) * 100 / Double(vmPTEByteCount)
        }
    }

    /// Looks at `pid`, again if the process changed its tables meanwhile.
    /// - Throws: `.unreadable` with EACCES or EPERM where one may not ptrace the process, ENOENT or
    ///   ESRCH where it has ended; `.noMemory` for kernel threads.
    public static func take(pid: Int32) throws(ProcFSError) -> PageTableCensus {
        PageTableCensus(try PageTableSurvey.take(pid: pid))
    }

    init(_ survey: PageTableSurvey) {
        pid = survey.pid
        command = survey.command
        vmPTEByteCount = survey.vmPTEByteCount
        unknown = survey.unknown
        guard let found = survey.found else {
            neededByteCount = nil
            pmdPUDByteCount = nil
            tables = Tables(live: nil, empty: nil, reclaimable: nil)
            worst = []
            return
        }
        neededByteCount = UInt(found.neededTableCount) * PageGeometry.pageByteCount
        pmdPUDByteCount = UInt(found.upperTableCount) * PageGeometry.pageByteCount
        let (reclaimable, worst) = Self.emptyTables(of: found, in: survey.maps)
        tables = Tables(
            live: found.liveCount, empty: found.emptyCount, reclaimable: reclaimable)
        self.worst = worst
    }

    /// Those that lie inside one VMA, and the VMAs in which most begin.
    private static func emptyTables(
        of found: FoundTables, in maps: [MemoryMapEntry]
    ) -> (reclaimable: Int, worst: [WorstRange]) {
        var ranges: [WorstRange] = []
        var reclaimable = 0
        var index = 0
        var countInVMA = 0
        func close() {
            guard countInVMA > 0 else { return }
            let vma = maps[index]
            ranges.append(
                WorstRange(
                    start: vma.start, end: vma.end, emptyTables: countInVMA, name: vma.name))
            countInVMA = 0
        }
        for run in found.runs where run.state == .empty {
            for number in 0..<run.spans.count {
                let span = run.spans[number]
                while index < maps.count, maps[index].end <= span.start {
                    close()
                    index += 1
                }
                guard index < maps.count, maps[index].start < span.end else { continue }
                countInVMA += 1
                let vma = maps[index]
                if vma.start <= span.start, span.end <= vma.end { reclaimable += 1 }
            }
        }
        if index < maps.count { close() }
        let worst = ranges.sorted { ($1.emptyTables, $0.start) < ($0.emptyTables, $1.start) }
        return (reclaimable, Array(worst.prefix(10)))
    }
}
