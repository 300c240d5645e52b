// SPDX-License-Identifier: Apache-2.0

internal import ProcFS

/// What a running process, or one started as it was, lets the library do.
struct ProcessCheckup {
    let pid: Int32
    let command: String

    private let machine: MachineCheckup
    private let privilege: Privilege
    private let allocator: LoadedAllocator
    private let page: Result<StatsPage, ProcFSError>

    /// - Throws: `.unreadable` where there is no such process, `.noMemory` for a kernel thread.
    init(pid: Int32, on machine: MachineCheckup) throws(ProcFSError) {
        self.pid = pid
        self.machine = machine
        let status = try ProcessStatus.text(pid: pid)
        command = ProcessStatus.command(status)
        privilege = Privilege(status: status, root: "/proc/\(pid)/root")
        allocator = LoadedAllocator(pid: pid)
        page = Result { () throws(ProcFSError) in try StatsPage.read(pid: pid) }
    }

    var abilities: Abilities {
        Abilities(
            backends: machine.backends, fenceRefusal: fenceRefusal, fenceDoubt: fenceDoubt,
            hooksRefusal: allocator.hooksRefusal ?? machine.overcommitRefusal)
    }

    /// A filter may forbid what the permission allows. A library that frees behind a fence knows.
    private var fenceDoubt: String? {
        if case .success(let page) = page, page.hasServiceThread { return nil }
        return privilege.seccomp == 2 ? "if the seccomp filter permits a fence" : nil
    }

    private var fenceRefusal: String? {
        guard machine.hasTableQuery else {
            return StatsPage.meaning(of: "refused_no_pagemap_scan")
        }
        if let met = refusalMet { return met }
        if privilege.seccomp == 1 { return StatsPage.meaning(of: "refused_seccomp") }
        return privilege.grounds == .none ? StatsPage.meaning(of: "refused_no_userfaultfd") : nil
    }

    /// What the library itself has met in the process. The other ways to a fence do not help then.
    private var refusalMet: String? {
        guard case .success(let page) = page else { return nil }
        let reasons = [
            "refused_seccomp", "refused_application_userfaultfd", "refused_fence_opened",
        ]
        return reasons.first { (page[$0] ?? 0) > 0 }.map { StatsPage.meaning(of: $0) }
    }

    var findings: [Finding] { [allocator.finding, seccomp, fence, noNewPrivileges, library] }

    private var seccomp: Finding {
        switch privilege.seccomp {
        case 0: Finding("seccomp", .ok, "no filter")
        case 2:
            Finding(
                "seccomp", .limited,
                "a filter is on: what it permits is known only when the library tries the "
                    + "fence, in a child, at the process's start",
                remedy: "PTRECLAIM_VERBOSE=1 says what came of it; " + Privilege.seccompRemedy)
        case 1: Finding("seccomp", .no, "strict mode: no fence", remedy: Privilege.seccompRemedy)
        default: Finding("seccomp", .limited, "not told by this kernel")
        }
    }

    private var fence: Finding {
        privilege.grounds == .none
            ? Finding("fence", .limited, privilege.missing, remedy: Privilege.remedy)
            : Finding("fence", .ok, "permitted by \(privilege.grounds.text)")
    }

    private var noNewPrivileges: Finding {
        switch privilege.hasNoNewPrivileges {
        case false: Finding("no_new_privs", .ok, "not set")
        case true: Finding("no_new_privs", .ok, "set; does not matter to the library")
        default: Finding("no_new_privs", .limited, "not told by this kernel")
        }
    }

    private var library: Finding {
        switch page {
        case .success(let page) where page.mode == "off":
            let reasons = page.counters.filter { $0.group == .refusal && $0.value > 0 }
            return Finding(
                "library", .no,
                "loaded, and does nothing: \(reasons.map(\.meaning).joined(separator: "; "))",
                remedy: "the lines above say what is in the way")
        case .success(let page):
            return page.isOff
                ? Finding(
                    "library", .limited, "loaded, mode \(page.mode), switched off",
                    remedy: "ptreclaim ctl \(pid) on")
                : Finding("library", .ok, "loaded, mode \(page.mode)")
        case .failure(let error) where error.code == .noStatsPage:
            return Finding(
                "library", .limited, "not loaded, or it had nothing to do at start",
                remedy: "start the program with ptreclaim run")
        case .failure(let error):
            return Finding("library", .limited, "\(error)")
        }
    }
}
