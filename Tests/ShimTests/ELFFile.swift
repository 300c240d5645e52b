// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// A shared library, read by readelf.
struct ELFFile {
    let url: URL

    static let canBeRead =
        PackageFiles.installed("readelf") != nil && PackageFiles.installed("strip") != nil

    /// What any library of ours may import: weak names of every library, and what can be called
    /// anywhere, inside malloc too.
    static let harmlessImports: Set = [
        "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__cxa_finalize",
        "__gmon_start__", "__errno_location", "__stack_chk_fail", "bcmp", "memcmp", "memcpy",
        "memmove", "memset", "clock_gettime", "strlen",
    ]
    /// What starts the service thread, which no hook does.
    static let threadImports: Set = [
        "__register_atfork", "pthread_attr_destroy", "pthread_attr_init",
        "pthread_attr_setdetachstate", "pthread_attr_setstacksize", "pthread_key_create",
        "pthread_once", "pthread_setspecific", "sysconf",
    ]

    /// Names of the libraries that it needs.
    func needed() async throws -> [String] {
        try await readelf("--dynamic").filter { $0.contains("(NEEDED)") }
            .compactMap { $0.last?.trimmingCharacters(in: ["[", "]"]) }
    }

    func exports() async throws -> Set<String> {
        try await symbols { $0[6] != "UND" && $0[4] != "LOCAL" }
    }

    func imports() async throws -> Set<String> {
        try await symbols { $0[6] == "UND" && $0[4] != "LOCAL" }
    }

    /// The names that a version script lists as global.
    static func exportList(_ path: String) throws -> Set<String> {
        let map = try String(
            contentsOf: PackageFiles.root.appending(path: path), encoding: .utf8)
        let global = try #require(map.firstRange(of: "global:"))
        let local = try #require(map.firstRange(of: "local:"))
        return Set(
            map[global.upperBound..<local.lowerBound].split(separator: ";")
                .map { $0.trimmingCharacters(in: .whitespacesAndNewlines) }
                .filter { !$0.isEmpty })
    }

    private func readelf(_ options: String...) async throws -> [[String]] {
        let outcome = try await Victim.run(
            [try #require(PackageFiles.installed("readelf")), "--wide"] + options + [url.path()])
        try #require(outcome.status == 0, "\(outcome)")
        return outcome.output.split(separator: "\n").map {
            $0.split(separator: " ").map(String.init)
        }
    }

    /// Names of the dynamic symbol table, without their versions.
    private func symbols(where isWanted: ([String]) -> Bool) async throws -> Set<String> {
        // Num: Value Size Type Bind Vis Ndx Name
        let rows = try await readelf("--dyn-syms").filter {
            $0.count >= 8 && $0[0] != "Num:" && isWanted($0)
        }
        return Set(rows.map { String($0[7].prefix { $0 != "@" }) })
    }
}
