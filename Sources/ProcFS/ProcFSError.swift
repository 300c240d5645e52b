// SPDX-License-Identifier: Apache-2.0

/// Why a process could not be looked at.
public struct ProcFSError: Error, Equatable, Sendable {
    public enum Code: Sendable {
        /// A file of procfs could not be opened or read.
        case unreadable
        /// The process has no memory of its own: a kernel thread or a zombie.
        case noMemory
        /// The process does not show the library's page.
        case noStatsPage
        /// The page found is not one this version can read.
        case badStatsPage
        /// The page found could become shorter while it is mapped.
        case unsealedStatsPage
        /// The page found still belongs to the process that this one was forked from.
        case parentsStatsPage
        /// The page is there, but no way leads to it that one could write through.
        case closedStatsPage
        /// What was asked of the process needs a service thread, and its mode has none: it is off.
        case isOff
        /// The process ended, or executed something else, while it was waited for.
        case ended
        /// The process has not answered in time.
        case noAnswer
        /// The process could not make the pass that was asked for.
        case passFailed
    }

    public let code: Code
    /// The kernel's errno, positive; 0 where no call failed.
    public let errno: Int32
    /// The file, or what was looked for.
    public let what: String
}
