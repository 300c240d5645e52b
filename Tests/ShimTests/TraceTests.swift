// SPDX-License-Identifier: Apache-2.0

import Foundation
import ReclaimCore
import TestSupport
import Testing
import TraceFile

/// How many records of each kind a trace has.
struct TraceCounts {
    private(set) var commits = 0
    private(set) var decommits = 0
    private(set) var zapped = 0

    init(_ reader: TraceReader) throws {
        try reader.forEachRecord { _, record throws(TraceError) in
            zapped += record.zappedCount
            switch record.event {
            case .commit: commits += 1
            case .decommit: decommits += 1
            default: break
            }
        }
    }
}

/// What a prediction may be off by. Measured: 0 to 8 kB.
func expectClose(_ replay: TraceReplay, growth: Int) throws {
    let (median, furthest) = try #require(replay.medianAndFurthest)
    #expect(abs(median.difference) <= 16 * 1024 && median.differencePercent <= 5, "\(median)")
    #expect(abs(furthest.difference) <= 24 * 1024, "\(furthest)")
    #expect(replay.otherZapCount == 0)
    #expect(replay.misfitCount == 0)
    let peak = replay.samples.map(\.measured).max() ?? 0
    #expect(peak >= growth, "too little happened to be predicted")
}

extension ShimTests {
    /// What is recorded with PTRECLAIM_TRACE, and that recording does the program no harm.
    @Suite struct TraceTests {
        private let directory: TemporaryDirectory
        private var trace: String { directory.url.appending(path: "trace").path() }

        init() throws { directory = try TemporaryDirectory() }

        private func recording(_ more: [String: String] = [:]) -> [String: String] {
            purgeAtOnce.merging(["PTRECLAIM_TRACE": trace]) { $1 }.merging(more) { $1 }
        }

        private func record(
            _ act: String, _ more: [String: String] = [:]
        ) async throws -> Victim.Outcome {
            let outcome = try await runVictim(
                act, ShimBuild.release(), environment: recording(more))
            #expect(outcome.status == 0, "\(outcome)")
            return outcome
        }

        @Test(
            "A churn is predicted from its trace, and the rule zaps what the library zapped",
            arguments: ["auto", "remap"])
        func churn(backend: String) async throws {
            let outcome = try await record("churn", ["PTRECLAIM_BACKEND": backend])
            let reader = try TraceReader(path: trace)
            #expect(Int(reader.header.pid) == outcome.numbers["pid"])
            #expect(Int(reader.header.backend.rawValue) == outcome.numbers["backend"])
            #expect(reader.header.droppedCount == 0)
            let counts = try TraceCounts(reader)
            #expect(counts.commits == outcome.numbers["commits"])
            #expect(counts.decommits == outcome.numbers["decommits"])
            #expect(counts.zapped == outcome.numbers["spans_zapped"])
            try expectClose(TraceReplay(reader), growth: 150 * 1024)
        }

        @Test("ptreclaim simulate shows what was measured beside what is predicted")
        func command() async throws {
            _ = try await record("churn")
            let csv = directory.url.appending(path: "csv")
            let outcome = try await Victim.run([
                PackageFiles.executable("ptreclaim"), "simulate", "--trace", trace, "--csv",
                csv.path(),
            ])
            #expect(outcome.status == 0 && outcome.errors.isEmpty, "\(outcome)")
            let replay = try TraceReplay(TraceReader(path: trace))
            let lines = outcome.output.split(separator: "\n")
            #expect(lines[0].hasSuffix("measured kB predicted kB difference kB"))
            let counts = "\(replay.eventCount) events and \(replay.samples.count) samples"
            #expect(lines.contains(Substring(counts)))
            #expect(lines.last?.hasPrefix("difference: median ") == true, "\(outcome)")
            let rows = try String(contentsOf: csv, encoding: .utf8).split(separator: "\n")
            #expect(rows.count == replay.samples.count + 1)
            let last = try #require(replay.samples.last)
            let numbers = [last.vmPTEByteCount, last.measured, last.predicted, last.difference]
            #expect(
                rows.last?.split(separator: ",").dropFirst().compactMap { Int($0) } == numbers)
        }

        @Test("The same trace without its merges predicts other numbers")
        func withoutMerges() async throws {
            _ = try await record("churn")
            var bytes = [UInt8](try Data(contentsOf: URL(filePath: trace)))
            let right = try TraceReplay(TraceReader(bytes: bytes))
            let (merge, purgeLazy): (UInt8, UInt8) = (4, 5)
            for index in 0..<(try TraceReader(bytes: bytes)).header.recordCount
            where bytes[4096 + 32 * index + 31] == merge {
                bytes[4096 + 32 * index + 31] = purgeLazy
            }
            let wrong = try TraceReplay(TraceReader(bytes: bytes))
            let end = try #require(right.samples.last)
            let wrongEnd = try #require(wrong.samples.last)
            #expect(wrongEnd.predicted - end.predicted > 100 * 1024, "\(wrongEnd), \(end)")
        }

