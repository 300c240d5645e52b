// SPDX-License-Identifier: Apache-2.0

import CReclaim
import Foundation
import ReclaimCore
import TestSupport
import Testing

/// The C library as `Shim/Library/install` leaves it.
enum CLibrary {
    private static let installed = Task {
        let prefix = scratch.appending(path: "prefix")
        try? FileManager.default.removeItem(at: prefix)
        try await install(prefix.path())
        return prefix
    }
    private static let scratch = PackageFiles.root.appending(path: ".build/shim")

    /// The prefix, installed once for a run of the tests.
    static func prefix() async throws -> URL { try await installed.value }

    static func install(_ prefix: String, stage: URL? = nil) async throws {
        let script = PackageFiles.root.appending(path: "Shim/Library/install").path()
        try await ShimBuild.run(
            [script, prefix, "--scratch-path", scratch.path()],
            environment: stage.map { ["DESTDIR": $0.path()] } ?? [:])
    }

    static let canBeLinked =
        PackageFiles.installed("cc") != nil && PackageFiles.installed("pkg-config") != nil

    /// What `pkg-config` answers about the installed library.
    static func pkgConfig(_ options: String...) async throws -> [String] {
        let directory = try await prefix().appending(path: "lib/pkgconfig").path()
        let outcome = try await ShimBuild.run(
            ["pkg-config"] + options + ["ptreclaim"], environment: ["PKG_CONFIG_PATH": directory])
        return outcome.output.split { $0 == " " || $0 == "\n" }.map(String.init)
    }

    /// Compiles a C program as a user of the library does, and runs it.
    static func run(_ source: String, _ arguments: String...) async throws -> Victim.Outcome {
        let directory = try TemporaryDirectory()
        let program = directory.url.appending(path: "program").path()
        try await ShimBuild.run(
            [
                "cc", "-std=c17", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O2", "-o", program,
                source,
            ] + (try await pkgConfig("--cflags", "--libs")))
        return try await Victim.run(
            [program] + arguments,
            environment: ["LD_LIBRARY_PATH": try await prefix().appending(path: "lib").path()])
    }
}

@Suite(
    "The C library, installed",
    .enabled(if: CLibrary.canBeLinked, "needs cc and pkg-config"))
struct CLibraryTests {
    @Test("The example frees the tables of what it gave back, and says so")
    func example() async throws {
        let outcome = try await CLibrary.run(
            PackageFiles.root.appending(path: "Tests/Examples/c/main.c").path())
        try #require(outcome.status == 0, "\(outcome)")
        let numbers = outcome.numbers
        let freed = try #require(numbers["freed"])
        #expect((31...32).contains(freed), "\(outcome)")
        let before = try #require(numbers["VmPTE before"])
        let after = try #require(numbers["VmPTE after"])
        #expect(before - after == freed * 4096)
    }

    @Test("Sizes, wrong arguments and results are as the header says")
    func interface() async throws {
        let outcome = try await CLibrary.run(
            PackageFiles.root.appending(path: "Tests/Fixtures/CInterface/main.c").path())
        #expect(outcome.status == 0, "\(outcome)")
        let checks = try #require(outcome.numbers["checks"])
        #expect(checks > 600)
        let names = KeptReason.allCases.prefix(Int(PTRECLAIM_KEPT_REASONS)).map {
            "reason \($0.rawValue) \($0.name)"
        }
        let lines = outcome.output.split(separator: "\n").map(String.init)
        #expect(lines.filter { $0.hasPrefix("reason ") } == names)
    }

    /// The service thread would keep a process alive whose own threads have all ended, and with
    /// every signal blocked not even SIGTERM would end it.
    @Test("A process ends with its own last thread")
    func mainLeaves() async throws {
        let outcome = try await CLibrary.run(
            PackageFiles.root.appending(path: "Tests/Fixtures/CInterface/main.c").path(),
            "main-leaves")
        #expect(outcome.status == 0, "\(outcome)")
        if outcome.output.contains("service thread: not there") {
            try Test.cancel("no service thread is to be had here")
        }
        #expect(outcome.output.contains("service thread: there"), "\(outcome)")
    }

    @Test("The header is C++ too")
    func cPlusPlus() async throws {
        let directory = try TemporaryDirectory()
        let source = directory.url.appending(path: "main.cpp")
        let program = directory.url.appending(path: "program").path()
        try """
        #include <ptreclaim.h>
        #include <ptreclaim.h>
        static_assert(sizeof(ptreclaim_report) == 192, "one layout for both");
        int main() {
            ptreclaim_report report = ptreclaim_report();
            report.size = sizeof(report);
            return ptreclaim(nullptr, 0, PTRECLAIM_OWNED, &report);
        }
        """.write(to: source, atomically: true, encoding: .utf8)
        let compiler = PackageFiles.installed("c++") ?? "clang++"
        try await ShimBuild.run(
            [
                compiler, "-std=c++11", "-pedantic", "-Wall", "-Wextra", "-Werror", "-o", program,
                source.path(),
            ] + (try await CLibrary.pkgConfig("--cflags", "--libs")))
        let library = try await CLibrary.prefix().appending(path: "lib").path()
        let outcome = try await Victim.run([program], environment: ["LD_LIBRARY_PATH": library])
        #expect(outcome.status == 0, "\(outcome)")
    }

