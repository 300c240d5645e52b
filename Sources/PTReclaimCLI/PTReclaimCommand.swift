// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Foundation
internal import Glibc

/// The command line. Exit status: 0 done, 1 failed, 2 usage.
@main
struct PTReclaimCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ptreclaim",
        abstract: "Shows the page tables that a process keeps for nothing, and frees them.",
        discussion: """
            Page tables stay when an allocator gives memory back. The waste is VmPTE minus what \
            the live pages need: see it with top, inspect and watch, get rid of it with run, which \
            starts a command with the preload library, and see with doctor what is possible here.

            Exit status: \(ExitStatus.list). run has that of the command that it runs.

            Examples:
              ptreclaim doctor
              ptreclaim top
              ptreclaim inspect $(pidof redis-server)
              ptreclaim run -- redis-server /etc/redis/redis.conf
              ptreclaim stats $(pidof redis-server)
            """,
        version: "ptreclaim \(version)",
        subcommands: [
            Doctor.self, Top.self, Inspect.self, Watch.self, Run.self, Stats.self, Ctl.self,
            Simulate.self, MeasureCosts.self, Conform.self, Manual.self,
        ])

    static let version = "0.1.0"

    static func main() {
        do {
            var command = try parseAsRoot()
            try command.run()
            endOutput()
        } catch {
            let status = exitCode(for: error)
            if status == .success || status == .validationFailure {
                // Help goes to stdout, usage to stderr, both worded by ArgumentParser.
                let message = fullMessage(for: error)
                if status != .success { failUsage(message) }
                print(message)
                endOutput()
                Glibc.exit(0)
            }
            fail("\(error)", command: nil)
        }
    }

    /// A report that did not arrive is none.
    private static func endOutput() {
        if let failure = StandardOutput.flush() { fail(failure, command: nil) }
    }

    private static func failUsage(_ message: String) -> Never {
        write("\(message)\n")
        Glibc.exit(2)
    }

    /// One line to stderr, exit status 1.
    static func fail(_ message: String, command: String?, status: Int32 = 1) -> Never {
        note(message, command: command)
        Glibc.exit(status)
    }

    /// One line to stderr.
    static func note(_ message: String, command: String?) {
        let name = command.map { "ptreclaim \($0)" } ?? "ptreclaim"
        write("\(name): \(message)\n")
    }

    private static func write(_ text: String) {
        // Where stderr is closed or full, nobody can be told.
        try? FileHandle.standardError.write(contentsOf: Data(text.utf8))
    }
}

struct ProcessArgument: ParsableArguments {
    @Argument(help: "Process ID.", completion: .processes)
    var pid: Int32

    func validate() throws {
        guard pid > 0 else { throw ValidationError("PID is a positive number.") }
    }
}
