// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM
internal import Glibc
internal import ReclaimCore

/// One look at the page tables of a process: what its live pages need, and what is waste.
///
/// PAGEMAP_SCAN calls a none entry inside an existing table *written* and does not mention
/// a missing table. So one scan lists the tables, without stopping the process, and a second one
/// stops at the first live page of each. About one system call for each live table; holes of
/// terabytes cost nothing.
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
        let attempts = 4
        for attempt in 1...attempts {
            let sample = try Sample(pid: pid)
            guard sample.isConsistent || attempt == attempts else { continue }
            return PageTableCensus(sample, pid: pid)
        }
        preconditionFailure("the last attempt returns")
    }

    private init(_ sample: Sample, pid: Int32) {
        self.pid = pid
        command = sample.command
        vmPTEByteCount = sample.vmPTE
        unknown = sample.unknown
        guard let found = sample.found else {
            neededByteCount = nil
            pmdPUDByteCount = nil
            tables = Tables(live: nil, empty: nil, reclaimable: nil)
            worst = []
            return
        }
        neededByteCount = UInt(found.neededTableCount) * PageGeometry.pageByteCount
        pmdPUDByteCount = UInt(found.upperTableCount) * PageGeometry.pageByteCount
        let byVMA = found.emptyTables(in: sample.maps)
        tables = Tables(
            live: found.live.count, empty: found.empty.count, reclaimable: byVMA.reclaimable)
        worst = byVMA.worst
    }
}

/// The tables found in one pass.
private struct FoundTables {
    /// Spans with a PTE table, lowest first.
    var live: [Span] = []
    var empty: [Span] = []
    /// Spans mapped by a huge page. Anonymous ones have a table deposited for the day they split.
    var hugeSpans: [Span] = []
    var depositedTableCount = 0

    /// PMD and PUD tables above `spans`: a table each for every GiB and every 512 GiB touched.
    private func upperTables(above spans: [Span]) -> Int {
        let gigabytes = Set(spans.map { $0.start / PageGeometry.pmdTableByteCount })
        let puds = Set(spans.map { $0.start / PageGeometry.pudTableByteCount })
        return gigabytes.count + puds.count
    }

    var upperTableCount: Int { upperTables(above: live + empty + hugeSpans) }

    var neededTableCount: Int {
        live.count + depositedTableCount + upperTables(above: live + hugeSpans)
    }

    var tableCount: Int { live.count + empty.count + depositedTableCount + upperTableCount }

    func emptyTables(
        in maps: [MemoryMapEntry]
    ) -> (reclaimable: Int, worst: [PageTableCensus.WorstRange]) {
        var counts: [Int: Int] = [:]
        var reclaimable = 0
        var index = 0
        for span in empty {
            while index < maps.count, maps[index].end <= span.start { index += 1 }
            guard index < maps.count, maps[index].start < span.end else { continue }
            counts[index, default: 0] += 1
            let vma = maps[index]
            if vma.start <= span.start, span.end <= vma.end { reclaimable += 1 }
        }
        let worst = counts.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.prefix(10).map {
            PageTableCensus.WorstRange(
                start: maps[$0.key].start, end: maps[$0.key].end, emptyTables: $0.value,
                name: maps[$0.key].name)
        }
        return (reclaimable, worst)
    }
}

/// One pass over a process that may go on running.
private struct Sample {
    let command: String
    let vmPTE: UInt
    let maps: [MemoryMapEntry]
    let found: FoundTables?
    let unknown: [String]
    /// The tables found are those that the kernel counts.
    let isConsistent: Bool

    init(pid: Int32) throws(ProcFSError) {
        let status = try ProcFile.text("/proc/\(pid)/status")
        command = ProcessStatus.command(status)
        guard let vmPTE = status.kilobytes("VmPTE:") else {
            throw ProcFSError(code: .noMemory, errno: 0, what: "process \(pid)")
        }
        self.vmPTE = vmPTE
        maps = try MemoryMapEntry.read(pid: pid)
        let pagemap = try ProcFile("/proc/\(pid)/pagemap")
        var found: FoundTables
        do {
            found = try Self.find(pagemap, maps, pid: pid)
        } catch  where error.errno == ENOTTY {
            self.found = nil
            unknown = [
                "This kernel cannot tell an empty table from a missing one (PAGEMAP_SCAN, 6.7)."
            ]
            isConsistent = true
            return
        }
        let counted = Int(vmPTE / PageGeometry.pageByteCount)
        if found.tableCount > counted {
            // Holes in VMAs registered for uffd-wp read as written, too.
            let protected = try Self.writeProtectedRanges(pid: pid)
            if !protected.isEmpty {
                found.empty.removeAll { span in
                    protected.contains { $0.start < span.end && span.start < $0.end }
                }
                self.found = found
                unknown = [
                    "\(protected.count) VMAs are registered for uffd-wp: their empty tables cannot "
                        + "be told from missing ones and are not listed."
                ]
                isConsistent = true
                return
            }
        }
        self.found = found
        isConsistent = found.tableCount == counted
        unknown =
            isConsistent
            ? []
            : [
                "The process changed while it was looked at: "
                    + "\(found.tableCount) tables found, \(counted) counted by the kernel."
            ]
    }

