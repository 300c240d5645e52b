// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// The shim in jemallocs that this machine does not have: other Debian suites', unpacked beside it.
extension ShimTests {
    static let missingForJemallocs = ["apt-get", "dpkg"]
        .filter { PackageFiles.installed($0) == nil }

    @Suite(.enabled(if: missingForJemallocs.isEmpty, "needs \(missingForJemallocs)"))
    struct JemallocVersionTests {
        /// A libjemalloc.so.2 and, where it is too new for this machine's libc, its own loader.
        private struct Jemalloc {
            let library: URL
            let loader: String?

            /// Runs a program of this package, which links libjemalloc.so.2, with this one and the
            /// shim.
            func run(
                _ command: [String], environment: [String: String], limit: Duration
            ) async throws -> Victim.Outcome {
                let shim = try await ShimBuild.release()
                let directory = library.deletingLastPathComponent().path()
                guard let loader else {
                    return try await Victim.run(
                        command,
                        environment: environment.merging(["LD_LIBRARY_PATH": directory]) { $1 },
                        preloading: [shim], limit: limit)
                }
                return try await Victim.run(
                    [loader, "--library-path", directory, "--preload", shim.path()] + command,
                    environment: environment, limit: limit)
            }
        }

        /// Fetched once into $PTRECLAIM_LAB. Skips where it is not to be had.
        private func fetch(_ version: String) async throws -> Jemalloc {
            let variables = ProcessInfo.processInfo.environment
            let home = variables["HOME"] ?? NSHomeDirectory()
            let outcome = try await Victim.run(
                [
                    "/usr/bin/timeout", "60",
                    PackageFiles.root.appending(path: "Tests/Lab/fetch-jemalloc").path(),
                    variables["PTRECLAIM_LAB"] ?? "\(home)/.cache/ptreclaim-lab", version,
                ], environment: variables.filter { $0.key.lowercased().hasSuffix("_proxy") },
                limit: .seconds(70))
            let lines = outcome.output.split(separator: "\n").map(String.init)
            guard outcome.status == 0, let library = lines.first else {
                let reason = outcome.errors.split(separator: "\n").last ?? "it took too long"
                try Test.cancel("no jemalloc \(version) to be had here: \(reason)")
            }
            return Jemalloc(
                library: URL(filePath: library), loader: lines.count > 1 ? lines[1] : nil)
        }

        // A test each: of one case that is cancelled, nothing is said, and it counts as passed.
        @Test("It hooks every arena of jemalloc 5.2.1, and no byte changes")
        func version521() async throws { try await check("5.2.1") }

        @Test("It hooks every arena of jemalloc 5.3.0, and no byte changes")
        func version530() async throws { try await check("5.3.0") }

        @Test("It hooks every arena of jemalloc 5.3.1, and no byte changes")
        func version531() async throws { try await check("5.3.1") }

        private func check(_ version: String) async throws {
            let jemalloc = try await fetch(version)
            let environment = ["MALLOC_CONF": "dirty_decay_ms:0", "PTRECLAIM_VERBOSE": "1"]
            let tortured = try await jemalloc.run(
                [torture, "--seconds", "\(tortureSeconds)"],
                environment: environment.merging(["PTRECLAIM_REPORT": "1"]) { $1 },
                limit: .seconds(tortureSeconds + 60))
            #expect(tortured.status == 0, "\(tortured)")
            #expect(tortured.numbers["wrong bytes"] == 0, "\(tortured)")
            #expect(tortured.errors.contains("hooks on jemalloc \(version)-"), "\(tortured)")
            let zapped = tortured.errors.firstMatch(of: /; (\d+) spans zapped/)
            #expect(try #require(zapped.flatMap { Int($0.1) }) > 100, "\(tortured)")

            let arenas = try await jemalloc.run(
                [victim, "arenas"],
                environment: environment.merging(["MALLOC_CONF": "dirty_decay_ms:0,narenas:4"]) {
                    $1
                }, limit: .seconds(60))
            #expect(arenas.status == 0, "\(arenas)")
            let numbers = arenas.numbers
            #expect(numbers["mode"] == 1, "\(arenas)")
            #expect(try #require(numbers["arenas_hooked"]) >= 4, "\(arenas)")
            #expect(numbers["arenas_hooked"] == numbers["arenas"], "\(arenas)")
            #expect(try #require(numbers["spans_zapped"]) > 100, "\(arenas)")
        }
    }
}
