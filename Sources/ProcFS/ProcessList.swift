// SPDX-License-Identifier: Apache-2.0

/// Which processes there are, and what started them.
public enum ProcessList {
    /// The IDs of all processes that procfs shows, kernel threads too, lowest first. Empty where
    /// there is no procfs.
    public static func pids() -> [Int32] {
        DirectoryListing.names("/proc").compactMap { Int32($0) }.sorted()
    }

    /// The arguments of `pid`, with spaces between. Empty for a kernel thread, and where the process
    /// has ended.
    public static func commandLine(pid: Int32) -> String {
        guard let text = try? ProcFile.text("/proc/\(pid)/cmdline") else { return "" }
        return text.split(separator: "\0").joined(separator: " ")
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
