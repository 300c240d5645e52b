// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Glibc
import ReclaimCore

/// The mapping behind a memory device.
@safe struct DeviceMemory: Sendable {
    enum Kind: String {
        case anonymous, memfd
    }

    struct Failure: Error {
        let call: String
        let errno: Int32
    }

    let kind: Kind
    let start: UInt
    let byteCount: Int
    private let file: Int32

    static let blockByteCount = 4 << 20
    /// A balloon or free page reporting gives a block back in such pieces before it is unplugged.
    private static let pieceByteCount = 512 << 10

    var blockCount: Int { byteCount / Self.blockByteCount }

    init(_ kind: Kind, byteCount: Int) throws(Failure) {
        let noHugePages: Int32 = 15
        self.kind = kind
        self.byteCount = byteCount
        var file: Int32 = -1
        if kind == .memfd {
            file = ptreclaim_memfd(byteCount)
            if file < 0 { throw Failure(call: "memfd_create", errno: -file) }
        }
        self.file = file
        // Addresses are whole spans, so that a block is two of them.
        let span = Int(PageGeometry.spanByteCount)
        let flags = kind == .memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS
        let reserved = unsafe mmap(
            nil, byteCount + span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        let aligned = (UInt(bitPattern: reserved) + UInt(span) - 1) & ~UInt(span - 1)
        let mapped = unsafe mmap(
            UnsafeMutableRawPointer(bitPattern: aligned), byteCount, PROT_READ | PROT_WRITE,
            flags | MAP_NORESERVE | MAP_FIXED, file, 0)
        guard unsafe mapped != MAP_FAILED else { throw Failure(call: "mmap", errno: errno) }
        start = UInt(bitPattern: mapped)
        unsafe madvise(mapped, byteCount, noHugePages)
    }

    func unmap() {
        unsafe munmap(UnsafeMutableRawPointer(bitPattern: start), byteCount)
        if file >= 0 { close(file) }
    }

    func addresses(of block: Int) -> Range<UInt> {
        let first = start + UInt(block * Self.blockByteCount)
        return first..<first + UInt(Self.blockByteCount)
    }

    /// Addresses of one word for each span of a block, in a page of its own.
    func words(of block: Int) -> [UInt] {
        stride(from: 0, to: Self.blockByteCount, by: Int(PageGeometry.spanByteCount)).map {
            addresses(of: block).lowerBound + UInt($0 + (block & 511) << 12)
        }
    }

    /// Gives the pages of a block back to the host; its tables stay.
    func discard(_ block: Int) throws(Failure) {
        switch kind {
        case .memfd:
            let punchHole = 3  // FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
            let fallocate = 285
            let result = ptreclaim_syscall(
                fallocate, Int(file), punchHole, block * Self.blockByteCount, Self.blockByteCount,
                0, 0)
            if result < 0 { throw Failure(call: "fallocate", errno: Int32(-result)) }
        case .anonymous:
            let address = addresses(of: block).lowerBound
            for offset in stride(from: 0, to: Self.blockByteCount, by: Self.pieceByteCount) {
                let piece = unsafe UnsafeMutableRawPointer(bitPattern: address + UInt(offset))
                let result = unsafe madvise(piece, Self.pieceByteCount, MADV_DONTNEED)
                if result < 0 { throw Failure(call: "madvise", errno: errno) }
            }
        }
    }
}
