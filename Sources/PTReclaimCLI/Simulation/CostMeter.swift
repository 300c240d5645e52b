// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM
internal import PageTableSimulator
internal import ReclaimCore
internal import Synchronization

/// Measures each `Cost` on the running machine, in mappings of its own. Needs no privilege.
struct CostMeter {
    /// Nanoseconds: the median of many, and the quarters around it.
    struct Figure {
        var median: Double
        var low: Double
        var high: Double
        var count: Int
    }

    private(set) var figures: [Cost: Figure] = [:]
    /// Why a cost could not be measured.
    private(set) var missing: [Cost: String] = [:]

    private var samples: [Cost: [Double]] = [:]
    private let spanCount = 512
    /// What two readings of the clock take by themselves.
    private let clock: Double

    private let span = Int(PageGeometry.spanByteCount)
    private static let page = Int(PageGeometry.pageByteCount)
    private static let extent = 16 * page

    init() {
        clock = Self.median(
            (0..<1000).map { _ in
                let before = ptreclaim_monotonic_nanoseconds()
                return Double(ptreclaim_monotonic_nanoseconds() - before)
            })
    }

    /// - Throws: `CostMeterError` where there is no memory.
    mutating func measure(rounds: Int) throws(CostMeterError) {
        for _ in 0..<rounds {
            try measureFaults()
            try measureFrees()
            try measureLooks()
            try measureExtents()
            measureCall()
            try measureFence()
            countPages()
        }
        for (cost, values) in samples where missing[cost] == nil {
            let sorted = values.sorted()
            figures[cost] = Figure(
                median: max(0, Self.median(values)), low: max(0, sorted[sorted.count / 4]),
                high: max(0, sorted[sorted.count * 3 / 4]), count: sorted.count)
        }
    }

    // MARK: Memory

    /// A fresh mapping of whole spans, whose PMD table is there.
    private func map() throws(CostMeterError) -> Field {
        try Field(spanCount: spanCount)
    }

    private func time(_ body: () -> Void) -> Double {
        let before = ptreclaim_monotonic_nanoseconds()
        body()
        return Double(ptreclaim_monotonic_nanoseconds() - before) - clock
    }

    private mutating func add(_ cost: Cost, _ value: Double) {
        samples[cost, default: []].append(value)
    }

    // MARK: Tables

    private mutating func measureFaults() throws(CostMeterError) {
        let field = try map()
        defer { field.unmap() }
        for span in 0..<spanCount {
            let first = time { field.touch(span, page: 0) }
            let second = time { field.touch(span, page: 1) }
            add(.buildTable, first - second)
        }
    }

    private mutating func measureFrees() throws(CostMeterError) {
        let field = try map()
        let scratch = try Field(spanCount: 1)
        defer {
            field.unmap()
            scratch.unmap()
        }
        for span in 0..<spanCount {
            let start = field.address(span)
            add(.systemCall, time { _ = ptreclaim_madvise(start, Self.page, 4) })
        }
        field.makeEmptyTables()
        let before = ptreclaim_self_vm_pte()
        for span in 0..<spanCount {
            let start = field.address(span)
            add(.freeTable, time { _ = ptreclaim_madvise(start, self.span, 4) })
        }
        if before - ptreclaim_self_vm_pte() < spanCount * Self.page * 9 / 10 {
            missing[.freeTable] = "MADV_DONTNEED frees no table on this kernel"
            missing[.freeTableInRun] = missing[.freeTable]
        }
        field.makeEmptyTables()
        let run = time { _ = ptreclaim_madvise(field.start, spanCount * self.span, 4) }
        add(.freeTableInRun, run / Double(spanCount))
        measureMoves(field, scratch.start)
    }

    private mutating func measureMoves(_ field: Field, _ scratch: UInt) {
        field.makeEmptyTables()
        for span in 0..<spanCount {
            let start = field.address(span)
            var result = 0
            let took = time {
                result = ptreclaim_mremap(
                    start, self.span, self.span,
                    PTRECLAIM_MREMAP_MAYMOVE | PTRECLAIM_MREMAP_FIXED | PTRECLAIM_MREMAP_DONTUNMAP,
                    scratch)
                _ = ptreclaim_mmap(scratch, self.span, 0, 0x4032, -1, 0)
            }
            guard result > 0 else {
                missing[.moveTable] = "mremap: errno \(-result)"
                return
            }
            add(.moveTable, took)
        }
    }

    // MARK: Looks

    private mutating func measureLooks() throws(CostMeterError) {
        let looks: [Cost] = [
            .readEntry, .lookAtEmptyTable, .lookAtPopulatedTable, .lookAtNothing,
        ]
        let pagemap = ptreclaim_open_self_pagemap()
        guard pagemap >= 0, ptreclaim_probe_pagemap_scan(pagemap) else {
            for cost in looks { missing[cost] = "this kernel has no PAGEMAP_SCAN" }
            if pagemap >= 0 { _ = ptreclaim_close(pagemap) }
            return
        }
        let field = try map()
        defer {
            field.unmap()
            _ = ptreclaim_close(pagemap)
        }
        func look(_ start: UInt, _ byteCount: Int) -> Double {
            var page: UInt = 0
            return time {
                _ = unsafe ptreclaim_first_populated(
                    pagemap, true, start, start + UInt(byteCount), &page)
            }
        }
        for span in 0..<spanCount {
            var (first, last): (UInt, UInt) = (0, 0)
            let start = field.address(span)
            let took = time {
                _ = unsafe ptreclaim_first_tables(
                    pagemap, start, start + UInt(self.span), 1, &first, &last)
            }
            add(.lookAtNothing, took)
        }
        field.makeEmptyTables()
        for _ in 0..<8 {
            let all = look(field.start, spanCount * span) / Double(spanCount)
            add(.lookAtEmptyTable, all)
            add(.readEntry, all / Double(PageGeometry.entriesPerTable))
        }
        for span in 0..<spanCount {
            // Anywhere in the table.
            field.touch(span, page: span * 37 % PageGeometry.entriesPerTable)
            add(.lookAtPopulatedTable, look(field.address(span), self.span))
        }
    }

