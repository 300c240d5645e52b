// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM
internal import LiveSpace
public import PageTableModel
public import ReclaimCore

/// What the running kernel can do, found by trying.
public enum KernelAbilities {
    /// Which backends free tables here.
    public static let backends: [Backend] = Backend.allCases.filter { LiveSpace.frees($0) }

    /// An empty table can be told from a missing one.
    public static let showsTables: Bool = {
        guard let backend = backends.first, let space = try? LivePlayground(backend) else {
            return false
        }
        return (try? space.look(at: space.span(0))) == .absent
    }()

    /// Memory that others use can be freed behind a fence: the modes madvise and scan.
    public static let canFence = hasUserfaultfd && showsTables && backends.contains(.dontneed)

    private static let guardedMemory: [PlayMemory] = PlayMemory.allCases.filter { memory in
        guard let backend = backends.first, let space = try? LivePlayground(backend) else {
            return false
        }
        let page = space.pages(0..<1)
        return (try? space.map(page, memory, marked: false)) != nil
            && (try? space.guardPages(page)) != nil
    }

    /// Guard pages: Linux 6.13 in anonymous memory, 6.15 in files.
    public static func hasGuards(_ memory: PlayMemory) -> Bool { guardedMemory.contains(memory) }

    /// Memory can be registered with a userfaultfd that stops the kernel's own accesses too.
    public static let hasUserfaultfd = opens(features: 0)

    /// What the library needs to free tables of memory that anybody may touch at any time.
    public static let hasFence = hasUserfaultfd && showsTables && backends.contains(.dontneed)

    /// Write protection of pages that do not exist, Linux 6.4.
    public static let hasWriteProtectMarkers = opens(features: LivePlayground.markerFeatures)

    private static func opens(features: UInt64) -> Bool {
        let descriptor = LivePlayground.openUserfaultfd(features: features)
        if descriptor >= 0 { _ = ptreclaim_close(descriptor) }
        return descriptor >= 0
    }

    /// The machine has swap in use: a line below the heading of /proc/swaps.
    public static let hasSwap: Bool = {
        let file = unsafe ptreclaim_open("/proc/swaps", O_RDONLY)
        guard file >= 0 else { return false }
        defer { _ = ptreclaim_close(file) }
        var text = [UInt8](repeating: 0, count: 4096)
        let count = unsafe text.withUnsafeMutableBytes { buffer in
            unsafe buffer.baseAddress.map { unsafe ptreclaim_pread(file, $0, buffer.count, 0) } ?? 0
        }
        return text.prefix(max(count, 0)).count { $0 == 10 } > 1
    }()

    /// The profile that does with page tables what the running kernel does.
    public static let profile: KernelProfile =
        backends.contains(.dontneed)
        ? .linux618 : showsTables ? .linux612 : .linux61
}
