// SPDX-License-Identifier: Apache-2.0

internal import Glibc

extension ProcFSError: CustomStringConvertible {
    public var description: String {
        switch code {
        case .unreadable: "\(what): \(Self.text(of: errno))"
        case .noMemory:
            "\(what) has no memory of its own: a kernel thread, or it has ended; where only its "
                + "first thread has, name another one (ps -L)"
        case .noStatsPage:
            "\(what): libptreclaim-preload.so is not loaded there, or had nothing to do at start; "
                + "ptreclaim run starts a command with it"
        case .badStatsPage:
            "\(what): the stats page has a layout that this version does not know: use the "
                + "ptreclaim that came with the library that is loaded there"
        case .unsealedStatsPage:
            "\(what): the stats page is not sealed, so it could become shorter while it is mapped: "
                + "it is not written"
        case .parentsStatsPage:
            "\(what) was forked and has had no event yet: it still shows its parent's stats page"
        case .closedStatsPage:
            "\(what) has closed the descriptor of its stats page: run as root (map_files needs "
                + "CAP_CHECKPOINT_RESTORE)"
        case .isOff:
            "\(what): the library does nothing there; ptreclaim doctor says what is possible, "
                + "PTRECLAIM_VERBOSE=1 at its start says why not"
        case .ended: "\(what) has ended, or executed another program, before it answered"
        case .noAnswer: what
        case .passFailed: "\(what): the pass failed: \(Self.text(of: errno))"
        }
    }

    private static func text(of errno: Int32) -> String {
        switch errno {
        case EACCES: "EACCES (needs CAP_SYS_PTRACE: run as the process's owner or root)"
        case EPERM: "EPERM (needs CAP_SYS_PTRACE: run as the process's owner or root)"
        case ENOENT, ESRCH: "no such process, or it has ended"
        default: unsafe String(cString: strerror(errno))
        }
    }
}
