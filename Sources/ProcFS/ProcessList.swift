// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Which processes there are, and what started them.
public enum ProcessList {
    /// Why `pids()` may not be all, with the remedy; nil where it is.
    public static var hiding: String? {
        // The first process of a PID namespace lives as long as the namespace does.
        unsafe access("/proc/1", F_OK) == 0
            ? nil
            : "procfs hides the processes of others (hidepid): run as root, or in the group that "
                + "its mount option gid names"
    }

    /// The IDs of all processes that procfs shows, kernel threads too, lowest first. Empty where
    /// there is no procfs.
    public static func pids() -> [Int32] {
        DirectoryListing.names("/proc").compactMap { Int32($0) }.sorted()
    }

    /// The arguments of `pid`, with spaces between, of their first 4096 bytes: they may have megabytes.
    /// Empty for a kernel thread, and where the process has ended.
    public static func commandLine(pid: Int32) -> String {
        guard let bytes = try? ProcFile("/proc/\(pid)/cmdline").read(4096, at: 0) else { return "" }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\0").joined(separator: " ")
    }

    /// A thread of `pid` that has memory, by whose ID everything of the process can be read: the
    /// first one unless it has left. Nil for kernel threads, and where the process has ended.
    public static func threadWithMemory(of pid: Int32) -> Int32? {
        DirectoryListing.names("/proc/\(pid)/task").compactMap { Int32($0) }.sorted().first {
            (try? ProcessStatus.text(pid: $0)) != nil
        }
    }

    /// The children of `pid`, those of all its threads. Nil where the kernel does not list them
    /// (CONFIG_PROC_CHILDREN), or the process has ended.
    public static func children(of pid: Int32) -> Set<Int32>? {
        var children: Set<Int32>?
        for thread in DirectoryListing.names("/proc/\(pid)/task") {
            // A thread may have ended since.
            guard let text = try? ProcFile.text("/proc/\(pid)/task/\(thread)/children") else {
                continue
            }
            children = (children ?? []).union(text.split(separator: " ").compactMap { Int32($0) })
        }
        return children
    }
}
