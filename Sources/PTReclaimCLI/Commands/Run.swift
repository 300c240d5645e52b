// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Glibc

struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Starts a command with the preload library in place.",
        discussion: """
            The command replaces ptreclaim (exec), so it keeps the process ID, and signals and the \
            exit status are its own. 127: no such command; 126: it cannot be executed.

            The library is the one that PTRECLAIM_SHIM names, or \(Shim.fileName) beside this \
            program, or in ../lib/ptreclaim or ../lib/\(Shim.multiarch).

            The library's other options go through the environment, as PTRECLAIM_DELAY_MS=100; \
            ptreclaim(1) has them all.

            Examples:
              ptreclaim run --mode scan -- node server.js
              ptreclaim run -- redis-server /etc/redis/redis.conf
              ptreclaim run --report -- redis-server --save ''
              PTRECLAIM_VERBOSE=1 ptreclaim run --mode scan -- mariadbd
            """)

    @Option(
        help: ArgumentHelp(
            "What the library does (PTRECLAIM_MODE). Without it the environment decides, or "
                + "auto.", valueName: "mode"))
    var mode: LibraryMode?

    @Flag(help: "Let the library say at exit what it did (PTRECLAIM_REPORT=1).")
    var report = false

    @Argument(
        parsing: .postTerminator, help: "The command and its arguments, after --.",
        completion: .file())
    var command: [String]

    func validate() throws {
        guard !command.isEmpty else { throw ValidationError("A command is missing after --.") }
    }

    func run() throws {
        guard let shim = Shim.find() else {
            PTReclaimCommand.fail(
                "\(Shim.fileName) is not found; name it with PTRECLAIM_SHIM=/path/to/it",
                command: "run")
        }
        guard !shim.contains(where: { $0 == ":" || $0.isWhitespace }) else {
            PTReclaimCommand.fail(
                "\(shim): the loader splits LD_PRELOAD at colons and spaces; move the library to a "
                    + "path without them", command: "run")
        }
        if let path = Executable.find(command[0]) {
            for reason in Executable(path: path).reasonsToIgnorePreload(of: shim) {
                PTReclaimCommand.note("the preload will be ignored: \(reason)", command: "run")
            }
        }
        let inherited = unsafe getenv("LD_PRELOAD").map { unsafe String(cString: $0) } ?? ""
        unsafe setenv("LD_PRELOAD", inherited.isEmpty ? shim : "\(shim):\(inherited)", 1)
        if let mode {
            unsafe setenv("PTRECLAIM_MODE", mode.rawValue, 1)
            if mode.isFenced, let reason = MachineCheckup().abilities.refusal(of: .scan) {
                PTReclaimCommand.note(
                    "mode \(mode.rawValue) will not be possible: \(reason); see ptreclaim doctor",
                    command: "run")
            }
        }
        if report { unsafe setenv("PTRECLAIM_REPORT", "1", 1) }
        // Sound: the copies live until exec replaces the program; after a failure it ends.
        var arguments = unsafe command.map { unsafe strdup($0) } + [nil]
        unsafe _ = execvp(command[0], &arguments)
        let failure = errno
        let text = unsafe String(cString: strerror(failure))
        PTReclaimCommand.fail(
            "\(command[0]): \(text)", command: "run", status: failure == ENOENT ? 127 : 126)
    }
}

/// Where the preload library is.
enum Shim {
    static let fileName = "libptreclaim-preload.so"

    /// Where Debian and Ubuntu have libraries, below lib: the loader looks there, too.
    static let multiarch = "x86_64-linux-gnu"

    /// An absolute path, or nil.
    static func find() -> String? {
        if let named = unsafe getenv("PTRECLAIM_SHIM") {
            return absolute(unsafe String(cString: named))
        }
        guard let executable = absolute("/proc/self/exe") else { return nil }
        let directory = executable.split(separator: "/").dropLast().joined(separator: "/")
        return ["", "../lib/ptreclaim/", "../lib/\(multiarch)/"].lazy
            .compactMap { absolute("/\(directory)/\($0)\(fileName)") }.first
    }

    private static func absolute(_ path: String) -> String? {
        guard let resolved = unsafe realpath(path, nil) else { return nil }
        defer { unsafe free(resolved) }
        return unsafe String(cString: resolved)
    }
}
