// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

private func ptreclaim(
    _ arguments: [String], environment: [String: String] = [:]
) async throws -> Victim.Outcome {
    try await Victim.run(
        [PackageFiles.executable("ptreclaim")] + arguments, environment: environment)
}

@Suite struct InspectTests {
    @Test("the JSON has exactly the promised keys")
    func keys() async throws {
        try await withSleep { pid in
            let result = try await ptreclaim(["inspect", "\(pid)", "--json"])
            #expect(result.status == 0)
            let object = try #require(
                try JSONSerialization.jsonObject(with: Data(result.output.utf8)) as? [String: Any])
            #expect(
                Set(object.keys) == [
                    "schema", "pid", "command", "vm_pte_bytes", "needed_bytes", "waste_bytes",
                    "waste_percent", "tables", "pmd_pud_bytes", "worst",
                ])
            #expect(object["schema"] as? String == "ptreclaim.inspect/1")
            #expect(object["pid"] as? Int == Int(pid))
            #expect(object["command"] as? String == "sleep")
            let tables = try #require(object["tables"] as? [String: Any])
            #expect(Set(tables.keys) == ["live", "empty", "reclaimable"])
        }
    }

    @Test("the human report names every figure")
    func report() async throws {
        try await withSleep { pid in
            let result = try await ptreclaim(["inspect", "\(pid)"])
            // Numbers differ from kernel to kernel: the shape is what is pinned.
            let shape = result.output.replacing(/[0-9]+(\.[0-9]+)?/, with: "N")
            #expect(
                shape == """
                    N sleep
                    VmPTE                 N kB
                    needed by live pages  N kB
                    waste                 N kB (N %)
                    PTE tables            N live, N empty, N of these reclaimable
                    PMD and PUD tables    N kB

                    """)
        }
    }

    @Test(
        "what is as wide as the terminal allows fits 80 columns, and takes more where it may",
        arguments: [["simulate", "server", "--scale", "1/512"], ["costs", "--rounds", "1"]])
    func widths(arguments: [String]) async throws {
        for (columns, isWider) in [(80, false), (200, true)] {
            let result = try await ptreclaim(arguments, environment: ["COLUMNS": "\(columns)"])
            #expect(result.status == 0, "\(result)")
            // The first line of `costs` is the machine's name.
            let widest = result.output.split(separator: "\n").dropFirst().map(\.count).max() ?? 0
            #expect(widest <= columns && (widest > 80) == isWider, "\(result)")
        }
    }

    @Test(
        "exit status is 1 for a failure and 2 for a usage error, said on stderr",
        arguments: [
            (["inspect", "2"], 1, "ptreclaim inspect: "),
            (["inspect", "2147483647"], 1, "no such process"),
            (["inspect", "x"], 2, "Usage:"), (["inspect"], 2, "Usage:"),
            (["stats", "2147483647"], 1, "ptreclaim stats: "),
            (["ctl", "2147483647", "off"], 1, "no such process"), (["ctl", "1"], 2, "Usage:"),
            (["ctl", "2", "on"], 1, "ptreclaim ctl: "), (["ctl", "1", "maybe"], 2, "Usage:"),
            (["doctor", "2147483647"], 1, "no such process"), (["doctor", "x"], 2, "Usage:"),
            (["doctor", "2"], 1, "a kernel thread"), (["doctor", "0"], 2, "Usage:"),
            (["run", "--mode", "magic", "--", "true"], 2, "Usage:"), (["frobnicate"], 2, "Usage:"),
            (["simulate"], 2, "Usage:"),
            (["simulate", "desktop"], 2, "no workload is called desktop"),
            (["simulate", "server", "--policy", "hope"], 2, "no policy is called hope"),
            (["simulate", "server", "--scale", "2"], 2, "the scale must be a number"),
            (["simulate", "server", "--costs", "/etc/passwd"], 2, "/etc/passwd: "),
            (["simulate", "--trace", "/nonexistent"], 2, "/nonexistent: No such file"),
            (["simulate", "--trace", "/tmp"], 2, "/tmp: Is a directory"),
            (["simulate", "--trace", "/etc/passwd"], 2, "not a file that PTRECLAIM_TRACE made"),
        ] as [([String], Int32, String)])
    func statuses(arguments: [String], status: Int32, words: String) async throws {
        let result = try await ptreclaim(arguments)
        #expect(result.status == status)
        #expect(result.errors.contains(words))
        #expect(result.output.isEmpty)
    }
}

@Suite struct RunTests {
    /// Any file that the loader skips with a warning will do: only `run` is looked at here.
    private let shim = ["PTRECLAIM_SHIM": "/proc/self/exe"]

    @Test(
        "the command's exit status is run's",
        arguments: [
            (["sh", "-c", "exit 0"], 0), (["sh", "-c", "exit 7"], 7),
            (["/nonexistent/program"], 127), (["no-such-program"], 127), (["/etc/passwd"], 126),
        ] as [([String], Int32)])
    func statuses(arguments: [String], status: Int32) async throws {
        let result = try await ptreclaim(["run", "--"] + arguments, environment: shim)
        #expect(result.status == status)
    }

    // Not SIGTERM and SIGINT: the test runner's threads block them, and children inherit that.
    @Test("the command's death by a signal is run's", arguments: [SIGKILL, SIGSEGV])
    func signals(number: Int32) async throws {
        let result = try await ptreclaim(
            ["run", "--", "sh", "-c", "kill -\(number) $$"], environment: shim)
        #expect(result.status == 128 + number)
    }

