// SPDX-License-Identifier: Apache-2.0

import Foundation
import ReclaimCore
import TestSupport
import Testing

private let modeVictim = PackageFiles.executable("mode-victim")
/// Empty tables that the fixture makes each time.
private let all = 24
private let tooManyMappings = "kept 15"
private let forking = "kept 17"
/// With root's privileges, on a kernel with PT_RECLAIM.
private let hasFence = isRoot && KernelAbilities.backends.contains(.dontneed)
private let fencedModes = ["madvise", "scan"]

extension ShimTests {
    /// The modes that free behind a fence, in bad weather. What is not possible is a counted reason, and
    /// the program never feels it: each act checks every byte, and ends by itself. `before` shows in the
    /// same process that without the weather all tables are freed.
    @Suite(.enabled(if: hasFence, "needs userfaultfd, PAGEMAP_SCAN and PT_RECLAIM"))
    struct ModeWeatherTests {
        private func run(
            _ act: [String], mode: String = "scan", prepare: [String] = [],
            more: [String: String] = [:], preloading libraries: [URL]? = nil,
            limit: Duration = .seconds(40)
        ) async throws -> Victim.Outcome {
            let shim = try await ShimBuild.release()
            let preload = (libraries ?? [shim]).map { $0.path() }.joined(separator: ":")
            let environment = [
                "PTRECLAIM_MODE": mode, "PTRECLAIM_DELAY_MS": "20", "PTRECLAIM_WATERMARK_KB": "0",
                "PTRECLAIM_BUDGET_PERCENT": "50", "PTRECLAIM_VERBOSE": "1",
            ]
            let outcome = try await Victim.run(
                [modeVictim] + prepare + ["--preload", preload] + act,
                environment: environment.merging(more) { $1 }, limit: limit)
            if outcome.status == 77 { try Test.cancel("\(outcome.output)") }
            #expect(outcome.status == 0, "\(outcome)")
            #expect(!outcome.timedOut)
            return outcome
        }

