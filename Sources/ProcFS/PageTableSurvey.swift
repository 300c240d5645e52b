// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM
internal import Glibc
internal import ReclaimCore

/// One pass over a process that may go on running: what a census and a map are made from.
struct PageTableSurvey {
    let pid: Int32
    let command: String
    let vmPTEByteCount: UInt
    let maps: [MemoryMapEntry]
    /// Nil where this kernel cannot tell.
    let found: FoundTables?
    let unknown: [String]
    /// The tables found are those that the kernel counts.
    private let isConsistent: Bool

    /// Looks again if the process changed its tables meanwhile, three times at most.
    static func take(pid: Int32) throws(ProcFSError) -> PageTableSurvey {
        let attempts = 4
        for _ in 1..<attempts {
            let survey = try PageTableSurvey(pid: pid)
            if survey.isConsistent { return survey }
        }
        return try PageTableSurvey(pid: pid)
    }

    private init(pid: Int32) throws(ProcFSError) {
        self.pid = pid
        let status = try ProcFile.text("/proc/\(pid)/status")
        command = ProcessStatus.command(status)
        guard let vmPTE = status.kilobytes("VmPTE:") else {
            throw ProcFSError(code: .noMemory, errno: 0, what: "process \(pid)")
        }
        vmPTEByteCount = vmPTE
        maps = try MemoryMapEntry.read(pid: pid)
        var found: FoundTables
        do {
            found = try TableSearch(maps: maps, pid: pid).run()
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
            let protected = try VMAFlags.ranges(pid: pid, flag: "uw")
            if !protected.isEmpty {
                found.removeEmptyTables(in: protected)
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
}

/// Finds every PTE table of a process and tells the live ones from the empty ones.
private struct TableSearch: ~Copyable {
    private let pid: Int32
    private let maps: [MemoryMapEntry]
    private let scanner: PageScanner
    /// PAGEMAP_SCAN does not walk what the kernel maps by page frame: [vvar] has a table, too.
    private let kernelMade: Set<Span>
    private var hugeSpans: Set<Span> = []
    private var depositedTableCount = 0
    private var runs: [TableRun] = []

    init(maps: [MemoryMapEntry], pid: Int32) throws(ProcFSError) {
        self.pid = pid
        self.maps = maps
        scanner = try PageScanner(pid: pid)
        kernelMade = Set(
            maps.lazy.filter { $0.isKernelMade && $0.end <= PageGeometry.userSpaceEnd }
                .map { Span(containing: $0.start) })
    }

    consuming func run() throws(ProcFSError) -> FoundTables {
        try findHugePages()
        for range in try rangesWithTables() {
            var rest = range
            for span in kernelMade.sorted() where range.contains(span.range) {
                try sort(AddressRange(start: rest.start, end: span.start))
                rest.start = span.end
            }
            try sort(rest)
        }
        for span in kernelMade { runs.append(TableRun(spans: SpanRun(span), state: .live)) }
        for span in hugeSpans where !kernelMade.contains(span) {
            runs.append(TableRun(spans: SpanRun(span), state: .huge))
        }
        return FoundTables(runs: runs, depositedTableCount: depositedTableCount)
    }

    /// PAGE_IS_HUGE alone: few regions, and none in most processes.
    private mutating func findHugePages() throws(ProcFSError) {
        let hugetlb = try hugetlbRanges()
        var spans: Set<Span> = []
        var deposited = 0
        try scanner.forEach(
            in: PageScanner.userSpace,
            .init(
                all: PTRECLAIM_PAGE_IS_HUGE,
                returned: PTRECLAIM_PAGE_IS_HUGE | PTRECLAIM_PAGE_IS_FILE)
        ) { region in
            let run = AddressRange(start: region.start, end: region.end).wholeSpans
            for index in 0..<run.count {
                let span = run[index]
                guard spans.insert(span).inserted else { continue }
                let isHugetlb = hugetlb.contains { $0.start <= span.start && span.start < $0.end }
                if !isHugetlb, region.categories & PTRECLAIM_PAGE_IS_FILE == 0 { deposited += 1 }
            }
        }
        hugeSpans = spans
        depositedTableCount = deposited
    }

    /// Whole spans. Neighbouring VMAs may share a table: each span is listed once.
    private func rangesWithTables() throws(ProcFSError) -> [AddressRange] {
        var ranges: [AddressRange] = []
        try scanner.forEach(
            in: PageScanner.userSpace,
            .init(all: PTRECLAIM_PAGE_IS_WRITTEN, returned: PTRECLAIM_PAGE_IS_WRITTEN)
        ) { region in
            let start = Span(containing: region.start).start
            let end = Span(containing: region.end - 1).end
            if let last = ranges.last, start <= last.end {
                ranges[ranges.count - 1].end = max(last.end, end)
            } else {
                ranges.append(AddressRange(start: start, end: end))
            }
        }
        return ranges
    }

    /// Tells live from empty in a range of spans that all have a table.
    private mutating func sort(_ range: AddressRange) throws(ProcFSError) {
        var rest = range
        while !rest.isEmpty {
            let live = try scanner.first(in: rest, PageScanner.live).map { Span(containing: $0) }
            append(AddressRange(start: rest.start, end: live?.start ?? rest.end), .empty)
            guard let live else { return }
            if !hugeSpans.contains(live) { append(live.range, .live) }
            rest.start = live.end
        }
    }

    /// Lengthens the last run, or begins one.
    private mutating func append(_ range: AddressRange, _ state: TableRun.State) {
        guard !range.isEmpty else { return }
        if let last = runs.last, last.state == state, last.spans.end == range.start {
            runs[runs.count - 1] = TableRun(
                spans: AddressRange(start: last.spans.start, end: range.end).wholeSpans,
                state: state)
        } else {
            runs.append(TableRun(spans: range.wholeSpans, state: state))
        }
    }

    /// Hugetlb pages have no PTE table, not even a deposited one.
    private func hugetlbRanges() throws(ProcFSError) -> [AddressRange] {
        let file = try ProcFile("/proc/\(pid)/maps")
        var ranges: [AddressRange] = []
        for vma in maps where vma.end <= PageGeometry.userSpaceEnd {
            var query = ptreclaim_procmap_query()
            query.query_addr = UInt64(vma.start)
            let result = unsafe ptreclaim_procmap_query(file.descriptor, &query)
            if result == -Int(ENOTTY) { return try VMAFlags.ranges(pid: pid, flag: "ht") }
            if result == 0, query.vma_page_size != UInt64(PageGeometry.pageByteCount) {
                ranges.append(AddressRange(start: vma.start, end: vma.end))
            }
        }
        return ranges
    }
}

/// The two-letter flags of smaps.
private enum VMAFlags {
    /// VMAs with `flag`. The kernel walks all pages for it: slow.
    static func ranges(pid: Int32, flag: Substring) throws(ProcFSError) -> [AddressRange] {
        var ranges: [AddressRange] = []
        var current: MemoryMapEntry?
        try ProcFile.forEachLine("/proc/\(pid)/smaps") { line in
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