    @Test("DESTDIR is where the files go, and not what they say")
    func stagedInstall() async throws {
        let stage = try TemporaryDirectory()
        try await CLibrary.install("/opt/pt & reclaim", stage: stage.url)
        let installed = stage.url.path() + "/opt/pt & reclaim"
        for file in ["lib/libptreclaim-c.so", "include/ptreclaim.h"] {
            #expect(FileManager.default.fileExists(atPath: "\(installed)/\(file)"))
        }
        let text = try String(
            contentsOfFile: "\(installed)/lib/pkgconfig/ptreclaim.pc", encoding: .utf8)
        #expect(text.contains("prefix=/opt/pt & reclaim\n"))
        #expect(!text.contains("@"))
        #expect(!text.contains(stage.url.lastPathComponent))
    }

    @Test("A prefix that is no absolute path is refused")
    func wrongPrefix() async throws {
        let script = PackageFiles.root.appending(path: "Shim/Library/install").path()
        for arguments in [[], ["relative"]] {
            let outcome = try await Victim.run([script] + arguments)
            #expect(outcome.status == 2)
            #expect(outcome.errors.hasPrefix("usage: "))
        }
    }
}

/// What the C library is to whoever loads it, read from the file.
@Suite(
    "The C library, its file", .enabled(if: ELFFile.canBeRead, "needs readelf and strip (binutils)")
)
struct CLibraryFileTests {
    private func library() async throws -> ELFFile {
        ELFFile(url: try await CLibrary.prefix().appending(path: "lib/libptreclaim-c.so"))
    }

    @Test("It needs libc and nothing else")
    func needed() async throws {
        #expect(try await library().needed() == ["libc.so.6"])
    }

    @Test("It exports what Shim/library.map lists, which is what the header declares")
    func exports() async throws {
        let listed = try ELFFile.exportList("Shim/library.map")
        #expect(try await library().exports() == listed)
        let header = try String(
            contentsOf: PackageFiles.root.appending(path: "Sources/CReclaim/include/ptreclaim.h"),
            encoding: .utf8)
        let declared = header.matches(of: /(?m)^[a-z][a-z *]*?(ptreclaim\w*)\(/).map {
            String($0.output.1)
        }
        #expect(Set(declared) == listed)
    }

    @Test("It imports no allocator and no stdio")
    func imports() async throws {
        let allowed =
            ELFFile.harmlessImports.union(ELFFile.threadImports).union(["pthread_create"])
        let imported = try await library().imports()
        #expect(imported.subtracting(allowed) == [])
        #expect(imported.contains("pthread_create"), "the reading itself works")
    }
}

/// The numbers of the C interface are those of the core.
struct CInterfaceTests {
    @Test("Each reason has one number")
    func reasons() {
        let numbers: [(Int, KeptReason)] = [
            (PTRECLAIM_KEPT_PARTIAL, .partial), (PTRECLAIM_KEPT_POPULATED, .populated),
            (PTRECLAIM_KEPT_ABSENT, .absent), (PTRECLAIM_KEPT_CROSSES_VMA, .crossesVMA),
            (PTRECLAIM_KEPT_SPECIAL_VMA, .specialVMA), (PTRECLAIM_KEPT_REFILLED, .refilled),
            (PTRECLAIM_KEPT_BACKEND_FAILED, .backendFailed),
            (PTRECLAIM_KEPT_STILL_THERE, .stillThere), (PTRECLAIM_KEPT_UNMAPPED, .unmapped),
            (PTRECLAIM_KEPT_OWN_STACK, .ownStack), (PTRECLAIM_KEPT_PRIVATE_FILE, .privateFile),
            (PTRECLAIM_KEPT_WRITE_PROTECT_REGISTERED, .writeProtectRegistered),
            (PTRECLAIM_KEPT_REGISTERED, .registered),
            (PTRECLAIM_KEPT_FENCE_UNAVAILABLE, .fenceUnavailable),
            (PTRECLAIM_KEPT_LOCKED, .locked),
            (PTRECLAIM_KEPT_TOO_MANY_MAPPINGS, .tooManyMappings),
            (PTRECLAIM_KEPT_LOSES_ATTRIBUTES, .losesAttributes),
            (PTRECLAIM_KEPT_FORKING, .forking),
        ]
        for (number, reason) in numbers {
            #expect(number == reason.rawValue)
        }
        // A caller vouches for the mappings.
        #expect(numbers.map(\.1) + [.unseenMapping, .switchedOff] == KeptReason.allCases)
        #expect(PTRECLAIM_KEPT_REASONS == numbers.count)
        #expect(KeptReason.count == KeptReason.allCases.count)
    }

    @Test("Access, backends and the size of a report")
    func otherNumbers() {
        #expect(PTRECLAIM_SHARED == ReclaimAccess.shared.rawValue)
        #expect(PTRECLAIM_OWNED == ReclaimAccess.owned.rawValue)
        #expect(PTRECLAIM_BACKEND_DONTNEED == Backend.dontneed.rawValue)
        #expect(PTRECLAIM_BACKEND_REMAP == Backend.remap.rawValue)
        #expect(PTRECLAIM_BACKEND_MAPFIXED == Backend.mapfixed.rawValue)
        #expect(Backend.allCases.map(\.rawValue) == [1, 2, 3])
        #expect(MemoryLayout<ptreclaim_report>.size == 192)
    }
}