    // MARK: Extents

    private mutating func measureExtents() throws(CostMeterError) {
        let field = try map()
        defer { field.unmap() }
        for span in 0..<spanCount {
            // A page on either side keeps the table.
            let start = field.address(span) + UInt(Self.extent)
            for page in [0, 15, 32] { field.touch(span, page: page) }
            for page in 16..<32 { field.touch(span, page: page) }
            let purge = time { _ = ptreclaim_madvise(start, Self.extent, 4) }
            for page in 16..<32 { field.touch(span, page: page) }
            let unmap = time { _ = ptreclaim_munmap(start, Self.extent) }
            add(.unmapExtent, unmap - purge)
            // PRIVATE | FIXED | ANONYMOUS | NORESERVE, as the mapping around it: the three merge.
            add(.mapExtent, time { _ = ptreclaim_mmap(start, Self.extent, 3, 0x4032, -1, 0) })
        }
    }

    // MARK: Calls

    private mutating func measureCall() {
        for _ in 0..<spanCount / 4 {
            var vma = ptreclaim_vma()
            var error = 0
            let took = time {
                let (pagemap, maps) = (ptreclaim_open_self_pagemap(), ptreclaim_open_self_maps())
                _ = ptreclaim_self_vm_pte()
                error = unsafe ptreclaim_find_vma(maps, ptreclaim_stack_address(), &vma)
                _ = ptreclaim_self_vm_pte()
                _ = ptreclaim_close(pagemap)
                _ = ptreclaim_close(maps)
            }
            guard error == 0 else {
                missing[.call] = "/proc/self/maps: errno \(-error)"
                return
            }
            add(.call, took)
        }
    }

    private mutating func measureFence() throws(CostMeterError) {
        // A filter may kill who asks for a userfaultfd.
        let userfaultfd =
            ptreclaim_has_seccomp_filter() ? -EPERM : ptreclaim_open_userfaultfd()
        guard userfaultfd >= 0 else {
            missing[.fence] = "no userfaultfd is to be had (errno \(-userfaultfd))"
            return
        }
        let field = try map()
        defer {
            field.unmap()
            _ = ptreclaim_close(userfaultfd)
        }
        field.makeEmptyTables()
        for span in 0..<spanCount {
            var registration = ptreclaim_uffd_register()
            registration.range = ptreclaim_uffd_range(
                start: UInt64(field.address(span)), len: UInt64(self.span))
            registration.mode = PTRECLAIM_UFFD_REGISTER_MISSING
            var range = registration.range
            var error = 0
            let took = time {
                error = unsafe ptreclaim_ioctl(
                    userfaultfd, PTRECLAIM_UFFDIO_REGISTER, &registration)
                _ = unsafe ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_UNREGISTER, &range)
                _ = unsafe ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_WAKE, &range)
            }
            guard error >= 0 else {
                missing[.fence] = "UFFDIO_REGISTER: errno \(-error)"
                return
            }
            add(.fence, took)
        }
    }

    private mutating func countPages() {
        let count = Atomic<Int>(0)
        let additions = 100_000
        let took = time {
            for _ in 0..<additions { count.wrappingAdd(1, ordering: .relaxed) }
        }
        precondition(count.load(ordering: .relaxed) == additions)
        add(.countPage, took / Double(additions))
    }

    private static func median(_ values: [Double]) -> Double {
        let sorted = values.sorted()
        guard !sorted.isEmpty else { return 0 }
        return (sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2]) / 2
    }
}

struct CostMeterError: Error, CustomStringConvertible {
    let description: String
}

/// Memory of whole spans, in 4 KiB pages, and its reserve for the alignment.
@safe private struct Field {
    let start: UInt
    private let mapped: UInt
    private let byteCount: Int
    private let spanCount: Int

    init(spanCount: Int) throws(CostMeterError) {
        let span = Int(PageGeometry.spanByteCount)
        byteCount = (spanCount + 1) * span
        let address = ptreclaim_mmap(0, byteCount, 3, 0x4022, -1, 0)
        guard address > 0 else {
            throw CostMeterError(description: "mmap of \(byteCount) bytes: errno \(-address)")
        }
        mapped = UInt(bitPattern: address)
        start = (mapped + UInt(span) - 1) & ~UInt(span - 1)
        self.spanCount = spanCount
        // For the whole process and not by an advice: what is mapped again must be able to merge.
        let (prctl, setTHPDisable) = (157, 41)
        _ = ptreclaim_syscall(prctl, setTHPDisable, 1, 0, 0, 0, 0)
        // The tables above the PTE tables.
        touch(0, page: 0)
        if spanCount > 1 { touch(spanCount - 1, page: 0) }
        _ = ptreclaim_madvise(start, spanCount * span, 4)
    }

    func address(_ span: Int) -> UInt { start + UInt(span) * PageGeometry.spanByteCount }

    func touch(_ span: Int, page: Int) {
        let address = address(span) + UInt(page) * PageGeometry.pageByteCount
        // Sound: mapped above, and this program's alone.
        unsafe UnsafeMutablePointer<UInt8>(bitPattern: address)?.pointee = 1
    }

    func makeEmptyTables() {
        for span in 0..<spanCount {
            touch(span, page: 0)
            _ = ptreclaim_madvise(address(span), Int(PageGeometry.pageByteCount), 4)
        }
    }

    func unmap() { _ = ptreclaim_munmap(mapped, byteCount) }
}
