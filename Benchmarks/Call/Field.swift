// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

#if !SHIM_SINGLE_MODULE
    internal import ReclaimCore
#endif

/// Memory of whole spans in which tables are made and emptied. Never unmapped.
struct Field {
    let start: UInt
    let spanCount: Int
    static let spanByteCount = Int(PageGeometry.spanByteCount)

    init(byteCount: Int) {
        let flags: Int32 = 0x4022  // PRIVATE | ANONYMOUS | NORESERVE
        let address = ptreclaim_mmap(0, byteCount + Self.spanByteCount, 3, flags, -1, 0)
        guard address > 0 else { fail("mmap of \(byteCount) bytes: errno \(-address)") }
        start =
            (UInt(bitPattern: address) + PageGeometry.spanByteCount - 1)
            & ~(PageGeometry.spanByteCount - 1)
        spanCount = byteCount / Self.spanByteCount
        _ = ptreclaim_madvise(start, byteCount, 15)  // NOHUGEPAGE: a huge page has no table
    }

    var end: UInt { address(of: spanCount) }

    func address(of span: Int) -> UInt { start + UInt(span * Self.spanByteCount) }
}
