// SPDX-License-Identifier: Apache-2.0

import Foundation
import ProcFS
import TestSupport
import Testing

let allocatorTorture = PackageFiles.executable("allocator-torture")
let fenceStop = PackageFiles.executable("fence-stop")

/// How long each torture of a mode runs: PTRECLAIM_TORTURE_SECONDS, or 2 s, as there are many.
let modeTortureSeconds =
    ProcessInfo.processInfo.environment["PTRECLAIM_TORTURE_SECONDS"].flatMap { Int($0) } ?? 2

/// Passes as many as there can be.
func eager(_ mode: String, delay: Int = 0) -> [String: String] {
    [
        "PTRECLAIM_MODE": mode, "PTRECLAIM_DELAY_MS": "\(delay)", "PTRECLAIM_WATERMARK_KB": "0",
        "PTRECLAIM_BUDGET_PERCENT": "100", "PTRECLAIM_VERBOSE": "1", "PTRECLAIM_REPORT": "1",
    ]
}

/// A program with the library in it, and what its stats page said last.
struct Watched: CustomStringConvertible {
    let outcome: Victim.Outcome
    let stats: StatsPage?

    static func run(
        _ command: [String], environment: [String: String], preloading: [URL], seconds: Int,
        meanwhile: @Sendable (Int32) async throws -> Void = { _ in }
    ) async throws -> Watched {
        let victim = try Victim.start(command, environment: environment, preloading: preloading)
        let pid = victim.pid
        let reader = Task {
            var last: StatsPage?
            while !Task.isCancelled {
                if let page = try? StatsPage.read(pid: pid) { last = page }
                try? await Task.sleep(for: .milliseconds(30))
            }
            return last
        }
        async let end = victim.end(within: .seconds(seconds + 90))
        try await meanwhile(pid)
        let outcome = try await end
        reader.cancel()
        return await Watched(outcome: outcome, stats: reader.value)
    }

    func count(_ name: String) throws -> UInt64 {
        try #require(stats?[name], "no \(name): \(self)")
    }

    var description: String {
        let names = [
            "passes", "tables_freed", "fences", "fences_met", "fence_longest_ns", "layout_waits",
            "layout_longest_ns", "fences_opened", "back_offs",
        ]
        let counts = names.map { "\($0) \(stats?[$0] ?? 0)" }.joined(separator: ", ")
        return "mode \(stats?.mode ?? "?"), \(counts)\n\(outcome)"
    }
}

/// The allocator behind malloc, by preloading it.
enum Allocator: String, CaseIterable, Sendable {
    case glibc
    case jemalloc = "libjemalloc.so.2"
    case tcmalloc = "libtcmalloc_minimal.so.4"
    case mimalloc = "libmimalloc.so.2"

    private static let directories = ["/usr/lib/x86_64-linux-gnu/", "/usr/lib/", "/usr/lib64/"]

    /// Nothing where it is glibc; nil where it is not installed.
    var libraries: [URL]? {
        if self == .glibc { return [] }
        return Self.directories.map { URL(filePath: $0 + rawValue) }
            .first { FileManager.default.fileExists(atPath: $0.path()) }.map { [$0] }
    }
}

extension ShimTests {
    /// Each mode with each allocator, under a torture whose every byte is checked, and beside threads
    /// that unmap, move, shrink and map again at the same address. Then the same library made wrong.
    @Suite(.enabled(if: KernelAbilities.hasFence, "needs a fence and PT_RECLAIM"))
    struct ModeTortureTests {
        struct Torture: Sendable, CustomTestStringConvertible {
            let mode: String
            let allocator: Allocator
            var delay = 0
            var options = ["--mappings"]
            var testDescription: String {
                "\(mode), \(allocator), \(delay) ms \(options.joined(separator: " "))"
            }
        }

