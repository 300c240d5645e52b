// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

extension ModelSpace {
    /// Plays one operation.
    /// - Throws: the errno that the kernel returns; what it has changed by then stays changed.
    public func play(_ operation: Operation) throws(ModelError) {
        open = OpenOutcomes()
        switch operation {
        case .mmap(let range, let kind, let protection, let flags):
            // Nobody wants to take pages of the pool away from the machine before they are used.
            let always: Operation.MapFlags = kind == .hugetlb ? .noReserve : []
            try mmap(range, kind: kind, protection: protection, flags: flags.union(always))
        case .munmap(let range): try munmap(range)
        case .mremap(let range, let byteCount, let target):
            try mremap(range, byteCount: byteCount, target)
        case .mprotect(let range, let protection): try mprotect(range, protection)
        case .madvise(let range, let advice): try madvise(range, advice)
        case .mlock(let range, let onFault): try mlock(range, onFault: onFault)
        case .munlock(let range): try munlock(range)
        case .read(let address): _ = try read(at: address)
        case .write(let address, let byte): try write(byte, at: address)
        case .fork: sharePages()
        case .register(let range, let mode):
            try register(range, writeProtect: mode == .writeProtect)
        case .unregister(let range): try unregister(range)
        case .writeProtect(let range, let isSet): try writeProtect(range, isSet)
        case .reclaim(let range):
            do { _ = try ReclaimWalk(space: self).reclaim(range, access: .owned) } catch {
                throw ModelError(errno: error.errno)
            }
        }
    }

    /// Whether the kernel would not come back from `operation`: guards over a write-protected page
    /// of a file (Linux 6.18, until a signal ends it).
    public func isEndless(_ operation: Operation) -> Bool {
        guard case .madvise(let range, .guardInstall) = operation else { return false }
        return profile.hasGuards && isEndlessGuardInstall(range)
    }
}
