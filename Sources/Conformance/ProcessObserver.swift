// SPDX-License-Identifier: Apache-2.0

internal import CPlayer
internal import PageTableModel
internal import ReclaimCore

/// What procfs shows of one process, through descriptors that stay open.
///
/// - Precondition: of each look, the process rests; files of one that hangs in the kernel hang too.
final class ProcessObserver {
    private let status: Descriptor
    private let pagemap: Descriptor
    private var maps: MapsReader
    private var bytes: [UInt8] = []
    private var words = [UInt64](repeating: 0, count: 2 * Field.pagesPerHalf)
    /// Frames of the page of zeros and the huge page of zeros.
    private static let zeros = ptreclaim_find_zero_frames()

    init(pid: Int32) throws(RunnerError) {
        status = try Descriptor("/proc/\(pid)/status")
        pagemap = try Descriptor("/proc/\(pid)/pagemap")
        maps = MapsReader(try Descriptor("/proc/\(pid)/smaps"))
    }

    /// Whether frames are shown here, and zero pages can be told: that takes CAP_SYS_ADMIN.
    static var canTellZeros: Bool { zeros.page != 0 }

    /// VmPTE in bytes.
    func vmPTEByteCount() throws(RunnerError) -> UInt {
        bytes.removeAll(keepingCapacity: true)
        _ = try status.append(to: &bytes, atMost: 2048, offset: 0)
        let key = Self.key
        var at = 0
        while at + key.count < bytes.count {
            if bytes[at] == key[0], bytes[at + 1] == key[1], bytes[at + 3] == key[3],
                bytes[at..<at + key.count].elementsEqual(key)
            {
                return number(from: at + key.count) * 1024
            }
            at += 1
        }
        throw .cannotRead(path: status.path, errno: 61)  // ENODATA
    }

    private static let key = Array("\nVmPTE:".utf8)

    private func number(from start: Int) -> UInt {
        var number: UInt = 0
        for byte in bytes[start...] {
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"):
                number = number * 10 + UInt(byte - UInt8(ascii: "0"))
            case UInt8(ascii: " "), UInt8(ascii: "\t"): continue
            default: return number
            }
        }
        return number
    }

    /// - Parameter baseline: what VmPTE is with an empty field.
    func observe(baseline: UInt) throws(RunnerError) -> Observation {
        let byteCount = try vmPTEByteCount()
        guard byteCount >= baseline else {
            throw .notBackAtBaseline(byteCount: Int(byteCount) - Int(baseline))
        }
        try maps.read()
        var pages = [PageState](repeating: .none, count: Field.pageCount)
        for entry in maps.entries {
            for window in Field.windows {
                let start = max(entry.vma.range.start, window.start)
                let end = min(entry.vma.range.end, window.end)
                if start < end {
                    try look(
                        at: AddressRange(start: start, end: end), isFile: entry.isFile,
                        pages: &pages)
                }
            }
        }
        return Observation(
            vmPTEByteCount: byteCount - baseline, vmas: maps.entries.map(\.vma), pages: pages)
    }

    private func look(
        at range: AddressRange, isFile: Bool, pages: inout [PageState]
    ) throws(RunnerError) {
        guard let first = Field.page(at: range.start) else { return }
        let count = Int(range.byteCount / PageGeometry.pageByteCount)
        let index = Int(range.start / PageGeometry.pageByteCount)
        // A page on its way from one frame to another is neither here nor there: look again.
        for _ in 0..<100 {
            try pagemap.read(into: &words, count: count, index: index)
            var isMoving = false
            for page in 0..<count where words[page] & Self.interesting != 0 {
                if let state = Self.state(words[page], isFile: isFile) {
                    pages[first + page] = state
                } else {
                    isMoving = true
                }
            }
            if !isMoving { return }
            ptreclaim_sleep_milliseconds(1)
        }
    }

    private static let present: UInt64 = 1 << 63
    private static let swapped: UInt64 = 1 << 62
    private static let fileOrShared: UInt64 = 1 << 61
    private static let writeProtected: UInt64 = 1 << 57
    private static let interesting = present | swapped | writeProtected
    private static let frameMask: UInt64 = 1 << 55 - 1

    /// Nil for an entry of a kind that does not last: migration.
    private static func state(_ word: UInt64, isFile: Bool) -> PageState? {
        let isProtected = word & writeProtected != 0
        let frame = word & frameMask
        if word & present != 0 {
            // The huge page of zeros is nobody's own, and so looks like a file's to some kernels.
            let isZero =
                frame == zeros.page || (zeros.huge != 0 && frame >> 9 == zeros.huge >> 9)
                || (word & fileOrShared != 0 && !isFile)
            if isZero { return PageState(.zeroPage, isWriteProtected: isProtected) }
            return PageState(
                word & fileOrShared != 0 ? .file : .anonymous, isWriteProtected: isProtected)
        }
        // Hugetlb shows its markers without a swap entry.
        guard word & swapped != 0 else { return PageState(.writeProtectMarker) }
        let type = frame & 31
        switch type {
        // Markers have the last type; before Linux 6.3 a failed swap-in had it, and they the one
        // before, which has since been a device's, and no device is mapped here.
        case 30...31 where frame >> 5 & 4 != 0: return PageState(.guardMarker)
        case 30...31: return PageState(.writeProtectMarker)
        // Swap devices count from 0; in between are migration and poison.
        case 0..<20: return PageState(.swap, isWriteProtected: isProtected)
        default: return nil
        }
    }
}
