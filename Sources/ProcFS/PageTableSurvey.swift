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
///
/// From live page to live page, a table at a time: a table that is full costs one look at its first
/// entry. What lies between is missing or empty, and PAGEMAP_SCAN calls a none entry inside an
/// existing table *written* and does not mention a missing table.
private struct TableSearch: ~Copyable {
    private let pid: Int32
    private let maps: [MemoryMapEntry]
    private let scanner: PageScanner
    private var depositedTableCount = 0
    private var runs: [TableRun] = []
    /// Asked for when the first huge page is found.
    private var hugetlbRanges: [AddressRange]?

    private static let firstPage = PageScanner.Filter(
        any: PageScanner.live.any,
        returned: PageScanner.live.any | PTRECLAIM_PAGE_IS_HUGE | PTRECLAIM_PAGE_IS_FILE)

    private static let inTables = PageScanner.Filter(
        all: PTRECLAIM_PAGE_IS_WRITTEN, returned: PTRECLAIM_PAGE_IS_WRITTEN)

    init(maps: [MemoryMapEntry], pid: Int32) throws(ProcFSError) {
        self.pid = pid
        self.maps = maps
        scanner = try PageScanner(pid: pid)
    }

    consuming func run() throws(ProcFSError) -> FoundTables {
        var rest = PageScanner.userSpace
        for span in kernelMade {
            try search(AddressRange(start: rest.start, end: span.start))
            append(span.range, .live)
            rest.start = span.end
        }
        try search(rest)
        return FoundTables(runs: runs, depositedTableCount: depositedTableCount)
    }

    /// PAGEMAP_SCAN does not walk what the kernel maps by page frame: [vvar] has a table, too.
    private var kernelMade: [Span] {
        Set(
            maps.lazy.filter { $0.isKernelMade && $0.end < PageGeometry.userSpaceEnd }
                .map { Span(containing: $0.start) }
        ).sorted()
    }

    /// - Parameter range: begins with a span.
    private mutating func search(_ range: AddressRange) throws(ProcFSError) {
        var rest = range
        while !rest.isEmpty {
            let page = try scanner.first(in: rest, Self.firstPage)
            let span = page.map { Span(containing: $0.start) }
            let gap = AddressRange(start: rest.start, end: span?.start ?? rest.end)
            if !gap.isEmpty { try listEmptyTables(in: gap) }
            guard let page, let span else { return }
            if page.categories & PTRECLAIM_PAGE_IS_HUGE == 0 {
                append(span.range, .live)
            } else {
                append(span.range, .huge)
                if try hasDepositedTable(page, span) { depositedTableCount += 1 }
            }
            rest.start = min(span.end, rest.end)
        }
    }

    private mutating func listEmptyTables(in gap: AddressRange) throws(ProcFSError) {
        var found: [AddressRange] = []
        try scanner.forEach(in: gap, Self.inTables) { region in
            // Neighbouring VMAs may share a table: each span is listed once.
            let start = Span(containing: region.start).start
            let end = Span(containing: region.end - 1).end
            if let last = found.last, start <= last.end {
                found[found.count - 1].end = max(last.end, end)
            } else {
                found.append(AddressRange(start: start, end: end))
            }
        }
        for range in found { append(range, .empty) }
    }

    /// Anonymous huge pages have one; hugetlb pages have not.
    private mutating func hasDepositedTable(
        _ page: PageScanner.Region, _ span: Span
    ) throws(ProcFSError) -> Bool {
        guard page.categories & PTRECLAIM_PAGE_IS_FILE == 0 else { return false }
        if hugetlbRanges == nil { hugetlbRanges = try findHugetlbRanges() }
        let hugetlb = hugetlbRanges ?? []
        return !hugetlb.contains { $0.start <= span.start && span.start < $0.end }
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

    private func findHugetlbRanges() throws(ProcFSError) -> [AddressRange] {
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
