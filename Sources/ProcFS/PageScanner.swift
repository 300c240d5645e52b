// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM
internal import Glibc
internal import ReclaimCore

/// PAGEMAP_SCAN on a process that may be another one, with room for what it returns that is used
/// again: a census makes a call for each table.
@safe struct PageScanner: ~Copyable {
    /// Which pages are returned, and with which of their categories. 0 asks for nothing.
    struct Filter {
        var all: UInt32 = 0
        var any: UInt32 = 0
        var returned: UInt32
    }

    /// Neighbouring pages of one mapping with the same categories.
    struct Region {
        let start: UInt
        let end: UInt
        let categories: UInt32
    }

    /// Where there is something: a page, or an entry that says where the page went.
    static let live = Filter(
        any: PTRECLAIM_PAGE_IS_PRESENT | PTRECLAIM_PAGE_IS_SWAPPED,
        returned: PTRECLAIM_PAGE_IS_PRESENT | PTRECLAIM_PAGE_IS_SWAPPED)

    static let userSpace = AddressRange(
        start: 0, end: PageGeometry.userSpaceEnd - PageGeometry.pageByteCount)

    private let pagemap: ProcFile
    private let path: String
    private let regions: UnsafeMutableBufferPointer<ptreclaim_page_region>

    /// At most this many regions a call: from 1024 on Linux 6.18 returned some twice.
    private static let regionsPerCall = 512

    init(pid: Int32) throws(ProcFSError) {
        path = "/proc/\(pid)/pagemap"
        pagemap = try ProcFile(path)
        unsafe regions = .allocate(capacity: Self.regionsPerCall)
        unsafe regions.initialize(repeating: ptreclaim_page_region())
    }

    deinit { unsafe regions.deallocate() }

    /// The first page in `range` that passes `filter`; nil where none does.
    func first(in range: AddressRange, _ filter: Filter) throws(ProcFSError) -> Region? {
        var argument = Self.argument(filter)
        argument.max_pages = 1
        return try scan(range, &argument) > 0 ? region(0) : nil
    }

    /// Every region in `range`, lowest first, in as many calls as it takes.
    func forEach(
        in range: AddressRange, _ filter: Filter, _ body: (Region) -> Void
    ) throws(ProcFSError) {
        var argument = Self.argument(filter)
        var rest = range
        while !rest.isEmpty {
            let count = try scan(rest, &argument)
            for index in 0..<count { body(region(index)) }
            let end = UInt(argument.walk_end)
            // The address space may end before the range does.
            guard end > rest.start, end <= rest.end else { return }
            rest.start = end
        }
    }

    private func region(_ index: Int) -> Region {
        let region = unsafe regions[index]
        return Region(
            start: UInt(region.start), end: UInt(region.end),
            categories: UInt32(region.categories))
    }

    private static func argument(_ filter: Filter) -> ptreclaim_pm_scan_arg {
        var argument = ptreclaim_pm_scan_arg()
        argument.category_mask = UInt64(filter.all)
        argument.category_anyof_mask = UInt64(filter.any)
        argument.return_mask = UInt64(filter.returned)
        return argument
    }

    /// One call; how many regions came.
    private func scan(
        _ range: AddressRange, _ argument: inout ptreclaim_pm_scan_arg
    ) throws(ProcFSError) -> Int {
        argument.start = UInt64(range.start)
        argument.end = UInt64(range.end)
        // Sound: the kernel writes at most `vec_len` regions, and says how many.
        argument.vec = unsafe UInt64(UInt(bitPattern: regions.baseAddress))
        argument.vec_len = argument.max_pages == 1 ? 1 : UInt64(Self.regionsPerCall)
        let result = unsafe ptreclaim_pagemap_scan(pagemap.descriptor, &argument)
        guard result >= 0 else {
            throw ProcFSError(code: .unreadable, errno: Int32(-result), what: path)
        }
        return result
    }
}