    @Test("the library comes before what was preloaded, and --report is passed on")
    func environment() async throws {
        var environment = shim
        environment["LD_PRELOAD"] = "/nonexistent/other.so"
        let result = try await ptreclaim(
            [
                "run", "--report", "--", "sh", "-c", "echo $LD_PRELOAD $PTRECLAIM_REPORT $1", "x",
                "-h",
            ],
            environment: environment)
        let words = result.output.split { $0.isWhitespace || $0 == ":" }
        #expect(words.count == 4)
        #expect(words.dropFirst() == ["/nonexistent/other.so", "1", "-h"])
    }

    @Test("the mode is passed on, each, and before what the environment says", arguments: modes)
    func mode(name: String) async throws {
        var environment = shim
        environment["PTRECLAIM_MODE"] = "off"
        let print = ["--", "sh", "-c", "echo $PTRECLAIM_MODE"]
        let named = try await ptreclaim(["run", "--mode", name] + print, environment: environment)
        #expect(named.status == 0 && named.output == "\(name)\n", "\(named)")
        let unnamed = try await ptreclaim(["run"] + print, environment: environment)
        #expect(unnamed.output == "off\n")
    }

    private static let modes = ["auto", "hooks", "madvise", "scan", "hooks+scan", "off"]

    @Test(
        "a mode that needs a fence is told to be impossible where there is none",
        .enabled(if: Nobody.isPossible, "needs root and setpriv"), arguments: ["scan", "hooks"])
    func modeWithoutFence(name: String) async throws {
        let result = try await Nobody.ptreclaim(
            ["run", "--mode", name, "--", "true"], environment: shim)
        #expect(result.status == 0)
        #expect(
            result.errors.contains("will not be possible: no fence") == (name == "scan"),
            "\(result)")
    }

    @Test("a library that is not there is an error that tells what to do")
    func missingLibrary() async throws {
        let result = try await ptreclaim(
            ["run", "--", "echo", "ran"], environment: ["PTRECLAIM_SHIM": "/nonexistent.so"])
        #expect(result.status == 1)
        #expect(result.errors.contains("PTRECLAIM_SHIM"))
        #expect(result.output.isEmpty)
    }

    @Test("a path that the loader would split is refused", arguments: ["a b", "a:b"])
    func splitPath(folder: String) async throws {
        let directory = try TemporaryDirectory()
        let place = directory.url.appending(path: folder)
        try FileManager.default.createDirectory(at: place, withIntermediateDirectories: true)
        let library = place.appending(path: "library.so").path(percentEncoded: false)
        try Data().write(to: URL(filePath: library))
        let result = try await ptreclaim(
            ["run", "--", "echo", "ran"], environment: ["PTRECLAIM_SHIM": library])
        #expect(result.status == 1 && result.output.isEmpty, "\(result)")
        #expect(result.errors.contains("splits LD_PRELOAD"), "\(result)")
    }

    @Test(
        "the library is found beside the program, and where packages put it",
        arguments: ["bin", "lib/ptreclaim", "lib/x86_64-linux-gnu"])
    func library(place: String) async throws {
        let directory = try TemporaryDirectory()
        let root = directory.url.resolvingSymlinksInPath()
        let files = FileManager.default
        for name in ["bin", place] {
            try files.createDirectory(
                at: root.appending(path: name), withIntermediateDirectories: true)
        }
        // A copy of its own: the program asks /proc/self/exe where it is. By a program that has
        // ended, or execve may say ETXTBSY, as below.
        let program = root.appending(path: "bin/ptreclaim").path()
        let made = try await Victim.run(["/bin/cp", PackageFiles.executable("ptreclaim"), program])
        try #require(made.status == 0, "\(made)")
        let library = root.appending(path: "\(place)/libptreclaim-preload.so").path()
        let show = [program, "run", "--", "sh", "-c", "echo $LD_PRELOAD"]
        let without = try await Victim.run(show)
        #expect(without.status == 1, "\(without)")
        #expect(without.errors.contains("PTRECLAIM_SHIM"))
        try Data("no library".utf8).write(to: URL(filePath: library))
        let found = try await Victim.run(show)
        #expect(found.status == 0, "\(found)")
        #expect(found.output == "\(library)\n")
    }

    private static let busybox = ["/bin/busybox", "/usr/bin/busybox"].first {
        FileManager.default.isExecutableFile(atPath: $0)
    }

    @Test(
        "a static program, and a script run by one, are told to ignore the preload",
        .enabled(if: busybox != nil, "needs busybox-static"), arguments: [false, true])
    func staticProgram(asScript: Bool) async throws {
        let busybox = try #require(Self.busybox)
        let script = FileManager.default.temporaryDirectory
            .appending(path: "ptreclaim-script-\(UUID().uuidString)")
        // By a program that has ended: a file that this process writes is open for a moment in
        // the children that other tests fork meanwhile, and then execve says ETXTBSY.
        let text = "printf '#!%s sh\\necho ran\\n' \(busybox) > \(script.path)"
        let made = try await Victim.run(["/bin/sh", "-c", "\(text) && chmod 755 \(script.path)"])
        try #require(made.status == 0, "\(made)")
        defer { try? FileManager.default.removeItem(at: script) }
        let command = asScript ? [script.path] : [busybox, "echo", "ran"]
        let result = try await ptreclaim(["run", "--"] + command, environment: shim)
        #expect(result.status == 0)
        #expect(result.output == "ran\n")
        #expect(result.errors.contains("static"))
    }

    @Test("nothing is said of a program that takes the preload")
    func dynamicProgram() async throws {
        let result = try await ptreclaim(["run", "--", "true"], environment: shim)
        #expect(!result.errors.contains("ptreclaim run:"))
    }
}
