// SPDX-License-Identifier: Apache-2.0

import Foundation
import ReclaimCore
import TestSupport
import Testing

/// The fence is to be had, and frees tables of mappings with attributes.
private let canFence =
    KernelAbilities.hasUserfaultfd && KernelAbilities.backends.contains(.dontneed)

@Suite(.enabled(if: KernelAbilities.showsTables, "needs PAGEMAP_SCAN, Linux 6.7"))
struct ExampleTests {
    @Test("The Swift example frees what is owned, and what another thread writes to")
    func call() async throws {
        let outcome = try await Victim.run([PackageFiles.executable("example-call")])
        try #require(outcome.status == 0, "\(outcome)")
        let numbers = outcome.numbers
        // Neither half need begin or end with a span.
        #expect(try #require(numbers["owned freed"]) >= 15, "\(outcome)")
        #expect(numbers["owned examined"] == numbers["owned freed"])
        #expect(numbers["written"] == 100_000)
        let shared = try #require(numbers["shared examined"])
        #expect(shared >= 15)
        if canFence {
            // The writer may or may not have begun.
            #expect(try #require(numbers["shared freed"]) >= shared - 1, "\(outcome)")
        } else {
            #expect(numbers["shared freed"] == 0)
        }
    }

    @Test(
        "virtio-mem: unplugged blocks leave no tables, and plugged ones keep what they hold",
        arguments: ["anonymous", "memfd"])
    func virtioMem(memory: String) async throws {
        let outcome = try await Victim.run(
            [PackageFiles.executable("example-virtio-mem"), memory], limit: .seconds(300))
        try #require(outcome.status == 0, "\(outcome)")
        let numbers = outcome.numbers
        let neededForTables = 256 * 2 * 4
        for name in ["without", "with"] {
            #expect(numbers["\(name) wrong bytes"] == 0)
            #expect(numbers["\(name) blocks plugged"] == 256)
            #expect(try #require(numbers["\(name) rounds of the guest"]) > 1000)
            #expect(try #require(numbers["\(name) VmPTE, kB"]) >= neededForTables)
        }
        // 3 x 1792 blocks were unplugged; some of them more than once.
        #expect(try #require(numbers["without waste, kB"]) > 20_000, "\(outcome)")
        guard memory == "memfd" || canFence else {
            #expect(outcome.output.contains("with kept, "))
            return
        }
        #expect(numbers["with tables freed"] == 3 * 1792 * 2)
        // What is wasted now are tables of the program itself, not of blocks.
        #expect(try #require(numbers["with waste, kB"]) < 200, "\(outcome)")
        #expect(try #require(numbers["with VmPTE, kB"]) < neededForTables + 1000, "\(outcome)")
    }
}

