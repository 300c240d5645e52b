// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM
internal import Foundation
internal import Glibc
internal import LiveSpace
internal import ProcFS
internal import ReclaimCore

/// What this machine lets the library do, for whoever runs the command.
struct MachineCheckup {
    let backends: [Backend]
    let hasTableQuery: Bool
    let fence: ptreclaim_fence_probe
    let overcommit: Int?
    /// A library to preload.
    let jemalloc: String?

    init() {
        backends = [.dontneed, .remap].filter { LiveSpace.frees($0) }
        hasTableQuery = Self.probeTableQuery()
        fence = ptreclaim_probe_fence()
        overcommit = Self.number("/proc/sys/vm/overcommit_memory")
        jemalloc = Self.findLibrary("libjemalloc.so")
    }

    var abilities: Abilities {
        Abilities(
            backends: backends, fenceRefusal: Abilities.fenceRefusal(of: fence),
            hooksRefusal: jemalloc == nil
                ? "no jemalloc library is found on this system" : overcommitRefusal)
    }

    /// Why hooks are refused on this machine whatever the process.
    var overcommitRefusal: String? {
        overcommit.map { $0 == 2 } ?? true ? StatsPage.meaning(of: "refused_overcommit") : nil
    }

    var findings: [Finding] {
        [
            Finding("kernel", .ok, "Linux \(Self.kernelRelease)"), page, backend, tableQuery,
            fenceFinding, overcommitFinding, mapCount, hugePages, jemallocFinding, glibc,
        ]
    }

    // MARK: Lines

    private var page: Finding {
        let byteCount = sysconf(Int32(_SC_PAGESIZE))
        return byteCount == 4096
            ? Finding("machine", .ok, "x86-64 with pages of 4096 bytes")
            : Finding(
                "machine", .no, "pages of \(byteCount) bytes",
                remedy: "the library needs x86-64 with pages of 4096 bytes")
    }

    private var backend: Finding {
        let name = "freeing of tables"
        if backends.contains(.dontneed) {
            let also = backends.contains(.remap) ? "; remap frees them, too" : ""
            return Finding(
                name, .ok,
                "dontneed: one MADV_DONTNEED over a whole span frees its table, measured" + also)
        }
        let remedy = "Linux 6.14 or newer with CONFIG_PT_RECLAIM"
        return backends.contains(.remap)
            ? Finding(
                name, .limited,
                "remap: moving a table away frees it, measured, and MADV_DONTNEED does not: enough "
                    + "for hooks, not for madvise and scan", remedy: remedy)
            : Finding(name, .no, "nothing that was tried frees a table here", remedy: remedy)
    }

    private var tableQuery: Finding {
        let name = "empty-table query"
        return hasTableQuery
            ? Finding(name, .ok, "PAGEMAP_SCAN tells an empty table from none")
            : Finding(
                name, .limited,
                "no PAGEMAP_SCAN: madvise and scan are not possible, and ptreclaim inspect shows "
                    + "VmPTE only", remedy: "Linux 6.7 or newer, and /proc mounted")
    }

    private var fenceFinding: Finding {
        switch fence {
        case PTRECLAIM_FENCE_POSSIBLE:
            return Finding(
                "fence", .ok, "userfaultfd, permitted by \(Privilege.current.grounds.text)")
        case PTRECLAIM_FENCE_NO_USERFAULTFD:
            return Finding(
                "fence", .limited,
                "no userfaultfd that stops the kernel's own accesses, so neither madvise nor scan: "
                    + Privilege.current.missing, remedy: Privilege.remedy)
        case PTRECLAIM_FENCE_NO_PAGEMAP_SCAN:
            return Finding(
                "fence", .limited, "of no use without the empty-table query",
                remedy: "Linux 6.7 or newer, and /proc mounted")
        default:
            return Finding(
                "fence", .limited, "a seccomp filter forbids what it needs, tried in a child",
                remedy: Privilege.seccompRemedy)
        }
    }

    private var overcommitFinding: Finding {
        let name = "vm.overcommit_memory"
        guard let overcommit else {
            return Finding(
                name, .limited, "cannot be read: hooks are refused", remedy: "mount /proc")
        }
        return overcommit == 2
            ? Finding(
                name, .limited, "2: jemalloc uncommits with PROT_NONE then, so hooks are refused",
                remedy: "sysctl vm.overcommit_memory=0, or mode madvise or scan")
            : Finding(name, .ok, "\(overcommit)")
    }

    private var mapCount: Finding {
        let name = "vm.max_map_count"
        guard let count = Self.number("/proc/sys/vm/max_map_count") else {
            return Finding(name, .limited, "cannot be read", remedy: "mount /proc")
        }
        return count >= 65530
            ? Finding(name, .ok, "\(count)")
            : Finding(
                name, .limited,
                "\(count), less than the usual 65530: a process that has as many mappings keeps its "
                    + "tables", remedy: "sysctl vm.max_map_count=65530")
    }

    private var hugePages: Finding {
        let text = Self.text("/sys/kernel/mm/transparent_hugepage/enabled")
        let chosen = text?.split(separator: "[").last?.split(separator: "]").first
        return Finding(
            "transparent huge pages", .ok,
            chosen.map { "\($0); what is huge has no table to waste" } ?? "none on this kernel")
    }

    private var jemallocFinding: Finding {
        guard let jemalloc else {
            return Finding(
                "jemalloc", .limited,
                "no library is found on this system: hooks work in programs that have it built in, "
                    + "and export mallctl",
                remedy: "install libjemalloc2, and preload it after the library")
        }
        return Finding("jemalloc", .ok, jemalloc)
    }

    private var glibc: Finding {
        Finding(
            "glibc malloc", .limited,
            "maps and unmaps inside itself, unseen: its memory stays untouched in madvise and scan; "
                + "mappings of the program's own are served",
            remedy: "preload jemalloc into the program, too")
    }

    // MARK: Reading

    static let kernelRelease = text("/proc/sys/kernel/osrelease") ?? "of unknown version"

    static func text(_ path: String) -> String? {
        (try? String(contentsOfFile: path, encoding: .utf8))?
            .trimmingCharacters(in: .whitespacesAndNewlines)
    }

    static func number(_ path: String) -> Int? { text(path).flatMap { Int($0) } }

    private static func probeTableQuery() -> Bool {
        let pagemap = ptreclaim_open_self_pagemap()
        guard pagemap >= 0 else { return false }
        defer { _ = ptreclaim_close(pagemap) }
        return ptreclaim_probe_pagemap_scan(pagemap)
    }

    /// The path of a library whose name starts with `prefix`: what the loader would find, or what
    /// is in the usual places.
    private static func findLibrary(_ prefix: String) -> String? {
        let cache = FileManager.default.contents(atPath: "/etc/ld.so.cache") ?? Data()
        let cached = cache.split(separator: 0).lazy.map { String(decoding: $0, as: UTF8.self) }
            .filter {
                $0.hasPrefix("/") && $0.split(separator: "/").last?.hasPrefix(prefix) == true
            }
        let usual = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"].lazy
            .flatMap { folder in [".2", ".1", ""].map { "\(folder)/\(prefix)\($0)" } }
        // The name without a version is for linking; it is there with the development package only.
        let versioned = cached.filter { !$0.hasSuffix(".so") }
        return (Array(versioned) + Array(usual) + Array(cached)).first {
            FileManager.default.fileExists(atPath: $0)
        }
    }
}