    private static func find(
        _ pagemap: borrowing ProcFile, _ maps: [MemoryMapEntry], pid: Int32
    ) throws(ProcFSError) -> FoundTables {
        var found = FoundTables()
        let hugetlb = try hugetlbRanges(maps, pid: pid)
        var hugeSpans: Set<Span> = []
        // PAGE_IS_HUGE alone: few regions, and none in most processes.
        try pagemap.scanAll(
            .init(
                start: 0, end: PageGeometry.userSpaceEnd - PageGeometry.pageByteCount,
                categoryMask: PTRECLAIM_PAGE_IS_HUGE,
                returned: PTRECLAIM_PAGE_IS_HUGE | PTRECLAIM_PAGE_IS_FILE)
        ) { region in
            let spans = AddressRange(start: region.start, end: region.end).wholeSpans
            for index in 0..<spans.count {
                let span = spans[index]
                guard hugeSpans.insert(span).inserted else { continue }
                found.hugeSpans.append(span)
                let isHugetlb = hugetlb.contains { $0.start <= span.start && span.start < $0.end }
                if !isHugetlb, region.categories & PTRECLAIM_PAGE_IS_FILE == 0 {
                    found.depositedTableCount += 1
                }
            }
        }
        var runs: [AddressRange] = []
        try pagemap.scanAll(
            .init(
                start: 0, end: PageGeometry.userSpaceEnd - PageGeometry.pageByteCount,
                categoryMask: PTRECLAIM_PAGE_IS_WRITTEN, returned: PTRECLAIM_PAGE_IS_WRITTEN)
        ) { region in
            // Neighbouring VMAs may share a table: each span is listed once.
            let start = Span(containing: region.start).start
            let end = Span(containing: region.end - 1).end
            if let last = runs.last, start < last.end {
                runs[runs.count - 1] = AddressRange(start: last.start, end: max(last.end, end))
            } else {
                runs.append(AddressRange(start: start, end: end))
            }
        }
        for run in runs {
            try sort(run, into: &found, pagemap, hugeSpans)
        }
        addKernelMade(maps, to: &found)
        return found
    }

    /// Tells live from empty in a run of spans that all have a table.
    private static func sort(
        _ run: AddressRange, into found: inout FoundTables, _ pagemap: borrowing ProcFile,
        _ hugeSpans: Set<Span>
    ) throws(ProcFSError) {
        var position = run.start
        while position < run.end {
            let hit = try pagemap.scan(
                .init(
                    start: position, end: run.end,
                    anyOf: PTRECLAIM_PAGE_IS_PRESENT | PTRECLAIM_PAGE_IS_SWAPPED,
                    returned: PTRECLAIM_PAGE_IS_PRESENT | PTRECLAIM_PAGE_IS_SWAPPED, maxPages: 1)
            ).regions.first
            let live = hit.map { Span(containing: $0.start) }
            var span = Span(containing: position)
            while span.start < run.end, live.map({ span < $0 }) ?? true {
                found.empty.append(span)
                span = Span(containing: span.end)
            }
            guard let live else { return }
            if !hugeSpans.contains(live) { found.live.append(live) }
            position = live.end
        }
    }

    /// PAGEMAP_SCAN does not walk what the kernel maps by page frame: [vvar] has a table too.
    private static func addKernelMade(_ maps: [MemoryMapEntry], to found: inout FoundTables) {
        for vma in maps where vma.isKernelMade && vma.end <= PageGeometry.userSpaceEnd {
            let span = Span(containing: vma.start)
            guard !found.live.contains(span) else { continue }
            found.empty.removeAll { $0 == span }
            found.live.append(span)
        }
    }

    /// Hugetlb pages have no PTE table, not even a deposited one.
    private static func hugetlbRanges(
        _ maps: [MemoryMapEntry], pid: Int32
    ) throws(ProcFSError) -> [AddressRange] {
        let file = try ProcFile("/proc/\(pid)/maps")
        var ranges: [AddressRange] = []
        for vma in maps where vma.end <= PageGeometry.userSpaceEnd {
            var query = ptreclaim_procmap_query()
            query.query_addr = UInt64(vma.start)
            let result = unsafe ptreclaim_procmap_query(file.descriptor, &query)
            if result == -Int(ENOTTY) {
                return try smapsRanges(pid: pid, flag: "ht")
            }
            if result == 0, query.vma_page_size != UInt64(PageGeometry.pageByteCount) {
                ranges.append(AddressRange(start: vma.start, end: vma.end))
            }
        }
        return ranges
    }

    private static func writeProtectedRanges(pid: Int32) throws(ProcFSError) -> [AddressRange] {
        try smapsRanges(pid: pid, flag: "uw")
    }

    /// VMAs with one of the two-letter flags of smaps. The kernel walks all pages for it: slow.
    private static func smapsRanges(
        pid: Int32, flag: Substring
    ) throws(ProcFSError) -> [AddressRange] {
        var ranges: [AddressRange] = []
        var current: MemoryMapEntry?
        for line in try ProcFile.text("/proc/\(pid)/smaps").split(separator: "\n") {
            if let entry = MemoryMapEntry(line: line) {
                current = entry
            } else if line.hasPrefix("VmFlags:"), let vma = current,
                line.split(separator: " ").contains(flag)
            {
                ranges.append(AddressRange(start: vma.start, end: vma.end))
            }
        }
        return ranges
    }
}
