// SPDX-License-Identifier: Apache-2.0

internal import CPlayer
internal import PageTableModel
internal import ReclaimCore

/// Operations in the player's words.
enum Command {
    static func plain(_ verb: ptreclaim_verb) -> ptreclaim_command {
        make(verb, AddressRange(start: 0, end: 0))
    }

    static func of(_ operation: Operation, files: [Int32]) -> ptreclaim_command {
        switch operation {
        case .mmap(let range, let kind, let protection, let flags):
            mmap(range, kind, protection, flags, files: files)
        case .munmap(let range): make(PTRECLAIM_PLAY_MUNMAP, range)
        case .mremap(let range, let byteCount, let target):
            mremap(range, byteCount: byteCount, target)
        case .mprotect(let range, let protection):
            make(PTRECLAIM_PLAY_MPROTECT, range, UInt64(protection.rawValue))
        case .madvise(let range, let advice):
            make(PTRECLAIM_PLAY_MADVISE, range, UInt64(advice.rawValue))
        case .mlock(let range, let onFault): make(PTRECLAIM_PLAY_MLOCK, range, onFault ? 1 : 0)
        case .munlock(let range): make(PTRECLAIM_PLAY_MUNLOCK, range)
        case .read(let address): make(PTRECLAIM_PLAY_READ, byte(at: address))
        case .write(let address, let contents):
            make(PTRECLAIM_PLAY_WRITE, byte(at: address), UInt64(contents))
        case .fork: plain(PTRECLAIM_PLAY_FORK)
        case .register(let range, let mode):
            make(
                PTRECLAIM_PLAY_REGISTER, range,
                mode == .missing ? PTRECLAIM_UFFD_REGISTER_MISSING : PTRECLAIM_UFFD_REGISTER_WP)
        case .unregister(let range): make(PTRECLAIM_PLAY_UNREGISTER, range)
        case .writeProtect(let range, let isOn):
            make(PTRECLAIM_PLAY_WRITE_PROTECT, range, isOn ? 1 : 0)
        case .reclaim(let range): make(PTRECLAIM_PLAY_RECLAIM, range)
        }
    }

    private static func byte(at address: UInt) -> AddressRange {
        AddressRange(start: address, end: address + 1)
    }

    private static func make(
        _ verb: ptreclaim_verb, _ range: AddressRange, _ first: UInt64 = 0, _ second: UInt64 = 0,
        _ third: UInt64 = 0, _ fourth: UInt64 = 0
    ) -> ptreclaim_command {
        ptreclaim_command(
            verb: verb.rawValue, start: UInt64(range.start), byte_count: UInt64(range.byteCount),
            argument: (first, second, third, fourth))
    }

    private static func mmap(
        _ range: AddressRange, _ kind: VMA.Kind, _ protection: VMA.Protection,
        _ flags: Operation.MapFlags, files: [Int32]
    ) -> ptreclaim_command {
        let shared: Int32 = 1
        let privately: Int32 = 2
        let anonymous: Int32 = 0x20
        let noReserve: Int32 = 0x4000
        let populate: Int32 = 0x8000
        let hugetlb: Int32 = 0x40000
        var bits: Int32 = flags.contains(.noReplace) ? 0x100000 : 0x10
        if flags.contains(.noReserve) { bits |= noReserve }
        if flags.contains(.populate) { bits |= populate }
        var file: Int32 = -1
        switch kind {
        case .anonymousPrivate: bits |= privately | anonymous
        case .hugetlb: bits |= privately | anonymous | hugetlb | noReserve
        case .sharedAnonymous: bits |= shared | anonymous
        case .shared(let index):
            bits |= shared
            file = files[index]
        case .privateFile(let index):
            bits |= privately
            file = files[index]
        case .special: preconditionFailure("never generated")
        }
        let offset = file < 0 ? 0 : range.start - Field.base
        return make(
            PTRECLAIM_PLAY_MMAP, range, UInt64(protection.rawValue), UInt64(bits),
            UInt64(bitPattern: Int64(file)), UInt64(offset))
    }

    private static func mremap(
        _ range: AddressRange, byteCount: UInt, _ target: Operation.Target
    ) -> ptreclaim_command {
        let moves = PTRECLAIM_MREMAP_MAYMOVE | PTRECLAIM_MREMAP_FIXED
        let (flags, address): (Int32, UInt) =
            switch target {
            case .inPlace: (0, 0)
            case .fixed(let address): (moves, address)
            case .keepingSource(let address): (moves | PTRECLAIM_MREMAP_DONTUNMAP, address)
            }
        return make(
            PTRECLAIM_PLAY_MREMAP, range, UInt64(byteCount), UInt64(flags), UInt64(address))
    }
}
