// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// The Debian package, as `Packaging/build-deb` makes it.
extension ShimTests {
    static let missingForPackages =
        ["dpkg-deb", "dpkg-shlibdeps", "strip"].filter { PackageFiles.installed($0) == nil }
    static let missingForCleanRoots =
        ["debootstrap", "unshare"].filter { PackageFiles.installed($0) == nil }
        + (isRoot ? [] : ["root"])

    @Suite(.enabled(if: missingForPackages.isEmpty, "needs \(missingForPackages)"))
    struct PackageTests {
        /// Built once for a run of the tests.
        private static let package = Task {
            let directory = try TemporaryDirectory()
            return (directory, try await build(in: directory))
        }

        private static func build(in directory: TemporaryDirectory) async throws -> URL {
            let script = PackageFiles.root.appending(path: "Packaging/build-deb").path()
            let outcome = try await ShimBuild.run([script, directory.url.path()])
            return URL(filePath: outcome.output.trimmingCharacters(in: .whitespacesAndNewlines))
        }

        private func ask(_ command: String...) async throws -> String {
            try await ShimBuild.run(command, environment: ["LC_ALL": "C"]).output
        }

        @Test("The package needs what every Debian has, and no Swift")
        func dependencies() async throws {
            let (_, package) = try await Self.package.value
            let depends = try await ask("dpkg-deb", "-f", package.path(), "Depends")
            let names = depends.split(separator: ",").map {
                $0.split(whereSeparator: \.isWhitespace)[0]
            }
            #expect(Set(names) == ["libc6", "libgcc-s1", "libstdc++6"], "\(depends)")
        }

        @Test("Nothing in it belongs to who built it, and all is dated by the changelog")
        func contents() async throws {
            let (_, package) = try await Self.package.value
            let lines = try await ask("env", "TZ=UTC", "dpkg-deb", "-c", package.path())
                .split(separator: "\n")
            #expect(lines.count > 20)
            for line in lines {
                let fields = line.split(separator: " ")
                #expect(fields[1] == "root/root", "\(line)")
                #expect(!fields[0].contains("s") && fields[0].dropFirst(8).first != "w", "\(line)")
            }
            #expect(Set(lines.map { $0.split(separator: " ")[3...4] }).count == 1)
        }

        @Test("Packed once more it has the same bytes")
        func reproducible() async throws {
            let (_, package) = try await Self.package.value
            let first = try Data(contentsOf: package)
            let again = try TemporaryDirectory()
            #expect(try await Data(contentsOf: Self.build(in: again)) == first)
        }

        @Test(
            "lintian has nothing to say that is not explained",
            .enabled(if: PackageFiles.installed("lintian") != nil, "needs lintian"))
        func lintian() async throws {
            let (_, package) = try await Self.package.value
            let words = try await ask(
                "lintian", "--allow-root", "--info", "--display-info", "--fail-on",
                "error,warning,info", package.path())
            #expect(words.isEmpty, "\(words)")
        }

        @Test(
            "It works in a system that has never seen it, and leaves nothing behind",
            .enabled(if: missingForCleanRoots.isEmpty, "needs \(missingForCleanRoots)"))
        func cleanRoot() async throws {
            let (_, package) = try await Self.package.value
            let outcome = try await Victim.run(
                [
                    PackageFiles.root.appending(path: "Tests/Lab/deb-in-clean-root").path(),
                    package.path(),
                ],
                environment: ["HOME": ProcessInfo.processInfo.environment["HOME"] ?? "/root"],
                limit: .seconds(600))
            if outcome.status == 77 {
                try Test.cancel("\(outcome.output.trimmingCharacters(in: .newlines))")
            }
            #expect(outcome.status == 0, "\(outcome)")
            #expect(outcome.output.hasSuffix("passed.\n"), "\(outcome)")
        }

        @Test(
            "build-deb takes one directory, and refuses options",
            arguments: [["--help"], ["a", "b"]])
        func usage(arguments: [String]) async throws {
            let script = PackageFiles.root.appending(path: "Packaging/build-deb").path()
            let outcome = try await Victim.run([script] + arguments)
            #expect(outcome.status == 2)
            #expect(outcome.errors.hasPrefix("usage: "))
        }
    }
}
