// SPDX-License-Identifier: Apache-2.0

internal import CStatsPage
import Foundation

/// A process that shows the tools what it likes: names, and a stats page that the library never made.
public enum Masquerader {
    private static let python = PackageFiles.installed("python3")

    public static let isPossible = python != nil

    /// Maps a page named and sealed as the library's, all of it behind the head the largest number.
    private static let pageScript = #"""
        import ctypes, fcntl, mmap, os, struct, sys, threading, time
        byte_count, version, mode = map(int, sys.argv[1:])
        file = ctypes.CDLL(None).memfd_create(b"ptreclaim-stats", 2)
        os.ftruncate(file, 4096)
        fcntl.fcntl(file, 1033, 2)  # F_ADD_SEALS, F_SEAL_SHRINK
        page = mmap.mmap(file, 4096)
        head = struct.pack(
            "<QIIiIII", 0x7374617473727470, version, byte_count, os.getpid(), mode, 7, 0)
        page[:] = head + b"\xff" * (4096 - len(head))
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        print("ready", flush=True)
        time.sleep(600)
        """#

    /// Names itself and a file that it maps in bytes that a terminal would obey, and that a reader of
    /// lines could stumble over.
    private static let nameScript = #"""
        import ctypes, mmap, os, sys, time
        libc = ctypes.CDLL(None)
        libc.prctl(15, os.fsencode(sys.argv[1]), 0, 0, 0)
        file = libc.memfd_create(b"\x1b[31mred\xc2\x9b\r", 0)
        os.ftruncate(file, 64 << 20)
        memory = mmap.mmap(file, 64 << 20, flags=mmap.MAP_PRIVATE)
        for span in range(32):
            memory[span << 21] = 1
            memory.madvise(mmap.MADV_DONTNEED, span << 21, 4096)
        print("ready", flush=True)
        time.sleep(600)
        """#

    /// Runs `body` beside a process whose page is full of the largest number.
    /// - Parameters:
    ///   - version: nil for the one that is right.
    ///   - mode: as the page has it; 3 is `scan`.
    public static func withPage<Result>(
        version: UInt32? = nil, mode: UInt32 = 3,
        _ body: (Int32) async throws -> Result
    ) async throws -> Result {
        let byteCount = MemoryLayout<ptreclaim_stats_page>.size
        let version = version ?? PTRECLAIM_STATS_VERSION
        let arguments = ["\(byteCount)", "\(version)", "\(mode)"]
        return try await with([pageScript] + arguments, body)
    }

    /// - Parameter command: the process's name, at most 15 bytes.
    public static func withNames<Result>(
        command: String = "\u{1b}]0;evil\r\n\u{7}\r", _ body: (Int32) async throws -> Result
    ) async throws -> Result {
        try await with([nameScript, command], body)
    }

    private static func with<Result>(
        _ arguments: [String], _ body: (Int32) async throws -> Result
    ) async throws -> Result {
        let victim = try Victim.start([python ?? "", "-c"] + arguments)
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