/// What the README shows is what compiles and runs.
@Suite("README, use from Swift and C")
struct ReadmeTests {
    /// The code blocks of the section in a language.
    private func blocks(_ language: String) throws -> [String] {
        let text = try String(
            contentsOf: PackageFiles.root.appending(path: "README.md"), encoding: .utf8)
        let section = try #require(
            text.components(separatedBy: "\n## ").first {
                $0.hasPrefix("Use it from Swift and C\n")
            }
        )
        return section.components(separatedBy: "```\(language)\n").dropFirst().map {
            $0.components(separatedBy: "```")[0]
        }
    }

    /// Lines that begin with `word`, which belong to the top of a file; and the others.
    private func split(_ block: String, at word: String) -> (top: [String], rest: [String]) {
        let lines = block.components(separatedBy: "\n")
        return (
            lines.filter { $0.hasPrefix(word) }, lines.filter { !$0.hasPrefix(word) }
        )
    }

    @Test("The Swift blocks compile and free tables")
    func swift() async throws {
        let blocks = try blocks("swift")
        try #require(blocks.count == 3)
        let parts = blocks.map { split($0, at: "import ") }
        #expect(parts.flatMap(\.top) == ["import PTReclaim"])
        #expect(blocks[0].contains("access: .owned"), "the first example needs no privilege")
        let source = """
            import Glibc
            \(parts.flatMap(\.top).joined(separator: "\n"))
            let span = 2 << 20
            let reserved = mmap(
                nil, 9 * span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
            let start = (UInt(bitPattern: reserved) + UInt(span) - 1) & ~UInt(span - 1)
            let end = start + UInt(8 * span)
            func makeEmptyTables() {
                for address in stride(from: start, to: end, by: span) {
                    let memory = UnsafeMutableRawPointer(bitPattern: address)!
                    madvise(memory, span, 15)
                    memory.storeBytes(of: 1, as: UInt8.self)
                    madvise(memory, 4096, MADV_DONTNEED)
                }
            }
            \(parts.map { "makeEmptyTables()\ndo {\n" + $0.rest.joined(separator: "\n") + "}" }
                .joined(separator: "\n"))
            """
        let directory = try TemporaryDirectory()
        let file = directory.url.appending(path: "main.swift")
        try source.write(to: file, atomically: true, encoding: .utf8)
        let program = directory.url.appending(path: "program").path()
        try await ShimBuild.run(
            ["swiftc", "-swift-version", "6", "-o", program] + (try builtModules())
                + [file.path()])
        let outcome = try await Victim.run([program])
        try #require(outcome.status == 0, "\(outcome)")
        let lines = outcome.output.split(separator: "\n")
        try #require(lines.count == 2)
        if KernelAbilities.showsTables { #expect(lines[0] == "8 0") }
        #expect(["8 0", "0 8", "0 0"].contains(lines[1]))
        if canFence { #expect(lines[1] == "8 0") }
    }

    /// Options that compile and link against the modules that these tests were built with.
    private func builtModules() throws -> [String] {
        let products = URL(filePath: PackageFiles.executable("Modules"))
            .deletingLastPathComponent()
        var options = [
            "-I", products.appending(path: "Modules").path(), "-Xcc",
            "-fmodule-map-file="
                + products.appending(path: "CLinuxMM.build/module.modulemap").path(),
        ]
        for module in ["PTReclaim", "LiveSpace", "ReclaimCore", "CLinuxMM"] {
            let objects = products.appending(path: "\(module).build")
            options += try FileManager.default.contentsOfDirectory(atPath: objects.path())
                .filter { $0.hasSuffix(".o") && !$0.hasSuffix(".swiftmodule.o") }
                .map { objects.appending(path: $0).path() }
        }
        return options
    }

    @Test(
        "The C block compiles and frees tables",
        .enabled(if: CLibrary.canBeLinked, "needs cc and pkg-config"))
    func c() async throws {
        let blocks = try blocks("c")
        try #require(blocks.count == 1)
        let (top, rest) = split(blocks[0], at: "#include ")
        let source = """
            #define _GNU_SOURCE
            \(top.joined(separator: "\n"))
            #include <stdio.h>
            #include <sys/mman.h>
            int main(void) {
                const size_t span = 2 << 20, length = 8 * span;
                char *reserved = mmap(
                    0, 9 * span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                char *start = (char *)(((uintptr_t)reserved + span - 1) & ~(span - 1));
                madvise(start, length, MADV_NOHUGEPAGE);
                for (size_t offset = 0; offset < length; offset += span) {
                    start[offset] = 1;
                    madvise(start + offset, 4096, MADV_DONTNEED);
                }
                \(rest.joined(separator: "\n"))
                printf("freed: %d\\n", (int)report.tables_freed);
                return 0;
            }
            """
        let directory = try TemporaryDirectory()
        let file = directory.url.appending(path: "main.c")
        try source.write(to: file, atomically: true, encoding: .utf8)
        let outcome = try await CLibrary.run(file.path())
        try #require(outcome.status == 0, "\(outcome)")
        #expect(outcome.errors == "")
        #expect(outcome.numbers["freed"] == 8)
    }
}
