// SPDX-License-Identifier: Apache-2.0

import Foundation

/// A process with empty PTE tables, as an allocator that purges in pieces leaves them.
public enum Waster {
    private static let python = PackageFiles.installed("python3")

    public static let isPossible = python != nil
    /// One for each 2 MiB of its memory.
    public static let emptyTableCount = 128

    private static let script = """
        import mmap, time
        memory = mmap.mmap(-1, \(emptyTableCount) << 21,
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for span in range(\(emptyTableCount)):
            memory[span << 21] = 1
            memory.madvise(mmap.MADV_DONTNEED, span << 21, 4096)
        print("ready", flush=True)
        time.sleep(600)
        """

    /// Runs `body` beside one.
    public static func with<Result>(
        _ body: (Int32) async throws -> Result
    ) async throws -> Result {
        let victim = try Victim.start([python ?? "", "-c", script])
        do {
            _ = try await victim.line(startingWith: "ready", within: .seconds(20))
            let result = try await body(victim.pid)
            _ = try await victim.end(within: .zero)
            return result
        } catch {
            _ = try await victim.end(within: .zero)
            throw error
        }
    }
}