        /// Before the weather all is freed; after it all, or nothing.
        private func expect(
            _ outcome: Victim.Outcome, after: Int?, mode: Int? = nil,
            at location: SourceLocation = #_sourceLocation
        ) {
            let numbers = outcome.numbers
            #expect(numbers["wrong_bytes"] == 0, "\(outcome)", sourceLocation: location)
            #expect(numbers["before"] ?? 0 >= all, "\(outcome)", sourceLocation: location)
            if let after {
                let isRight = after == 0 ? numbers["after"] == 0 : numbers["after"] ?? 0 >= after
                #expect(isRight, "\(outcome)", sourceLocation: location)
            }
            if let mode { #expect(numbers["mode"] == mode, "\(outcome)", sourceLocation: location) }
        }

        // MARK: Permission

        @Test("Without permission for userfaultfd it does nothing, counts it and says so")
        func nobody() async throws {
            let outcome = try await run(["plain", "off"], prepare: ["--nobody"])
            #expect(outcome.numbers["freed"] == 0)
            #expect(outcome.numbers["mode"] == 0)
            #expect(outcome.numbers["refused_no_userfaultfd"] == 1, "\(outcome)")
            #expect(outcome.errors.contains("does nothing: no fence: userfaultfd needs"))
            #expect(try await run(["plain"]).numbers["freed"] == all)
        }

        @Test(
            "A process that gives root up goes on; its children have no fence",
            arguments: fencedModes)
        func dropsPrivileges(mode: String) async throws {
            let outcome = try await run(["drops-privileges"], mode: mode)
            expect(outcome, after: all)
            #expect(outcome.numbers["child.status"] == 0, "\(outcome)")
            #expect(outcome.numbers["child.freed"] == 0, "\(outcome)")
            #expect(outcome.numbers["child.refused_no_userfaultfd"] == 1, "\(outcome)")
        }

        @Test("A process may enter namespaces that are closed to processes with threads")
        func namespaces() async throws {
            let outcome = try await run(["namespaces"])
            #expect(outcome.numbers["setns"] == 0, "\(outcome)")
            #expect(outcome.numbers["unshare"] == 0, "\(outcome)")
            #expect(outcome.numbers["after_setns"] ?? 0 >= all, "\(outcome)")
            #expect(outcome.numbers["wrong_bytes"] == 0)
        }

        // MARK: Filters

        static let deadly = [
            "userfaultfd", "close_range", "clone3", "futex", "pagemap_scan", "procmap_query",
            "uffdio_api", "uffdio_register", "uffdio_wake",
        ]

        @Test(
            "A filter at start that kills for what the library does is not provoked",
            arguments: deadly)
        func filterThatKills(call: String) async throws {
            let outcome = try await run(["plain", "off"], prepare: ["--filter", "kill:\(call)"])
            #expect(outcome.numbers["freed"] == 0, "\(outcome)")
            #expect(outcome.numbers["refused_seccomp"] == 1, "\(outcome)")
            #expect(outcome.errors.contains("does nothing: a seccomp filter"), "\(outcome)")
        }

        @Test(
            "A filter at start that forbids what the library does is a reason, too",
            arguments: ["EPERM", "ENOSYS"],
            ["close_range", "pagemap_scan", "uffdio_register", "uffdio_wake"])
        func filterThatForbids(errno: String, call: String) async throws {
            let outcome = try await run(
                ["plain", "off"], prepare: ["--filter", "\(errno):\(call)"])
            #expect(outcome.numbers["freed"] == 0, "\(outcome)")
            #expect(outcome.numbers["refused_seccomp"] == 1, "\(outcome)")
        }

        @Test("Under a filter that permits a userfaultfd it is the permission that lacks")
        func filterWithoutPermission() async throws {
            let outcome = try await run(
                ["plain", "off"], prepare: ["--nobody", "--filter", "ENOSYS:clone3"])
            #expect(outcome.numbers["freed"] == 0, "\(outcome)")
            #expect(outcome.numbers["refused_no_userfaultfd"] == 1, "\(outcome)")
            #expect(outcome.errors.contains("userfaultfd needs CAP_SYS_PTRACE"), "\(outcome)")
        }

        @Test(
            "Under a filter that forbids what there is another way for, all is freed",
            arguments: [
                "EPERM:procmap_query", "ENOSYS:clone3", "EPERM:memfd_create", "kill:memfd_create",
            ])
        func filterThatLeavesAWay(filter: String) async throws {
            let outcome = try await run(["plain"], prepare: ["--filter", filter])
            #expect(outcome.numbers["freed"] ?? 0 >= all - 2, "\(outcome)")
            #expect(outcome.numbers["wrong_bytes"] == 0)
        }

        @Test(
            "When the program confines itself, fences stop before, on whichever threads it is",
            arguments: [
                "filter-by-prctl", "filter-by-seccomp", "filter-all-threads", "filter-unseen",
            ], ["kill:uffdio_register", "kill:clone3"])
        func filterLater(act: String, filter: String) async throws {
            let mode = filter == "kill:clone3" ? "madvise" : "scan"
            let outcome = try await run([act, filter], mode: mode)
            expect(outcome, after: 0, mode: 0)
            #expect(outcome.numbers["refused_seccomp"] == 1, "\(outcome)")
        }

        @Test("A purge under the program's filter makes no system call of ours")
        func filterOnPurges() async throws {
            let outcome = try await run(["filter-by-prctl", "kill:futex"], mode: "madvise")
            expect(outcome, after: 0, mode: 0)
        }

        @Test(
            "A child that confines itself, and what it forks, are left alone by us",
            arguments: ["kill:clone3", "kill:memfd_create", "kill:futex"])
        func filterInChild(filter: String) async throws {
            let outcome = try await run(["filter-in-child", filter])
            expect(outcome, after: all)
            #expect(outcome.numbers["child.status"] == 0, "\(outcome)")
            #expect(outcome.numbers["grandchild.status"] == 0, "\(outcome)")
        }

        @Test("A library that only asks what filters there are changes nothing")
        func asksForFilters() async throws {
            expect(try await run(["filter-asked-for"]), after: all, mode: 3)
        }

        // MARK: Its own userfaultfd

        @Test(
            "A program with a userfaultfd of its own never meets ours",
            arguments: ["call", "device"])
        func ownUserfaultfd(how: String) async throws {
            let outcome = try await run(["own-userfaultfd", how])
            expect(outcome, after: 0, mode: 0)
            #expect(outcome.numbers["errno"] == 0, "\(outcome)")
            #expect(outcome.numbers["refused_application_userfaultfd"] == 1, "\(outcome)")
        }

        @Test("Nor while fences go up: three hundred times")
        func userfaultfdRaces() async throws {
            let outcome = try await run(
                ["userfaultfd-races", "300"], more: ["PTRECLAIM_DELAY_MS": "1"])
            #expect(outcome.numbers["tries"] == 300)
            #expect(outcome.numbers["busy"] == 0, "\(outcome)")
            #expect(outcome.numbers["broken"] == 0, "\(outcome)")
        }

        // MARK: Descriptors, mappings, memory, files

        @Test(
            "What the program does to descriptors, limits and files does not reach the service thread",
            arguments: [
                "closes", "dups", "uses-up-descriptors", "no-files", "loses-procfs",
                "address-space-ends", "cancels", "spawns",
            ])
        func unreached(act: String) async throws {
            let outcome = try await run([act])
            expect(outcome, after: all, mode: 3)
            #expect(outcome.numbers["wrong_results"] ?? 0 == 0, "\(outcome)")
            #expect(outcome.numbers["wrong_children"] ?? 0 == 0, "\(outcome)")
        }

        @Test("At the limit of mappings a table is kept, and freed when there are fewer again")
        func manyMappings() async throws {
            let outcome = try await run(["many-mappings"])
            expect(outcome, after: all, mode: 3)
            #expect(outcome.numbers["full"] == 0, "\(outcome)")
            #expect(outcome.numbers[tooManyMappings] ?? 0 > 0, "\(outcome)")
        }

        @Test("Without procfs it says so and does nothing")
        func noProcfs() async throws {
            let outcome = try await run(["plain", "off"], prepare: ["--no-proc"])
            #expect(outcome.numbers["freed"] == 0)
            #expect(outcome.errors.contains("empty tables are not to be seen"), "\(outcome)")
        }

        @Test("In an empty root it goes on; a child cannot begin, and counts it")
        func changesRoot() async throws {
            let outcome = try await run(["changes-root"])
            expect(outcome, after: all, mode: 3)
            #expect(outcome.numbers["child.status"] == 0, "\(outcome)")
            #expect(outcome.numbers["child.refused_no_pagemap_scan"] == 1, "\(outcome)")
        }

        @Test("With all memory locked the library has at most 2 MiB of it")
        func locksAll() async throws {
            let with = try await run(["locks-all"])
            let without = try await run(["locks-all"], more: ["PTRECLAIM_MODE": "off"])
            #expect(with.numbers["after"] ?? 0 >= all, "\(with)")
            let kib = try #require(with.numbers["resident_kib"])
            let offKib = try #require(without.numbers["resident_kib"])
            #expect(kib - offKib < 2048, "\(kib) and \(offKib) kB")
        }

        static let memoryGroups = "/sys/fs/cgroup/memory"

        @Test(
            "In a memory group at its limit all is freed, and nobody is killed",
            .enabled(
                if: FileManager.default.fileExists(
                    atPath: "\(memoryGroups)/memory.limit_in_bytes"),
                "needs the memory controller of cgroup v1"))
        func memoryGroup() async throws {
            let group = "\(Self.memoryGroups)/ptreclaim-weather-\(getpid())"
            try FileManager.default.createDirectory(
                atPath: group, withIntermediateDirectories: false)
            defer { unsafe _ = rmdir(group) }
            try "25165824".write(
                toFile: "\(group)/memory.limit_in_bytes", atomically: false, encoding: .ascii)
            let outcome = try await run(["memory-ends", group])
            expect(outcome, after: all, mode: 3)
            let failures = try String(contentsOfFile: "\(group)/memory.failcnt", encoding: .ascii)
            #expect(Int(failures.trimmingCharacters(in: .whitespacesAndNewlines)) ?? 0 > 0)
        }

        // MARK: Children

        @Test("A child is served by a thread of its own, started on need", arguments: fencedModes)
        func forks(mode: String) async throws {
            let outcome = try await run(["forks"], mode: mode)
            expect(outcome, after: all)
            #expect(outcome.numbers["child.status"] == 0, "\(outcome)")
            #expect(outcome.numbers["child.freed"] ?? 0 >= all, "\(outcome)")
            #expect(outcome.numbers["child.own_page"] == 1, "\(outcome)")
            #expect(outcome.numbers["wrong_children"] == 0, "\(outcome)")
        }

        @Test("What a fork was in the way of is freed at the next pass")
        func purgesBesideForks() async throws {
            let outcome = try await run(["purges-beside-forks"], mode: "madvise")
            expect(outcome, after: nil, mode: 2)
            #expect(outcome.numbers[forking] ?? 0 > 0, "\(outcome)")
            #expect(outcome.numbers["missed"] == 0, "\(outcome)")
        }

        @Test("A daemon is served, though its parents have ended", arguments: fencedModes)
        func daemon(mode: String) async throws {
            let outcome = try await run(["daemon"], mode: mode)
            #expect(outcome.numbers["daemon.is_done"] == 1, "\(outcome)")
            #expect(outcome.numbers["daemon.freed"] ?? 0 >= all, "\(outcome)")
        }

        @Test("With PTRECLAIM_INHERIT=0 no child is served, forked or executed")
        func forksAlone() async throws {
            let outcome = try await run(["forks-alone"], more: ["PTRECLAIM_INHERIT": "0"])
            expect(outcome, after: nil, mode: 3)
            #expect(outcome.numbers["child.freed"] == 0, "\(outcome)")
            #expect(outcome.numbers["child.refused_child"] == 1, "\(outcome)")
            #expect(outcome.numbers["executed"] == 0, "\(outcome)")
            let inherited = try await run(["forks-alone"])
            #expect(inherited.numbers["child.freed"] ?? 0 >= all, "\(inherited)")
            #expect(inherited.numbers["executed"] ?? 0 > 0, "\(inherited)")
        }

        // MARK: Mappings

        @Test(
            "What grows out of a fence is touched at once", arguments: fencedModes,
            ["grows-beside-fences", "grows-unseen-beside-fences"])
        func growsBesideFences(mode: String, act: String) async throws {
            // Fences take 2 ms.
            let more = SwitchedShim.environment(slowing: .afterSecondLook).merging(
                ["PTRECLAIM_DELAY_MS": "1"]) { $1 }
            let outcome = try await run(
                [act, "300"], mode: mode, more: more,
                preloading: [SwitchedShim.library()])
            #expect(!outcome.timedOut)
            // Where there is no CPU to be had it ends after half a minute.
            #expect(outcome.numbers["fences"] ?? 0 >= 100, "\(outcome)")
            #expect(outcome.numbers["grown"] ?? 0 > 100, "\(outcome)")
            // A bare call meets two mappings where the fence begins inside one.
            if act == "grows-beside-fences" { #expect(outcome.numbers["refused"] == 0) }
        }

        @Test("A mapping that cannot grow in its place is served as before", arguments: fencedModes)
        func cannotGrow(mode: String) async throws {
            expect(try await run(["cannot-grow"], mode: mode), after: all)
        }

        @Test("Nor does it wait for a service thread that does not get on, once the watchdog looks")
        func growsBesideStoppedFence() async throws {
            let more = SwitchedShim.environment(stopping: .afterRegister).merging(
                ["PTRECLAIM_DELAY_MS": "1"]) { $1 }
            let outcome = try await run(
                ["grows-beside-fences", "5"], mode: "madvise", more: more,
                preloading: [SwitchedShim.library()])
            #expect(outcome.numbers["refused"] == 0, "\(outcome)")
            // At the fence that stops it waits for the watchdog, and not for the second.
            let longest = try #require(outcome.numbers["longest_ms"])
            #expect((90..<700).contains(longest), "\(outcome)")
        }

        // MARK: Passes

        @Test("What is purged between two parts of a pass is looked at when they are over")
        func purgesBehindACutPass() async throws {
            // The next part comes late enough for the purge to come before it.
            let outcome = try await run(
                ["purges-behind-a-cut-pass"], mode: "madvise",
                more: ["PTRECLAIM_SIZE_MB": "1", "PTRECLAIM_DELAY_MS": "400"])
            #expect(outcome.numbers["freed"] == 301, "\(outcome)")
        }

        // MARK: Ends

        @Test("The process ends with its own last thread, which writes what is to be written")
        func firstThreadLeaves() async throws {
            let outcome = try await run(["first-thread-leaves"], limit: .seconds(10))
            #expect(outcome.numbers["before"] ?? 0 >= all, "\(outcome)")
            #expect(outcome.numbers["worker"] == 1, "\(outcome)")
            // glibc does not know of it, so nobody writes, with the library or without.
            _ = try await run(["first-thread-leaves", "unseen"], limit: .seconds(10))
        }

        @Test("exit, _exit and abort in the middle of passes are what they are without the library")
        func endsInTheMiddle() async throws {
            let outcome = try await run(
                ["ends-in-the-middle"], more: ["PTRECLAIM_DELAY_MS": "1"])
            expect(outcome, after: nil)
            #expect(outcome.numbers["wrong_children"] == 0, "\(outcome)")
        }

        // MARK: Options and other libraries

        @Test("A malformed option costs one line and keeps its default")
        func malformed() async throws {
            let options = [
                "PTRECLAIM_DELAY_MS": "-1", "PTRECLAIM_SIZE_MB": "0", "PTRECLAIM_RANGES": "some",
                "PTRECLAIM_BUDGET_PERCENT": "101", "PTRECLAIM_WATERMARK_KB": "1k",
                "PTRECLAIM_INHERIT": "no",
            ]
            let outcome = try await run(["plain", "off"], more: options)
            for (name, value) in options {
                #expect(
                    outcome.errors.split(separator: "\n").count { $0.contains("\(name)=\(value)") }
                        == 1, "\(outcome)")
            }
            #expect(outcome.numbers["mode"] == 3)
            #expect(outcome.errors.contains("scans every 1000 ms"), "\(outcome)")
        }

        static let allocators = [
            "glibc", "locked", "libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libmimalloc.so.2",
        ]

        @Test(
            "Beside another library that interposes, in each order, no allocator hangs",
            .enabled(if: FixtureLibraries.clang != nil, "needs clang"),
            arguments: allocators, fencedModes)
        func interposers(allocator: String, mode: String) async throws {
            let libraries = try FixtureLibraries()
            let shim = try await ShimBuild.release()
            let wrapper = try await libraries.wrapper()
            var others: [URL] = []
            if allocator == "locked" {
                others = [try await libraries.lockedMalloc()]
            } else if allocator != "glibc" {
                let url = URL(filePath: "/usr/lib/x86_64-linux-gnu/\(allocator)")
                guard FileManager.default.fileExists(atPath: url.path()) else {
                    try Test.cancel("needs \(allocator)")
                }
                others = [url]
            }
            let orders = [
                [shim, wrapper] + others, [wrapper, shim] + others, others + [wrapper, shim],
            ]
            for order in orders {
                let outcome = try await run(
                    ["allocates"], mode: mode, preloading: order, limit: .seconds(20))
                #expect(outcome.numbers["wrong_bytes"] == 0, "\(outcome)")
                #expect(outcome.numbers["after"] ?? 0 >= all, "\(outcome)")
            }
        }
    }
}
