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
    private static let noReserve: Int32 = 0x4000
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

    /// New private anonymous memory in the place of `range`.
    static func mapOver(
        _ range: AddressRange, protection: Int32, isNoReserve: Bool = true
    ) -> Int32? {
        let flags = (isNoReserve ? privateAnonymous : privateAnonymous & ~noReserve) | fixed
        return errno(
            of: ptreclaim_mmap(range.start, Int(range.byteCount), protection, flags, -1, 0))
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
