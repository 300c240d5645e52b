// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

@Suite struct PrometheusTests {
    private static let promtool = PackageFiles.installed("promtool")
    private static let library = PackageFiles.executable("libptreclaim-preload.so")

    private func stats(_ arguments: String...) async throws -> Victim.Outcome {
        try await Victim.run(
            [PackageFiles.executable("ptreclaim"), "stats", "--format", "prometheus"] + arguments)
    }

    /// A victim whose page has numbers that are known, the library in it.
    private func withNumbers<Result>(
        _ body: (Int32) async throws -> Result
    ) async throws -> Result {
        let victim = try Victim.start(
            [PackageFiles.executable("jemalloc-victim"), "wait-numbers"],
            environment: ["PTRECLAIM_MODE": "hooks"], preloading: [URL(filePath: Self.library)])
        do {
            let ready = try await victim.line(startingWith: "ready: ", within: .seconds(20))
            let result = try await body(
                try #require(Int32(ready.dropFirst("ready: ".count))))
            _ = try await victim.end(within: .zero)
            return result
        } catch {
            _ = try await victim.end(within: .zero)
            throw error
        }
    }

    /// Runs promtool on `text`, and nothing must be said.
    private func check(_ text: String) async throws {
        guard let promtool = Self.promtool else { return }
        let directory = try TemporaryDirectory()
        let file = directory.url.appending(path: "metrics.prom")
        try text.write(to: file, atomically: true, encoding: .utf8)
        let outcome = try await Victim.run(
            ["/bin/sh", "-c", "exec \(promtool) check metrics <\(file.path())"])
        #expect(
            outcome.status == 0 && outcome.output.isEmpty && outcome.errors.isEmpty, "\(outcome)")
    }

    private func samples(_ outcome: Victim.Outcome) -> Set<Substring> {
        Set(outcome.output.split(separator: "\n").filter { !$0.hasPrefix("#") })
    }

    // MARK: Numbers

    @Test(
        "promtool has nothing to say of several processes",
        .enabled(if: promtool != nil, "needs prometheus"))
    func promtoolChecks() async throws {
        try await withNumbers { loaded in
            try await withSleep { plain in
                try await check(try await stats("\(loaded)", "\(plain)", "\(loaded)").output)
                try await check(try await stats("--all-processes").output)
            }
        }
    }

