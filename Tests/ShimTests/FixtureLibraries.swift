// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport

/// Small libraries and programs that SwiftPM cannot build for us: a jemalloc behind a prefix, and
/// constructors that run before the shim's. Compiled by the toolchain's clang for one test.
struct FixtureLibraries {
    static let clang: String? = (ProcessInfo.processInfo.environment["PATH"] ?? "")
        .split(separator: ":").flatMap { ["\($0)/clang", "\($0)/cc"] }
        .first { FileManager.default.isExecutableFile(atPath: $0) }

    static let objcopy = PackageFiles.installed("objcopy")

    static let staticJemalloc = [
        "/usr/lib/x86_64-linux-gnu/libjemalloc_pic.a", "/usr/lib64/libjemalloc_pic.a",
    ].first { FileManager.default.fileExists(atPath: $0) }

    static let sharedJemalloc = [
        "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2", "/usr/lib64/libjemalloc.so.2",
    ].first { FileManager.default.fileExists(atPath: $0) }

    private let directory: TemporaryDirectory

    init() throws {
        directory = try TemporaryDirectory()
    }

    func ownHooks() async throws -> URL {
        try await compile("own_hooks.c", as: "libown_hooks.so", ["-fPIC", "-shared", "-ljemalloc"])
    }

    /// A program whose jemalloc has `prefix` before its names, and whose malloc is libc's.
    func prefixedProgram(_ prefix: String) async throws -> URL {
        let map = directory.url.appending(path: "map")
        try "{ global: \(prefix)*; local: *; };"
            .write(to: map, atomically: true, encoding: .utf8)
        let name = "lib\(prefix)jemalloc.so"
        _ = try await compile(
            "prefixed.c", as: name,
            [
                "-DPREFIX=\(prefix)", "-fPIC", "-shared", "-Wl,--version-script=\(map.path())",
                "-Wl,--whole-archive", Self.staticJemalloc ?? "", "-Wl,--no-whole-archive",
                "-lpthread", "-ldl", "-lm", "-lstdc++",
            ])
        return try await compile(
            "prefixed_program.c", as: "program",
            [
                "-DPREFIX=\(prefix)", "-L\(directory.url.path())", "-l:\(name)",
                "-Wl,-rpath,\(directory.url.path())",
            ])
    }

    /// The same program on plain malloc, whatever that is; `options` say whether it is a PIE.
    func plainProgram(_ options: [String] = []) async throws -> URL {
        try await compile(
            "prefixed_program.c", as: "plain", ["-DPREFIX=", "-fno-builtin"] + options)
    }

    /// The same program with jemalloc linked into it as its malloc. Its mallctl, with what goes
    /// with it, is called `prefix`mallctl and exported, or not.
    func staticProgram(_ prefix: String, exported: Bool) async throws -> URL {
        let archive = directory.url.appending(path: "\(prefix)jemalloc.a")
        let names = ["mallctl", "mallctlnametomib", "mallctlbymib"]
        let renamed = try await Victim.run(
            [Self.objcopy ?? ""]
                + names.flatMap { ["--redefine-sym", "\($0)=\(prefix)\($0)"] }
                + [Self.staticJemalloc ?? "", archive.path()])
        guard renamed.status == 0 else {
            throw ShimBuild.Failure(description: "objcopy: \(renamed)")
        }
        let list = directory.url.appending(path: "list")
        let exports = exported ? names.map { "\(prefix)\($0); " }.joined() : "nothing; "
        try "{ \(exports)};".write(to: list, atomically: true, encoding: .utf8)
        return try await compile(
            "prefixed_program.c", as: "static",
            [
                "-DPREFIX=", "-fno-builtin", "-Wl,--dynamic-list=\(list.path())",
                "-Wl,--whole-archive", archive.path(), "-Wl,--no-whole-archive", "-lpthread",
                "-ldl", "-lm", "-lstdc++",
            ])
    }

    /// A library that interposes mmap, munmap and madvise, and goes on to the next of each.
    func wrapper() async throws -> URL {
        try await compile("wrapper.c", as: "libwrapper.so", ["-fPIC", "-shared"])
    }

    /// An allocator with one lock, held while it maps and gives memory back.
    func lockedMalloc() async throws -> URL {
        try await compile(
            "locked_malloc.c", as: "liblocked_malloc.so", ["-fPIC", "-shared", "-fno-builtin"])
    }

    private func compile(
        _ source: String, as name: String, _ options: [String]
    ) async throws -> URL {
        let file = PackageFiles.root.appending(path: "Tests/Fixtures/Libraries/\(source)")
        let result = directory.url.appending(path: name)
        let command = [Self.clang ?? "", "-std=c17", "-D_GNU_SOURCE", "-O1", "-o", result.path()]
        let outcome = try await Victim.run(command + [file.path()] + options)
        guard outcome.status == 0 else {
            throw ShimBuild.Failure(description: "\(source): \(outcome)")
        }
        return result
    }
}
