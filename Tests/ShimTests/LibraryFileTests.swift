// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// What the library is to whoever loads it, read from the file.
@Suite(.enabled(if: ELFFile.canBeRead, "needs readelf and strip (binutils)"))
struct LibraryFileTests {
    private func library() async throws -> ELFFile { ELFFile(url: try await ShimBuild.release()) }

    @Test("The library needs libc and nothing else")
    func needed() async throws {
        #expect(try await library().needed() == ["libc.so.6"])
    }

    @Test("The library is at most 100 KB when stripped")
    func size() async throws {
        let stripped = FileManager.default.temporaryDirectory
            .appending(path: "ptreclaim-stripped-\(UUID().uuidString).so")
        defer { try? FileManager.default.removeItem(at: stripped) }
        let outcome = try await Victim.run([
            try #require(PackageFiles.installed("strip")), "-o", stripped.path(),
            try await ShimBuild.release().path(),
        ])
        try #require(outcome.status == 0, "\(outcome)")
        let byteCount = try #require(
            try FileManager.default.attributesOfItem(atPath: stripped.path())[.size] as? Int)
        #expect(byteCount <= 100_000)
    }

    @Test("The library exports what Shim/preload.map lists, and nothing else")
    func exports() async throws {
        let listed = try ELFFile.exportList("Shim/preload.map")
        #expect(try await library().exports() == listed)
        #expect(!listed.isEmpty)
    }

    @Test("The library imports only what can be called inside malloc, or at start")
    func imports() async throws {
        let constructorOnly: Set = [
            "dl_iterate_phdr", "dladdr", "dladdr1", "dlclose", "dlinfo", "dlopen", "dlsym",
            "environ", "secure_getenv", "strchr", "strcmp", "strncmp", "strspn", "strstr",
        ]
        // glibc's own heap: what a program's brk and sbrk move.
        let heap: Set = ["__curbrk", "__sbrk"]
        let allowed =
            ELFFile.harmlessImports.union(ELFFile.threadImports).union(constructorOnly)
            .union(heap)
        let imported = try await library().imports()
        #expect(imported.subtracting(allowed).isEmpty)
        // Said once more, whatever the list above becomes.
        let never: Set = [
            "malloc", "calloc", "realloc", "free", "aligned_alloc", "posix_memalign", "memalign",
            "printf", "fprintf", "dprintf", "snprintf", "vsnprintf", "puts", "fputs", "fopen",
            "fwrite", "fread", "stdout", "stderr",
        ]
        #expect(imported.isDisjoint(with: never))
        #expect(imported.contains("dlsym"), "the reading itself works")
    }
}