    @Test("counters end in _total, times are seconds, and the waits a cumulative histogram")
    func numbers() async throws {
        try await withNumbers { pid in
            let outcome = try await stats("\(pid)")
            try #require(outcome.status == 0 && outcome.errors.isEmpty, "\(outcome)")
            let samples = samples(outcome)
            let who = "pid=\"\(pid)\",command=\"jemalloc-victim\""
            for sample in [
                "ptreclaim_loaded{\(who)} 1", "ptreclaim_switched_off{\(who)} 0",
                "ptreclaim_tables_freed_total{\(who)} 4711",
                "ptreclaim_service_seconds_total{\(who)} 0.0",
                "ptreclaim_fence_longest_seconds{\(who)} 0.0",
                "ptreclaim_tables_empty_now{\(who)} 0",
                "ptreclaim_refusals_total{\(who),reason=\"no_jemalloc\"} 0",
                "ptreclaim_tables_kept_total{\(who),reason=\"populated\"} 5",
                "ptreclaim_tables_kept_total{\(who),reason=\"refilled\"} 0",
                "ptreclaim_tables_kept_total{\(who),reason=\"reason 31\"} 7",
                "ptreclaim_fence_met_seconds_bucket{\(who),le=\"4e-06\"} 0",
                "ptreclaim_fence_met_seconds_bucket{\(who),le=\"8e-06\"} 40",
                "ptreclaim_fence_met_seconds_bucket{\(who),le=\"3.2e-05\"} 41",
                "ptreclaim_fence_met_seconds_bucket{\(who),le=\"0.262144\"} 41",
                "ptreclaim_fence_met_seconds_bucket{\(who),le=\"+Inf\"} 51",
                "ptreclaim_fence_met_seconds_sum{\(who)} 0.0125",
                "ptreclaim_fence_met_seconds_count{\(who)} 51",
            ] { #expect(samples.contains(Substring(sample)), "\(sample)") }
            let info = try #require(samples.first { $0.hasPrefix("ptreclaim_info{") })
            #expect(
                info.contains(/,mode="hooks",backend="(dontneed|remap)",version="[0-9.]+"\}\ 1$/))
            #expect(!outcome.output.contains("_nanoseconds") && !outcome.output.contains("_ns"))
        }
    }

    @Test("a process without the library has the gauges alone, and those of inspect")
    func withoutLibrary() async throws {
        try await withSleep { pid in
            let samples = samples(try await stats("\(pid)"))
            let names = Set(samples.map { $0.prefix { $0 != "{" } })
            #expect(
                names.isSubset(of: [
                    "ptreclaim_loaded", "ptreclaim_vm_pte_bytes", "ptreclaim_needed_bytes",
                    "ptreclaim_waste_bytes", "ptreclaim_pmd_pud_bytes", "ptreclaim_live_tables",
                    "ptreclaim_empty_tables", "ptreclaim_reclaimable_tables",
                ]))
            let who = "{pid=\"\(pid)\",command=\"sleep\"}"
            #expect(samples.contains("ptreclaim_loaded\(who) 0"))
            let status = try String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)
            let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("VmPTE:") })
            let kilobytes = try #require(Int(line.filter(\.isNumber)))
            #expect(samples.contains("ptreclaim_vm_pte_bytes\(who) \(kilobytes * 1024)"))
        }
    }

    // MARK: Processes

    @Test("every metric is described once, whatever the number of processes")
    func describedOnce() async throws {
        try await withNumbers { first in
            try await withNumbers { second in
                let outcome = try await stats("\(first)", "\(second)")
                let heads = outcome.output.split(separator: "\n").filter { $0.hasPrefix("# TYPE") }
                #expect(heads.count > 40 && Set(heads).count == heads.count)
                for pid in [first, second] {
                    #expect(outcome.output.contains("ptreclaim_loaded{pid=\"\(pid)\""))
                }
            }
        }
    }

    @Test("all processes are those that have the library")
    func allProcesses() async throws {
        try await withNumbers { loaded in
            try await withSleep { plain in
                let outcome = try await stats("--all-processes")
                #expect(outcome.status == 0)
                #expect(outcome.output.contains("ptreclaim_loaded{pid=\"\(loaded)\""))
                #expect(!outcome.output.contains("{pid=\"\(plain)\""))
                let count = outcome.output.firstMatch(of: /\nptreclaim_processes\ ([0-9]+)\n/)
                #expect(try #require(count.flatMap { Int($0.1) }) >= 1)
            }
        }
    }

    @Test("a process that has ended is left out, which is said and no failure")
    func ended() async throws {
        try await withSleep { pid in
            let outcome = try await stats("2147483647", "\(pid)")
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.output.contains("ptreclaim_loaded{pid=\"\(pid)\""))
            #expect(outcome.errors.contains("no such process, or it has ended: left out"))
        }
    }

    @Test(
        "a process that may not be looked at is a failure where it was asked for",
        .enabled(if: Nobody.isPossible, "needs root and setpriv"))
    func closed() async throws {
        try await withSleep { pid in
            let named = try await Nobody.ptreclaim(["stats", "--format", "prometheus", "\(pid)"])
            #expect(named.status == 1 && named.errors.contains("EACCES (needs CAP_SYS_PTRACE"))
            let all = try await Nobody.ptreclaim([
                "stats", "--format", "prometheus", "--all-processes",
            ])
            #expect(all.status == 0 && all.errors.contains("left out: "), "\(all)")
        }
    }

    @Test("a name with quotes, backslashes, newlines and bytes that are no text is escaped")
    func names() async throws {
        let directory = try TemporaryDirectory()
        // A copy of sleep, named in octal, by a shell: names are bytes.
        let script = """
            name=$(printf 'q"\\\\\\n\\377x')
            cp "$(command -v sleep)" "\(directory.url.path())/$name"
            exec "\(directory.url.path())/$name" 600
            """
        let victim = try Victim.start(["/bin/sh", "-c", script])
        var outcome = try await stats("\(victim.pid)")
        for _ in 0..<200 where !outcome.output.contains("\\") {
            try await Task.sleep(for: .milliseconds(20))
            outcome = try await stats("\(victim.pid)")
        }
        _ = try await victim.end(within: .zero)
        let command = #"command="q\"\\\n"# + "\u{fffd}x\""
        #expect(outcome.output.contains(command), "\(outcome)")
        try await check(outcome.output)
    }

    @Test(
        "what contradicts is a usage error",
        arguments: [
            ["stats"], ["stats", "1", "2"], ["stats", "--all-processes"], ["stats", "0"],
            ["stats", "1", "--json", "--format", "human"],
            ["stats", "1", "--format", "prometheus", "--all-processes"],
            ["stats", "1", "--format", "xml"],
        ])
    func usage(arguments: [String]) async throws {
        let outcome = try await Victim.run([PackageFiles.executable("ptreclaim")] + arguments)
        #expect(outcome.status == 2 && outcome.output.isEmpty, "\(outcome)")
        #expect(outcome.errors.hasPrefix("Error: "))
    }

    // MARK: The how-to page

    /// The code below a marker `file: NAME` in the page.
    private func file(_ name: String) throws -> String {
        let page = PackageFiles.root.appending(path: "Documentation/howto/node-exporter.md")
        let parts = try String(contentsOf: page, encoding: .utf8)
            .components(separatedBy: "<!-- file: \(name) -->\n```")
        try #require(parts.count == 2, "\(name)")
        let lines = parts[1].components(separatedBy: "\n")
        return lines.dropFirst().prefix { $0 != "```" }.map { "\($0)\n" }.joined()
    }

    @Test("the script of the page writes the file, readable by all and in one go")
    func script() async throws {
        let directory = try TemporaryDirectory(mode: 0o755)
        let script = directory.url.appending(path: "ptreclaim-metrics")
        try file("ptreclaim-metrics").write(to: script, atomically: true, encoding: .utf8)
        let bin = URL(filePath: PackageFiles.executable("ptreclaim")).deletingLastPathComponent()
        func run(path: String) async throws -> Victim.Outcome {
            try await Victim.run(
                ["/bin/sh", script.path(), directory.url.path()], environment: ["PATH": path])
        }
        let result = directory.url.appending(path: "ptreclaim.prom").path()
        try await withNumbers { pid in
            let outcome = try await run(path: "\(bin.path()):/usr/bin:/bin")
            try #require(outcome.status == 0, "\(outcome)")
            let text = try String(contentsOfFile: result, encoding: .utf8)
            #expect(text.contains("ptreclaim_loaded{pid=\"\(pid)\""))
            let mode = try FileManager.default.attributesOfItem(atPath: result)[.posixPermissions]
            #expect(mode as? Int == 0o644)
            // A call that fails leaves the last good file.
            let failed = try await run(path: "/usr/bin:/bin")
            #expect(failed.status != 0)
            #expect(try String(contentsOfFile: result, encoding: .utf8) == text)
        }
    }

    @Test(
        "the alerts of the page are right, and fire",
        .enabled(if: promtool != nil, "needs prometheus"))
    func alerts() async throws {
        let directory = try TemporaryDirectory()
        let (rules, tests) = ("ptreclaim-rules.yml", "tests.yml")
        try file(rules).write(
            to: directory.url.appending(path: rules), atomically: true, encoding: .utf8)
        try Self.alertTests.write(
            to: directory.url.appending(path: tests), atomically: true, encoding: .utf8)
        let promtool = try #require(Self.promtool)
        let checked = try await Victim.run(
            [promtool, "check", "rules", directory.url.appending(path: rules).path()])
        #expect(checked.status == 0 && checked.output.contains("SUCCESS: 3 rules"), "\(checked)")
        let tested = try await Victim.run(
            [promtool, "test", "rules", directory.url.appending(path: tests).path()])
        #expect(tested.status == 0, "\(tested)")
    }

    /// Three processes: one whose waste is large, one where it is a small part, one of which threads
    /// wait long.
    private static let alertTests = """
        rule_files: [ptreclaim-rules.yml]
        evaluation_interval: 1m
        tests:
          - interval: 1m
            input_series:
              - {series: 'ptreclaim_waste_bytes{pid="7",command="a"}', values: 200000000x40}
              - {series: 'ptreclaim_vm_pte_bytes{pid="7",command="a"}', values: 400000000x40}
              - {series: 'ptreclaim_waste_bytes{pid="8",command="b"}', values: 200000000x40}
              - {series: 'ptreclaim_vm_pte_bytes{pid="8",command="b"}', values: 900000000x40}
              - series: 'ptreclaim_fence_met_seconds_bucket{pid="9",command="c",le="0.008192"}'
                values: 0+1x40
              - series: 'ptreclaim_fence_met_seconds_bucket{pid="9",command="c",le="0.016384"}'
                values: 0+100x40
              - series: 'ptreclaim_fence_met_seconds_bucket{pid="9",command="c",le="+Inf"}'
                values: 0+100x40
              - {series: 'node_textfile_mtime_seconds{file="/d/ptreclaim.prom"}', values: 600x40}
            alert_rule_test:
              - {eval_time: 10m, alertname: PageTableWaste}
              - eval_time: 25m
                alertname: PageTableWaste
                exp_alerts:
                  - exp_labels: {severity: warning, pid: "7", command: a}
                    exp_annotations:
                      summary: a (7) keeps 190.7MiB of page tables for nothing
                      description: ptreclaim inspect 7 shows where.
              - eval_time: 25m
                alertname: PageTableFencesLong
                exp_alerts:
                  - exp_labels: {severity: warning, pid: "9", command: c}
                    exp_annotations:
                      summary: >-
                        Threads of c (9) wait at fences, the longest hundredth 16.3ms and more
                      description: ptreclaim ctl 9 off ends that.
              - {eval_time: 15m, alertname: PageTableMetricsOld}
              - eval_time: 25m
                alertname: PageTableMetricsOld
                exp_alerts:
                  - exp_labels: {severity: warning, file: /d/ptreclaim.prom}
                    exp_annotations:
                      summary: ptreclaim-metrics has written nothing for 15m 0s
                      description: systemctl status ptreclaim-metrics.service says why.

        """
}