        static let tortures =
            Allocator.allCases.flatMap { allocator in
                [
                    Torture(mode: "scan", allocator: allocator),
                    Torture(mode: "madvise", allocator: allocator),
                ]
            } + [
                Torture(mode: "hooks+scan", allocator: .jemalloc),
                Torture(
                    mode: "scan", allocator: .glibc, delay: 5, options: ["--mappings", "--fork"]),
                Torture(mode: "madvise", allocator: .tcmalloc, options: ["--mappings", "--fork"]),
                Torture(
                    mode: "hooks+scan", allocator: .jemalloc, options: ["--mappings", "--fork"]),
                Torture(mode: "madvise", allocator: .jemalloc, delay: 1, options: []),
                Torture(mode: "scan", allocator: .mimalloc, delay: 1, options: []),
            ]

        @Test("No byte changes and nobody is stuck, in each mode", arguments: tortures)
        func torture(_ torture: Torture) async throws {
            guard let allocator = torture.allocator.libraries else {
                try Test.cancel("\(torture.allocator.rawValue) is not installed")
            }
            let seconds = modeTortureSeconds
            let run = try await Watched.run(
                [allocatorTorture, "--seconds", "\(seconds)", "--threads", "4"] + torture.options,
                environment: eager(torture.mode, delay: torture.delay),
                preloading: [ShimBuild.release()] + allocator, seconds: seconds)
            print("\(torture.testDescription): \(run.description.prefix { $0 != "\n" })")
            #expect(run.outcome.status == 0, "\(run)")
            #expect(run.outcome.numbers["wrong"] == 0, "\(run)")
            #expect(!run.outcome.output.contains("stuck"), "\(run)")
            // On a busy machine a thread may wait for a CPU for longer than the watchdog does.
            let isOpened = try run.count("fences_opened") > 0
            #expect(run.stats?.mode == torture.mode || isOpened, "\(run)")
            #expect(try run.count("passes") > 10, "\(run)")
            // An allocator that keeps its memory leaves nothing to free.
            if torture.options.contains("--mappings") {
                #expect(try run.count("tables_freed") > 10, "\(run)")
                #expect(try run.count("fences") > 10, "\(run)")
            }
            if torture.options.contains("--fork") {
                #expect(try #require(run.outcome.numbers["forks"]) > 0, "\(run)")
            }
        }

        /// A library that is wrong, and slow where it matters; or only slow.
        struct Negative: Sendable, CustomTestStringConvertible {
            let mistake: SwitchedShim.Mistake
            var slowing: SwitchedShim.Step?
            var stopping: SwitchedShim.Step?
            var testDescription: String { "\(mistake)" }

            func run(isWrong: Bool) async throws -> Watched {
                try await Watched.run(
                    [fenceStop, "--seconds", "3"],
                    environment: eager("scan").merging(
                        SwitchedShim.environment(
                            isWrong ? mistake : nil, stopping: stopping, slowing: slowing)
                    ) { $1 }, preloading: [SwitchedShim.library()], seconds: 3)
            }
        }

        static let negatives = [
            Negative(mistake: .noFence, slowing: .afterSecondLook),
            Negative(mistake: .noSecondLook, slowing: .beforeRegister),
            Negative(mistake: .noLayoutLock, slowing: .afterSecondLook),
            // The watchdog opens the fence of a thread that then frees all the same.
            Negative(mistake: .noCommitment, stopping: .afterSecondLook),
        ]

        @Test(
            "A library that is wrong is found out, and one that is only slow is right",
            arguments: negatives)
        func wrongLibrary(_ negative: Negative) async throws {
            let wrong = try await negative.run(isWrong: true)
            #expect(wrong.outcome.status == 1 && !wrong.outcome.timedOut, "\(wrong)")
            #expect(wrong.outcome.errors.contains("wrong byte"), "\(wrong)")
            let right = try await negative.run(isWrong: false)
            #expect(right.outcome.status == 0, "\(right)")
            #expect(try right.count("fences") > 0, "\(right)")
        }

        @Test("A wake that is lost costs a tenth of a second, and no thread")
        func lostWake() async throws {
            let negative = Negative(mistake: .noReleaseWake, slowing: .afterSecondLook)
            let run = try await negative.run(isWrong: true)
            #expect(run.outcome.status == 0 && !run.outcome.timedOut, "\(run)")
            #expect(try run.count("layout_waits") > 0, "\(run)")
            #expect(try run.count("layout_longest_ns") > 90_000_000, "\(run)")
        }
    }
}
