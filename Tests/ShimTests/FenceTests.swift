// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

private let fenceTorture = PackageFiles.executable("fence-torture")

extension ShimTests {
    /// The fenced call against threads that write to the same memory: no write is lost, no thread
    /// waits for ever, in whatever weather. And libraries that are wrong on purpose, each of which
    /// the same program must find out.
    @Suite struct FenceTests {
        /// Skipped, with the program's reason, where no fence is to be had.
        private func run(
            _ library: URL, _ options: [String], seconds: Int
        ) async throws -> Victim.Outcome {
            let outcome = try await Victim.run(
                [fenceTorture, "--seconds", "\(seconds)"] + options,
                environment: ["LD_LIBRARY_PATH": library.deletingLastPathComponent().path()],
                limit: .seconds(seconds + 120))
            if outcome.status == 77 { try Test.cancel("\(outcome.output)") }
            return outcome
        }

        private func expectNothingLost(_ outcome: Victim.Outcome) throws {
            #expect(outcome.status == 0, "\(outcome)")
            let numbers = outcome.numbers
            #expect(numbers["lost writes"] == 0, "\(outcome)")
            #expect(numbers["refused accesses"] == 0, "\(outcome)")
            #expect(numbers["wrong children"] == 0, "\(outcome)")
            #expect(numbers["hangs"] == 0, "\(outcome)")
            #expect(try #require(numbers["writes"]) > 10_000)
            #expect(try #require(numbers["writes by the kernel"]) > 100)
        }

        @Test(
            "Eight threads write and purge while another calls: nothing is lost, nobody hangs",
            arguments: ["anonymous", "shared"],
            [[], ["--threads", "2", "--spans", "1"], ["--callers", "2"]])
        func torture(memory: String, options: [String]) async throws {
            let outcome = try await run(
                ShimBuild.release(.library), ["--memory", memory] + options,
                seconds: tortureSeconds)
            try expectNothingLost(outcome)
            #expect(try #require(outcome.numbers["tables freed"]) > 100)
        }

        @Test("A private memfd is kept: no fence would stop a write to it")
        func privateMemfd() async throws {
            let outcome = try await run(
                ShimBuild.release(.library), ["--memory", "private"], seconds: tortureSeconds)
            try expectNothingLost(outcome)
            #expect(outcome.numbers["tables freed"] == 0)
            #expect(try #require(outcome.numbers["kept privateFile"]) > 100)
        }

        struct Weather: Sendable, CustomTestStringConvertible {
            let name: String
            var seconds = 4
            var options: [String] = []
            var testDescription: String { name }
            var arguments: [String] { ["--weather", name] + options }
        }

        static let weathers = [
            Weather(name: "forks"),
            Weather(name: "children-call"),
            // A fence fails once in a process: many processes.
            Weather(name: "unregister-fails", seconds: 1, options: ["--rounds", "5"]),
            Weather(name: "wake-fails", seconds: 1, options: ["--rounds", "5"]),
            Weather(name: "both-fail", seconds: 1, options: ["--rounds", "5"]),
            Weather(name: "both-fail-beside-child", seconds: 1, options: ["--rounds", "5"]),
            // From before the first call on, which looks for what the kernel can.
            Weather(name: "closes", seconds: 1, options: ["--rounds", "6", "--threads", "2"]),
            Weather(name: "setuid"),
            Weather(name: "signals"),
            Weather(name: "fork-in-handler"),
            Weather(name: "grows"),
            Weather(name: "grows-down"),
            Weather(name: "registered-neighbor"),
        ]

        @Test("No weather loses a write or hangs anybody, parent or child", arguments: weathers)
        func weather(weather: Weather) async throws {
            let outcome = try await run(
                ShimBuild.release(.library), weather.arguments, seconds: weather.seconds)
            try expectNothingLost(outcome)
            #expect(try #require(outcome.numbers["weather"]) > 0)
        }

        @Test("A child that a signal handler forks out of a call gets through, at any instruction")
        func eachStep() async throws {
            // It ends when it has gone through a call, of about 1,300 instructions.
            let outcome = try await run(
                ShimBuild.release(.library), Self.stepping, seconds: 120)
            try expectNothingLost(outcome)
        }

        @Test("The process ends while calls run")
        func exit() async throws {
            let outcome = try await run(
                ShimBuild.release(.library), ["--weather", "exit", "--rounds", "6"], seconds: 1)
            try expectNothingLost(outcome)
        }

        struct Mutation: Sendable, CustomTestStringConvertible {
            let name: String
            let file: String
            let original: String
            let replacement: String
            let options: [String]
            /// At most: what is found out ends the run.
            var seconds = 120
            let finding: Finding
            var testDescription: String { name }
        }

        enum Finding: Sendable {
            case lost
            case hang
            case failedCall

