// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

extension ShimTests {
    /// The switch in the stats page, from inside and through `ptreclaim ctl`, and what `stats` and
    /// `doctor` say of a process that has the library.
    @Suite struct ControlTests {
        private func ptreclaim(
            _ arguments: String..., through command: [String] = []
        ) async throws -> Victim.Outcome {
            try await Victim.run(command + [PackageFiles.executable("ptreclaim")] + arguments)
        }

        private static let setpriv = PackageFiles.installed("setpriv")
        private static var asNobody: [String] {
            [setpriv ?? "", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        }

        /// A victim that runs until `body` is done with it and with the process that it names.
        private func with<Result>(
            _ act: String, mode: String, _ more: [String: String] = [:],
            through command: [String] = [], _ body: (Int32) async throws -> Result
        ) async throws -> Result {
            let environment = purgeAtOnce.merging(["PTRECLAIM_MODE": mode]) { $1 }.merging(more) {
                $1
            }
            let running = try Victim.start(
                command + [victim, act], environment: environment,
                preloading: [try await ShimBuild.release()])
            do {
                let ready = try await running.line(startingWith: "ready: ", within: .seconds(20))
                let pid = try #require(Int32(ready.dropFirst("ready: ".count)))
                let result = try await body(pid)
                if pid != running.pid { kill(pid, SIGKILL) }
                _ = try await running.end(within: .zero)
                return result
            } catch {
                _ = try await running.end(within: .zero)
                throw error
            }
        }

        private func object(_ outcome: Victim.Outcome) throws -> [String: Any] {
            try #require(
                try JSONSerialization.jsonObject(with: Data(outcome.output.utf8))
                    as? [String: Any], "\(outcome)")
        }

        // MARK: Hooks

        @Test("Hooks that are switched off zap nothing, in children neither, and go on when on")
        func hooksOff() async throws {
            let outcome = try await runVictim("off", ShimBuild.release())
            #expect(outcome.status == 0, "\(outcome)")
            let numbers = outcome.numbers
            #expect(try #require(numbers["zapped_on"]) > 30, "\(outcome)")
            #expect(numbers["zapped_off"] == 0, "\(outcome)")
            #expect(try #require(numbers["purged_off"]) > 1000, "jemalloc purges: \(outcome)")
            #expect(numbers["child.zapped_off"] == 0, "\(outcome)")
            #expect(try #require(numbers["zapped_again"]) > 30, "\(outcome)")
        }

        @Test("A library that does not look at the switch is found out")
        func deafHooks() async throws {
            let deaf = try await ShimBuild.mutated(
                "deaf-hooks",
                replacing: "__atomic_load_n(&stats->control.is_off, __ATOMIC_RELAXED) != 0",
                with: "stats == NULL", in: "Shim/Preload/extent_hooks.c")
            let outcome = try await runVictim("off", deaf)
            #expect(outcome.status == 0, "\(outcome)")
            #expect(try #require(outcome.numbers["zapped_off"]) > 30, "\(outcome)")
        }

        @Test("ctl switches a running process off and on, and says which it was")
        func offAndOn() async throws {
            try await with("serve", mode: "hooks") { pid in
                func zapped() async throws -> Int {
                    let stats = try object(try await ptreclaim("stats", "\(pid)", "--json"))
                    let counters = try #require(stats["counters"] as? [String: Int])
                    return try #require(counters["spans_zapped"])
                }
                func grows() async throws -> Bool {
                    try await Task.sleep(for: .milliseconds(200))  // what was begun comes to an end
                    let before = try await zapped()
                    try await Task.sleep(for: .seconds(1))
                    return try await zapped() > before
                }
                #expect(try await grows())
                let off = try await ptreclaim("ctl", "\(pid)", "off")
                #expect(off.status == 0 && off.output.contains("is now off"), "\(off)")
                #expect(try await !grows())
                let again = try await ptreclaim("ctl", "\(pid)", "off")
                #expect(again.status == 0 && again.output.contains("was already off"), "\(again)")
                let stats = try await ptreclaim("stats", "\(pid)")
                #expect(stats.output.contains("switched off          yes"), "\(stats)")
                let doctor = try await ptreclaim("doctor", "\(pid)")
                #expect(doctor.output.contains("ctl \(pid) on"), "\(doctor)")
                let on = try object(try await ptreclaim("ctl", "\(pid)", "on", "--json"))
                #expect(on["was_off"] as? Bool == true && on["is_off"] as? Bool == false)
                #expect(try await grows())
            }
        }

