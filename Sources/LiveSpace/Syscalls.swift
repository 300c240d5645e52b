// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

#if !SHIM_SINGLE_MODULE
    internal import ReclaimCore
#endif

/// Every system call of `LiveSpace`, each one line, each returning errno or nil. What is unsafe
/// about a call, and why it is sound here, is said at the caller.
enum Syscalls {
    static let noAccess: Int32 = 0
    static let read: Int32 = 1
    static let write: Int32 = 2
    static let execute: Int32 = 4
    static let readWrite: Int32 = 3
    private static let privateAnonymous: Int32 = 0x4022  // PRIVATE | ANONYMOUS | NORESERVE
    private static let fixed: Int32 = 0x10
    static let adviseNoHugePage: Int32 = 15

    static func madvise(_ range: AddressRange, _ advice: Int32) -> Int32? {
        errno(of: ptreclaim_madvise(range.start, Int(range.byteCount), advice))
    }

    static func dontneed(_ range: AddressRange) -> Int32? {
        madvise(range, PTRECLAIM_MADV_DONTNEED)
    }

    /// The table of `source` moves to `destination`; `source` stays mapped, without a table.
    static func moveTable(from source: Span, to destination: Span) -> Int32? {
        let byteCount = Int(PageGeometry.spanByteCount)
        let flags =
            PTRECLAIM_MREMAP_MAYMOVE | PTRECLAIM_MREMAP_FIXED | PTRECLAIM_MREMAP_DONTUNMAP
        return errno(
            of: ptreclaim_mremap(source.start, byteCount, byteCount, flags, destination.start))
    }

    static func mapOver(_ range: AddressRange, protection: Int32) -> Int32? {
        errno(
            of: ptreclaim_mmap(
                range.start, Int(range.byteCount), protection, privateAnonymous | fixed, -1, 0))
    }

    /// Maps over a scratch span, so that it stays a VMA of its own between its neighbours, which
    /// are mapped with MAP_NORESERVE: nothing to split and to merge at the next move.
    static func coverScratch(_ range: AddressRange) -> Int32? {
        let privateAnonymousFixed: Int32 = 0x32
        return errno(
            of: ptreclaim_mmap(
                range.start, Int(range.byteCount), noAccess, privateAnonymousFixed, -1, 0))
    }

    /// New private anonymous memory anywhere; nil where there is none.
    static func mapAnywhere(byteCount: UInt, protection: Int32) -> AddressRange? {
        let result = ptreclaim_mmap(0, Int(byteCount), protection, privateAnonymous, -1, 0)
        guard errno(of: result) == nil else { return nil }
        return AddressRange(start: UInt(bitPattern: result), byteCount: byteCount)
    }

    static func unmap(_ range: AddressRange) -> Int32? {
        errno(of: ptreclaim_munmap(range.start, Int(range.byteCount)))
    }

    static func errno(of result: Int) -> Int32? {
        (-4095...(-1)).contains(result) ? Int32(-result) : nil
    }
}
