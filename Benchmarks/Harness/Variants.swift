// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation

struct Variants: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "The churn with other settings of jemalloc and of the kernel, shim and plain.")

    @OptionGroup var options: ChurnOptions

    @Option(help: "How often to fill and delete.")
    var cycles = 1

    @Option(help: "Only the variants whose name contains this.")
    var only: String?

    /// One way in which the world differs from the default.
    struct Variant {
        let name: String
        var mallocOptions: String?
        var redisArguments: [String] = []
        var needsTHP = false
    }

    static let all = [
        Variant(name: "background_thread:true", mallocOptions: "background_thread:true"),
        Variant(name: "dirty_decay_ms:0", mallocOptions: "dirty_decay_ms:0"),
        Variant(name: "muzzy_decay_ms:1000", mallocOptions: "muzzy_decay_ms:1000"),
        Variant(name: "narenas:32", mallocOptions: "narenas:32"),
        // redis switches THP off for itself unless told otherwise.
        Variant(name: "THP always", redisArguments: ["--disable-thp", "no"], needsTHP: true),
    ]

    struct Document: Encodable {
        let schema = "ptreclaim.benchmarks.variants/1"
        var runs: [String: ChurnRun] = [:]
        var skipped: [String: String] = [:]
    }

    func run() throws {
        let shim = try Shim.prepare()
        let plan = options.plan(cycles: cycles)
        var document = Document()
        let chosen = Self.all.filter { variant in only.map { variant.name.contains($0) } ?? true }
        guard !chosen.isEmpty else { throw ValidationError("no variant is called \(only ?? "")") }
        for variant in chosen {
            var hugePages: HugePagesAlways?
            if variant.needsTHP {
                do {
                    hugePages = try HugePagesAlways()
                } catch {
                    document.skipped[variant.name] = "\(error)"
                    if !options.json { print("\n\(variant.name)\nSKIPPED: \(error)") }
                    continue
                }
            }
            defer { hugePages?.restore() }
            let run = try ChurnRun.play(
                plan, configurations: [.plain, .shim], shim: shim,
                mallocOptions: variant.mallocOptions, redisArguments: variant.redisArguments)
            document.runs[variant.name] = run
            if !options.json {
                print("\n\(variant.name)")
                run.print()
            }
        }
        if options.json { try printJSON(document) }
        let verdicts = document.runs.values.flatMap(\.verdicts)
        if verdicts.contains(where: { $0.status != .passed }) { throw ExitCode.failure }
    }
}

/// THP for everybody, for a while. A small shell puts the old value back at the end of its input,
/// so also when this program is killed.
final class HugePagesAlways {
    private static let path = "/sys/kernel/mm/transparent_hugepage/enabled"
    private let keeper = Process()
    private let keeperInput = Pipe()

    init() throws {
        let modes = (try? String(contentsOfFile: Self.path, encoding: .utf8)) ?? ""
        guard let old = modes.split(separator: "[").last?.split(separator: "]").first,
            modes.contains("[")
        else { throw HarnessError("this kernel has no THP") }
        guard FileManager.default.isWritableFile(atPath: Self.path) else {
            throw HarnessError("\(Self.path) can be written by root only")
        }
        keeper.executableURL = URL(fileURLWithPath: "/bin/sh")
        keeper.arguments = [
            "-c", "trap '' INT TERM HUP; read -r _; echo \"$1\" >\"$2\"", "keeper", String(old),
            Self.path,
        ]
        keeper.standardInput = keeperInput
        try keeper.run()
        do {
            try Data("always".utf8).write(to: URL(fileURLWithPath: Self.path))
        } catch {
            restore()
            throw error
        }
    }

    func restore() {
        try? keeperInput.fileHandleForWriting.close()
        keeper.waitUntilExit()
    }
}