        @Test("Nobody makes the page shorter, which would end the process")
        func sealed() async throws {
            try await with("serve", mode: "hooks") { pid in
                let names = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/fd")
                let page = try #require(
                    names.map { "/proc/\(pid)/fd/\($0)" }.first {
                        (try? FileManager.default.destinationOfSymbolicLink(atPath: $0))?
                            .hasPrefix("/memfd:ptreclaim-stats") == true
                    })
                #expect(unsafe truncate(page, 0) == -1 && errno == EPERM)
                try await Task.sleep(for: .milliseconds(200))
                #expect(kill(pid, 0) == 0)
                let stats = try await ptreclaim("stats", "\(pid)")
                #expect(stats.status == 0, "\(stats)")
            }
        }

        @Test(
            "A page that could become shorter while the tool has it mapped is not taken",
            .enabled(if: PackageFiles.installed("python3") != nil, "needs python3"))
        func unsealed() async throws {
            let program = """
                import mmap, os, time
                file = os.memfd_create("ptreclaim-stats", 0)
                os.truncate(file, 4096)
                page = mmap.mmap(file, 4096)
                print("ready: ", os.getpid(), sep="", flush=True)
                time.sleep(60)
                """
            let running = try Victim.start([PackageFiles.installed("python3") ?? "", "-c", program])
            let ready = try await running.line(startingWith: "ready: ", within: .seconds(20))
            let outcome = try await ptreclaim("ctl", "\(ready.dropFirst(7))", "off")
            #expect(outcome.status == 1 && outcome.errors.contains("not sealed"), "\(outcome)")
            _ = try await running.terminate()
        }

        @Test("In mode hooks there is nothing to do now")
        func nowWithHooks() async throws {
            try await with("wait", mode: "hooks") { pid in
                let now = try await ptreclaim("ctl", "\(pid)", "now")
                #expect(now.status == 0 && now.output.contains("nothing is deferred"), "\(now)")
                let json = try object(try await ptreclaim("ctl", "\(pid)", "now", "--json"))
                #expect(json["report"] is NSNull)
            }
        }

        @Test(
            "doctor says of a process that fencing is over there, and why",
            .enabled(
                if: KernelAbilities.canFence && Filtered.isPossible, "needs a fence and python3"))
        func overByFilter() async throws {
            let running = try await Filtered.start(
                environment: ["PTRECLAIM_MODE": "scan"],
                preloading: [try await ShimBuild.release()])
            let doctor = try await ptreclaim("doctor", "\(running.pid)")
            let words = doctor.output.split(whereSeparator: \.isWhitespace).joined(separator: " ")
            for mode in ["madvise", "scan"] {
                #expect(words.contains("no \(mode): a seccomp filter forbids"), "\(doctor)")
            }
            _ = try await running.terminate()
        }

        // MARK: Passes

        /// A scan that finds what it finds, and leaves it.
        private static let idle = ["PTRECLAIM_WATERMARK_KB": "1000000"]