        @Test("Events of eight threads are in an order that can be replayed")
        func threads() async throws {
            let outcome = try await runTorture(
                ShimBuild.release(), seconds: 1,
                environment: recording(["MALLOC_CONF": "dirty_decay_ms:0"]))
            #expect(outcome.status == 0, "\(outcome)")
            let replay = try TraceReplay(TraceReader(path: trace))
            #expect(replay.eventCount > 1000)
            #expect(replay.otherZapCount == 0)
            #expect(replay.misfitCount == 0)
        }

        @Test("A forked child writes nothing into the trace of its parent")
        func fork() async throws {
            let outcome = try await record("fork")
            #expect(try #require(outcome.numbers["child.decommits"]) > 0)
            let counts = try TraceCounts(TraceReader(path: trace))
            #expect(counts.decommits == outcome.numbers["decommits"])
        }

        @Test("errno stays what it was, and descriptors are the program's own")
        func errnoAndDescriptors() async throws {
            for act in ["errno", "closefrom"] {
                _ = try await record(act)
                #expect(try TraceCounts(TraceReader(path: trace)).decommits > 1000, "\(act)")
                try FileManager.default.removeItem(atPath: trace)
            }
        }

        @Test("A trace that is full drops and counts, and what it has is good")
        func full() async throws {
            // However long this machine takes to fill it.
            let running = try Victim.start(
                [torture, "--seconds", "120"], environment: recording(["PTRECLAIM_TRACE_MB": "1"]),
                preloading: [try await ShimBuild.release()])
            for _ in 0..<6000 where (try? TraceReader(path: trace).header.droppedCount) ?? 0 == 0 {
                try await Task.sleep(for: .milliseconds(20))
            }
            let outcome = try await running.end(within: .zero)
            #expect(outcome.status == 128 + SIGKILL, "\(outcome)")
            let reader = try TraceReader(path: trace)
            #expect(reader.header.recordCount == ((1 << 20) - 4096) / 32)
            #expect(reader.header.droppedCount > 0)
            let replay = try TraceReplay(reader)
            #expect(replay.eventCount + replay.samples.count == reader.header.recordCount)
        }

        @Test("After kill -9 the trace is what was written until then")
        func killed() async throws {
            let running = try Victim.start(
                [torture, "--seconds", "60"], environment: recording(),
                preloading: [try await ShimBuild.release()])
            for _ in 0..<500 where (try? TraceReader(path: trace).header.recordCount) ?? 0 < 1000 {
                try await Task.sleep(for: .milliseconds(20))
            }
            let outcome = try await running.end(within: .zero)
            #expect(outcome.status == 128 + SIGKILL, "\(outcome)")
            let replay = try TraceReplay(TraceReader(path: trace))
            #expect(replay.eventCount > 900)
            #expect(replay.otherZapCount == 0)
        }

        @Test("A file that is there stays as it is; one line says so")
        func exists() async throws {
            try "mine".write(toFile: trace, atomically: false, encoding: .utf8)
            let outcome = try await record("churn")
            #expect(outcome.errors.contains("no trace: \(trace) exists already"), "\(outcome)")
            #expect(outcome.errors.split(separator: "\n").count == 1, "\(outcome)")
            #expect(try String(contentsOfFile: trace, encoding: .utf8) == "mine")
            #expect(try #require(outcome.numbers["spans_zapped"]) > 30)
        }

        @Test(
            "Where the file cannot be, the program runs on without, after one line",
            arguments: [
                ("rmdir $0", "no such directory"),
                ("ulimit -f 1000", "larger than a file may be"),
                ("mount -t tmpfs -o size=8m none $0", "no space"),
            ])
        func badWeather(preparation: String, words: String) async throws {
            let needsMount = preparation.hasPrefix("mount")
            if needsMount, !isRoot || PackageFiles.installed("unshare") == nil { return }
            let shim = try await ShimBuild.release()
            let script = "\(preparation); LD_PRELOAD=\(shim.path()) exec \(victim) churn"
            let shell = ["/bin/sh", "-c", script, directory.url.path()]
            let outcome = try await Victim.run(
                needsMount ? [PackageFiles.installed("unshare") ?? "", "-m"] + shell : shell,
                environment: recording())
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.errors.contains(words), "\(outcome)")
            #expect(outcome.errors.split(separator: "\n").count == 1, "\(outcome)")
            #expect(try #require(outcome.numbers["spans_zapped"]) > 30)
            #expect(!FileManager.default.fileExists(atPath: trace), "nothing is left behind")
        }
    }
}
