// SPDX-License-Identifier: Apache-2.0

internal import CControl
internal import CStatsPage
internal import Glibc

/// The stats page of a running process, writable: the switch, and a pass on request.
///
/// Needs the permission that the process's owner has, to look into it (ptrace) and to write a file of
/// mode 0600.
// Safe: the pointer is valid until deinit unmaps it, and is handed to C functions only.
@safe public struct ControlPage: ~Copyable {
    /// What a pass that was asked for came to.
    public struct PassReport: Sendable {
        /// nil where it could not be read.
        public let vmPTEBeforeByteCount: UInt?
        public let vmPTEAfterByteCount: UInt?
        public let tablesLookedAt: UInt64
        public let tablesFreed: UInt64
        public let nanoseconds: UInt64
        /// Tables that stay, by the name of the `KeptReason`; never zero.
        public let kept: [(reason: String, count: UInt64)]
    }

    /// The page as it was when it was opened.
    public let stats: StatsPage

    private let page: UnsafeMutablePointer<ptreclaim_stats_page>
    private let mapping: MemoryMapEntry

    /// Opens the page of `pid`: through a descriptor of the process, or its map entry.
    /// - Throws: `.isOff` where the library does nothing there; `.noStatsPage`,
    ///   `.parentsStatsPage`, `.badStatsPage`, `.unsealedStatsPage`; `.closedStatsPage` where no
    ///   descriptor leads to it and map_files is closed to us; `.unreadable` (EACCES: of another
    ///   user).
    public init(pid: Int32) throws(ProcFSError) {
        let mapping = try StatsPage.mapping(pid: pid)
        let own = StatsPage.mappedFile(mapping, pid: pid)
        let (stats, page) = unsafe try Self.find(pid, mappedAt: own)
        self.mapping = mapping
        self.stats = stats
        unsafe self.page = unsafe page
    }

    private static func find(
        _ pid: Int32, mappedAt own: String
    ) throws(ProcFSError) -> (StatsPage, UnsafeMutablePointer<ptreclaim_stats_page>) {
        var failure: ProcFSError?
        for path in StatsPage.descriptorPaths(pid: pid) + [own] {
            do throws(ProcFSError) {
                // map_files asks for a capability even of the owner.
                let code: ProcFSError.Code =
                    path == own && failure == nil ? .closedStatsPage : .unreadable
                return unsafe try open(path, of: pid, orElse: code)
            } catch {
                failure = failure ?? error
            }
        }
        throw failure ?? ProcFSError(code: .noStatsPage, errno: 0, what: "process \(pid)")
    }

    private static func open(
        _ path: String, of pid: Int32, orElse code: ProcFSError.Code
    ) throws(ProcFSError) -> (StatsPage, UnsafeMutablePointer<ptreclaim_stats_page>) {
        var found: UnsafeMutablePointer<ptreclaim_stats_page>?
        let error = unsafe ptreclaim_control_map(path, &found)
        guard error != EINVAL else {
            throw ProcFSError(code: .unsealedStatsPage, errno: EINVAL, what: "process \(pid)")
        }
        guard error == 0, let page = unsafe found else {
            throw ProcFSError(
                code: code, errno: error,
                what: code == .closedStatsPage ? "process \(pid)" : path)
        }
        do throws(ProcFSError) {
            // Sound: a mapping of 4096 bytes, read once; who writes it meanwhile writes whole words.
            let bytes = unsafe [UInt8](UnsafeRawBufferPointer(start: page, count: 4096))
            let stats = try StatsPage(bytes: bytes, pid: pid)
            guard stats.mode != "off" else {
                throw ProcFSError(code: .isOff, errno: 0, what: "process \(pid)")
            }
            return unsafe (stats, page)
        } catch {
            unsafe ptreclaim_control_unmap(page)
            throw error
        }
    }

    deinit { unsafe ptreclaim_control_unmap(page) }

    /// Stops the freeing, or lets it go on. Returns whether it was off before.
    public func setOff(_ isOff: Bool) -> Bool { unsafe ptreclaim_control_set_off(page, isOff) }

    /// One pass over all of the process's memory, made by its own service thread, now.
    /// - Throws: `.isOff` where there is no such thread; `.ended`, `.noAnswer`, `.passFailed`.
    public func reclaimNow(within limit: Duration) throws(ProcFSError) -> PassReport {
        let what = "process \(stats.pid)"
        guard stats.hasServiceThread else {
            throw ProcFSError(code: .isOff, errno: 0, what: what)
        }
        let request = unsafe ptreclaim_control_request(page)
        let deadline = ContinuousClock.now + limit
        while unsafe !ptreclaim_control_wait(page, request, 100) {
            guard isStillThere else { throw ProcFSError(code: .ended, errno: 0, what: what) }
            guard ContinuousClock.now < deadline else {
                throw ProcFSError(code: .noAnswer, errno: ETIMEDOUT, what: "\(what) \(silence)")
            }
        }
        var report = ptreclaim_pass_report()
        unsafe ptreclaim_control_report(page, &report)
        guard report.pass_errno == 0 else {
            throw ProcFSError(code: .passFailed, errno: Int32(report.pass_errno), what: what)
        }
        let kept = unsafe withUnsafeBytes(of: &report.kept) {
            unsafe [UInt64]($0.bindMemory(to: UInt64.self))
        }
        return PassReport(
            vmPTEBeforeByteCount: UInt(exactly: report.vm_pte_before),
            vmPTEAfterByteCount: UInt(exactly: report.vm_pte_after),
            tablesLookedAt: report.tables_looked_at, tablesFreed: report.tables_freed,
            nanoseconds: report.duration_ns, kept: StatsPage.kept(kept))
    }

    /// Whether the process lives and still maps the page. A zombie maps nothing.
    private var isStillThere: Bool { (try? StatsPage.mapping(pid: stats.pid)) == mapping }

    /// Why nothing was heard, and what to do.
    private var silence: String {
        let status = (try? ProcFile.text("/proc/\(stats.pid)/status")) ?? ""
        if status.contains("\nState:\tT") || status.contains("\nState:\tt") {
            return "has not answered: it is stopped (SIGCONT lets it go on; or a debugger has it)"
        }
        if let now = try? StatsPage.read(pid: stats.pid), !now.hasServiceThread {
            return "has not answered: its mode is \(now.mode) by now; see ptreclaim stats"
        }
        return "has not answered: a forked child starts its service thread at its first event, and "
            + "a process without a free CPU may need longer; the request stays"
    }
}