        @Test(
            "now makes one pass, also while off, and reports it",
            .enabled(if: KernelAbilities.canFence, "needs a fence"), arguments: [false, true])
        func now(isOff: Bool) async throws {
            try await with("wait", mode: "scan", Self.idle) { pid in
                if isOff { _ = try await ptreclaim("ctl", "\(pid)", "off") }
                let outcome = try await ptreclaim("ctl", "\(pid)", "now", "--json")
                #expect(outcome.status == 0, "\(outcome)")
                let json = try object(outcome)
                #expect(
                    Set(json.keys) == [
                        "schema", "pid", "action", "mode", "is_off", "was_off", "report",
                    ])
                #expect(json["schema"] as? String == "ptreclaim.ctl/1")
                #expect(json["is_off"] as? Bool == isOff)
                let report = try #require(json["report"] as? [String: Any])
                #expect(
                    Set(report.keys) == [
                        "vm_pte_before_bytes", "vm_pte_after_bytes", "tables_looked_at",
                        "tables_freed", "kept", "nanoseconds",
                    ])
                let freed = try #require(report["tables_freed"] as? Int)
                let before = try #require(report["vm_pte_before_bytes"] as? Int)
                let after = try #require(report["vm_pte_after_bytes"] as? Int)
                #expect(freed > 10, "\(outcome)")
                #expect(before - after >= freed * 4096, "\(outcome)")
                // It was all of it, and the words for people say so.
                let second = try await ptreclaim("ctl", "\(pid)", "now")
                #expect(second.output.contains("tables freed          0\n"), "\(second)")
                #expect(second.output.contains("kept: populated"), "\(second)")
                #expect(second.output.contains("which is off but for this pass") == isOff)
                let stats = try await ptreclaim("stats", "\(pid)")
                #expect(!stats.output.contains("decommits"), "\(stats)")
                #expect(stats.output.contains("passes_below_watermark"), "\(stats)")
                let all = try await ptreclaim("stats", "\(pid)", "--all")
                #expect(all.output.contains("decommits"), "\(all)")
            }
        }

        @Test(
            "A process that is stopped does not answer, and one that ends meanwhile never will",
            .enabled(if: KernelAbilities.canFence, "needs a fence"))
        func silence() async throws {
            try await with("wait", mode: "scan", Self.idle) { pid in
                kill(pid, SIGSTOP)
                let stopped = try await ptreclaim("ctl", "\(pid)", "now")
                #expect(stopped.status == 1 && stopped.errors.contains("SIGCONT"), "\(stopped)")
                async let ending = ptreclaim("ctl", "\(pid)", "now")
                try await Task.sleep(for: .seconds(1))
                kill(pid, SIGKILL)
                let ended = try await ending
                #expect(ended.status == 1 && ended.errors.contains("has ended"), "\(ended)")
            }
        }

        // MARK: Closed doors

        @Test(
            "Another user's process is not to be switched",
            .enabled(if: isRoot && setpriv != nil, "needs root and setpriv"))
        func otherUser() async throws {
            try await with("wait", mode: "hooks") { pid in
                let outcome = try await ptreclaim("ctl", "\(pid)", "off", through: Self.asNobody)
                #expect(outcome.status == 1, "\(outcome)")
                #expect(outcome.errors.contains("EACCES (needs CAP_SYS_PTRACE"), "\(outcome)")
                let stats = try await ptreclaim("stats", "\(pid)")
                #expect(stats.output.contains("switched off          no"), "\(stats)")
            }
        }

        @Test("A fresh child is not taken for its parent")
        func freshChild() async throws {
            try await with("wait-child", mode: "hooks") { pid in
                let outcome = try await ptreclaim("ctl", "\(pid)", "off")
                #expect(outcome.status == 1, "\(outcome)")
                #expect(outcome.errors.contains("still shows its parent's"), "\(outcome)")
            }
        }

        @Test("A process that has closed the descriptor is switched through map_files, by root")
        func closedDescriptor() async throws {
            try await with("wait-closed", mode: "hooks") { pid in
                let outcome = try await ptreclaim("ctl", "\(pid)", "off")
                #expect(outcome.status == (isRoot ? 0 : 1), "\(outcome)")
            }
            guard isRoot, Self.setpriv != nil else { return }
            try await with("wait-closed", mode: "hooks", through: Self.asNobody) { pid in
                let outcome = try await ptreclaim("ctl", "\(pid)", "off", through: Self.asNobody)
                #expect(outcome.status == 1, "\(outcome)")
                #expect(outcome.errors.contains("closed the descriptor"), "\(outcome)")
            }
        }

        @Test(
            "A process that is off for good, or has no page, is told apart",
            arguments: [("hooks", "does nothing there"), ("off", "is not loaded there")])
        func nothingToSwitch(mode: String, words: String) async throws {
            let refused = ["MALLOC_CONF": "san_guard_small:1"]
            try await with("wait", mode: mode, refused) { pid in
                for action in ["on", "off", "now"] {
                    let outcome = try await ptreclaim("ctl", "\(pid)", action)
                    #expect(outcome.status == 1 && outcome.errors.contains(words), "\(outcome)")
                }
            }
        }

        // MARK: Stats

        @Test("stats shows reasons by name and waits as a histogram, and leaves zeros out")
        func stats() async throws {
            try await with("wait-numbers", mode: "hooks") { pid in
                let outcome = try await ptreclaim("stats", "\(pid)")
                #expect(
                    outcome.output.contains("\ntables_freed          4711  PTE tables freed"),
                    "\(outcome)")
                #expect(!outcome.output.contains("passes_cut_short"))
                #expect(!outcome.output.contains("refused_"))
                let tail = outcome.output.split(separator: "\n").suffix(21)
                    .map { String($0).replacing(/\ +$/, with: "") }
                #expect(
                    tail.prefix(7) == [
                        "tables kept, by reason:", "  populated             5",
                        "  reason 31             7",
                        "fences that a thread met, by the length of the fence:",
                        "  below 8 us            40      " + String(repeating: "#", count: 40),
                        "  below 16 us           0", "  below 32 us           1       #",
                    ])
                #expect(tail.last == "  262144 us or more     10      ##########")
                let json = try object(try await ptreclaim("stats", "\(pid)", "--json"))
                #expect(
                    Set(json.keys) == [
                        "schema", "pid", "mode", "backend", "is_off", "counters", "kept",
                        "fences_met_by_microseconds",
                    ])
                #expect(json["schema"] as? String == "ptreclaim.stats/2")
                #expect(json["is_off"] as? Bool == false)
                #expect(json["kept"] as? [String: Int] == ["populated": 5, "reason 31": 7])
                let waits = try #require(json["fences_met_by_microseconds"] as? [Int])
                #expect(waits.count == 20 && waits[3] == 40 && waits[5] == 1 && waits[19] == 10)
                let counters = try #require(json["counters"] as? [String: Int])
                #expect(counters["tables_freed"] == 4711 && counters["passes_cut_short"] == 0)
            }
        }

        // MARK: Doctor

        @Test("The doctor sees jemalloc and a seccomp filter in a process, and the library's mode")
        func doctor() async throws {
            try await with("wait-filtered", mode: "hooks") { pid in
                let outcome = try await ptreclaim("doctor", "\(pid)", "--json")
                #expect(outcome.status == 0, "\(outcome)")
                let process = try #require(try object(outcome)["process"] as? [String: Any])
                let findings = try #require(process["findings"] as? [[String: Any]])
                func finding(_ name: String) throws -> (status: String?, text: String) {
                    let found = try #require(findings.first { $0["name"] as? String == name })
                    return (found["status"] as? String, found["text"] as? String ?? "")
                }
                #expect(try finding("allocator").text.hasPrefix("jemalloc"))
                #expect(try finding("seccomp").status == "limited")
                #expect(try finding("no_new_privs").text.hasPrefix("set"))
                #expect(try finding("library").text == "loaded, mode hooks")
            }
            try await with("wait", mode: "hooks", ["MALLOC_CONF": "san_guard_small:1"]) { pid in
                let outcome = try await ptreclaim("doctor", "\(pid)")
                #expect(outcome.output.contains("ok       seccomp: no filter"), "\(outcome)")
                #expect(outcome.output.contains("no       library: loaded, and does"), "\(outcome)")
                #expect(outcome.output.contains("san_guard"), "\(outcome)")
            }
        }
    }
}
