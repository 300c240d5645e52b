// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Foundation
internal import Glibc

/// The command line. Exit status: 0 done, 1 failed, 2 usage.
@main
struct PTReclaimCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ptreclaim",
        abstract: "Shows the page tables that a process keeps for nothing, and removes them.",
        version: "ptreclaim 0.1.0",
        subcommands: [
            Doctor.self, Inspect.self, Run.self, Stats.self, Ctl.self, Simulate.self,
            MeasureCosts.self, Conform.self, Top.self, Watch.self,
        ])

    static func main() {
        do {
            var command = try parseAsRoot()
            try command.run()
        } catch {
            let status = exitCode(for: error)
            if status == .success || status == .validationFailure {
                // Help goes to stdout, usage to stderr, both worded by ArgumentParser.
                let stream: FileHandle = status == .success ? .standardOutput : .standardError
                stream.write(Data((fullMessage(for: error) + "\n").utf8))
                Glibc.exit(status == .success ? 0 : 2)
            }
            fail("\(error)", command: nil)
        }
    }

    /// One line to stderr, exit status 1.
    static func fail(_ message: String, command: String?, status: Int32 = 1) -> Never {
        note(message, command: command)
        Glibc.exit(status)
    }

    /// One line to stderr.
    static func note(_ message: String, command: String?) {
        let name = command.map { "ptreclaim \($0)" } ?? "ptreclaim"
        FileHandle.standardError.write(Data("\(name): \(message)\n".utf8))
    }
}

struct ProcessArgument: ParsableArguments {
    @Argument(help: "Process ID.")
    var pid: Int32

    func validate() throws {
        guard pid > 0 else { throw ValidationError("PID is a positive number.") }
    }
}