            var status: Int32 { self == .hang ? 3 : 1 }
            var text: String {
                switch self {
                case .lost: "lost: "
                case .hang: "hang: "
                case .failedCall: "ptreclaim: "
                }
            }
        }

        /// Few spans and few writers: with many, the next fence over a span wakes who was left
        /// waiting there.
        private static let sharp = ["--threads", "2", "--spans", "1"]

        private static let stepping =
            ["--weather", "fork-at-each-step", "--threads", "1", "--spans", "1", "--callers", "0"]

        static let wrongOnes = [
            Mutation(
                name: "no-fence", file: "Sources/CLinuxMM/fence.c",
                original:
                    "ptreclaim_ioctl(fence->userfaultfd, PTRECLAIM_UFFDIO_REGISTER, &registration)",
                replacement: "0", options: ["--until-lost"], finding: .lost),
            Mutation(
                name: "no-second-look", file: "Sources/CLinuxMM/fence.c",
                original: "populated ? page & ~(span_bytes - 1) : end", replacement: "end",
                options: ["--until-lost"], finding: .lost),
            Mutation(
                name: "no-wake", file: "Sources/CLinuxMM/fence.c",
                original: "ptreclaim_ioctl(fence->userfaultfd, PTRECLAIM_UFFDIO_WAKE, &range)",
                replacement: "0", options: sharp, finding: .hang),
            Mutation(
                name: "what-grows-stays-registered",
                file: "Sources/LiveSpace/LiveSpace+Freeing.swift",
                original: "if let neighbors { unsafe letGoOfWhatGrew(",
                replacement: "if let neighbors, false { unsafe letGoOfWhatGrew(",
                options: sharp + ["--weather", "grows"], finding: .hang),
            Mutation(
                name: "what-grows-down-stays-registered",
                file: "Sources/LiveSpace/LiveSpace+Freeing.swift",
                original: "Self.extent(at: run.start - 1, maps)", replacement: "own",
                options: sharp + ["--weather", "grows-down"], finding: .hang),
            Mutation(
                name: "no-close-when-unregister-fails", file: "Sources/CLinuxMM/fence.c",
                original: "            ptreclaim_close(fence->userfaultfd);\n", replacement: "",
                // Longer than what counts as a hang: when the calls end, so does the thread, and
                // with it the descriptor.
                options: sharp + ["--weather", "both-fail", "--rounds", "10"], seconds: 8,
                finding: .hang),
            // The child holds the userfaultfd, so that closing it wakes nobody.
            Mutation(
                name: "descriptors-of-the-process", file: "Sources/CLinuxMM/service.c",
                original: "return take_own_descriptor_table();",
                replacement: "(void)take_own_descriptor_table;\n    return 0;",
                options: sharp + ["--weather", "both-fail-beside-child", "--rounds", "30"],
                seconds: 1, finding: .hang),
            // At every call, though the answer is kept: the one probe of a process may well pass
            // between two closings.
            Mutation(
                name: "probes-on-the-thread-of-the-caller",
                file: "Sources/LiveSpace/ReclaimCall.swift",
                original: "        case .shared: job.runOnServiceThread()",
                replacement: """
                            case .shared:
                                guard LiveSpace.frees(.dontneed) else {
                                    throw ReclaimError(.unsupported, errno: EOPNOTSUPP, range: range)
                                }
                                job.runOnServiceThread()
                    """,
                options: sharp + ["--weather", "closes", "--rounds", "6"], seconds: 1,
                finding: .failedCall),
            Mutation(
                name: "not-wiped-on-fork", file: "Sources/CLinuxMM/live_state.c",
                original: "4096, PTRECLAIM_MADV_WIPEONFORK", replacement: "4096, 0",
                options: sharp + ["--weather", "children-call"], finding: .hang),
            Mutation(
                name: "glibcs-signals-blocked", file: "Sources/CLinuxMM/service.c",
                original: "~(3ull << 31)", replacement: "~0ull",
                options: sharp + ["--weather", "setuid"], seconds: 5, finding: .hang),
            Mutation(
                name: "forgets-that-it-may-be-a-child", file: "Sources/CLinuxMM/service.c",
                original: "if (request != LEFT) {",
                replacement: "if (request != LEFT) {\nreturn 0;",
                options: stepping, seconds: 120, finding: .hang),
        ]

        @Test("The torture finds out a fence that is wrong", arguments: wrongOnes)
        func wrongFence(mutation: Mutation) async throws {
            let library = try await ShimBuild.mutated(
                mutation.name, of: .library, replacing: mutation.original,
                with: mutation.replacement, in: mutation.file)
            let outcome = try await run(library, mutation.options, seconds: mutation.seconds)
            #expect(outcome.status == mutation.finding.status && !outcome.timedOut, "\(outcome)")
            #expect(outcome.errors.contains(mutation.finding.text), "\(outcome)")
        }
    }
}
