// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Anonymous memory of this process between two inaccessible guards, so that it is a VMA of its
/// own, aligned to 2 MiB.
public struct Window: Sendable {
    public static let spanByteCount = 2 << 20
    public let start: UInt
    public let byteCount: Int

    public init(spans: Int, advice: Int32) {
        byteCount = spans * Self.spanByteCount
        let reserve = unsafe mmap(
            nil, byteCount + 4 * Self.spanByteCount, PROT_NONE,
            MAP_PRIVATE | Int32(MAP_ANONYMOUS) | Int32(MAP_NORESERVE), -1, 0)
        let mask = UInt(Self.spanByteCount - 1)
        start = (UInt(bitPattern: reserve) + mask & ~mask) + UInt(Self.spanByteCount)
        unsafe precondition(mprotect(pointer(0), byteCount, PROT_READ | PROT_WRITE) == 0)
        // May be refused where the kernel has no huge pages.
        unsafe _ = madvise(pointer(0), byteCount, advice)
    }

    public var end: UInt { start + UInt(byteCount) }

    private func pointer(_ offset: Int) -> UnsafeMutableRawPointer? {
        unsafe UnsafeMutableRawPointer(bitPattern: start + UInt(offset))
    }

    public func touch(_ offsets: some Sequence<Int>) {
        for offset in offsets { unsafe pointer(offset)?.storeBytes(of: 1, as: UInt8.self) }
    }

    public func purge(_ offsets: some Sequence<Int>, byteCount: Int = 4096) {
        for offset in offsets {
            unsafe precondition(madvise(pointer(offset), byteCount, MADV_DONTNEED) == 0)
        }
    }

    public var everyPage: StrideTo<Int> { stride(from: 0, to: byteCount, by: 4096) }
}
