// SPDX-License-Identifier: Apache-2.0

public import Foundation

/// A program that runs with or without the shim, its output captured, for a limited time.
public struct Victim: Sendable {
    /// How a program ended.
    public struct Outcome: Sendable, CustomStringConvertible {
        /// The exit status, or 128 + signal number.
        public let status: Int32
        public let timedOut: Bool
        public let output: String
        public let errors: String

        /// The `name: value` lines of the output whose value is a number.
        public var numbers: [String: Int] {
            var numbers: [String: Int] = [:]
            for line in output.split(separator: "\n") {
                let parts = line.split(separator: ":", maxSplits: 1)
                guard parts.count == 2 else { continue }
                numbers[String(parts[0])] = Int(parts[1].trimmingCharacters(in: .whitespaces))
            }
            return numbers
        }

        public var description: String {
            "status \(status)\(timedOut ? ", timed out" : "")\n\(output.suffix(2000))"
                + "\(errors.suffix(2000))"
        }
    }

    public let pid: Int32
    private let directory: URL
    private var outputFile: URL { directory.appending(path: "output") }
    private var errorFile: URL { directory.appending(path: "errors") }

    /// Starts `command` (an absolute path and its arguments) in an environment that holds PATH,
    /// `environment`, and nothing else that this process happens to have.
    ///
    /// Output goes to files, and the end is what `waitpid` says: a daemon that a command leaves
    /// behind keeps its descriptors open, and Foundation's `Process` waits until they are closed.
    public static func start(
        _ command: [String], environment: [String: String] = [:], preloading: [URL] = []
    ) throws -> Victim {
        let directory = FileManager.default.temporaryDirectory
            .appending(path: "ptreclaim-victim-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        var variables = ["PATH": Spawning.path]
        variables.merge(environment) { $1 }
        if !preloading.isEmpty {
            variables["LD_PRELOAD"] = preloading.map { $0.path() }.joined(separator: ":")
        }
        let writing = O_WRONLY | O_CREAT | O_TRUNC
        let output = directory.appending(path: "output").path()
        let errors = directory.appending(path: "errors").path()
        let pid = unsafe try Spawning.start(command, environment: variables) { actions in
            unsafe posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0)
            unsafe posix_spawn_file_actions_addopen(actions, 1, output, writing, 0o600)
            unsafe posix_spawn_file_actions_addopen(actions, 2, errors, writing, 0o600)
        }
        return Victim(pid: pid, directory: directory)
    }

    /// Starts `command` and waits for its end, killing it after `limit`.
    public static func run(
        _ command: [String], environment: [String: String] = [:], preloading: [URL] = [],
        limit: Duration = .seconds(60)
    ) async throws -> Outcome {
        let victim = try start(command, environment: environment, preloading: preloading)
        return try await victim.end(within: limit)
    }

    /// Waits for the end, killing the program after `limit`.
    public func end(within limit: Duration) async throws -> Outcome {
        var patience = Patience(limit)
        var timedOut = false
        var status: Int32 = 0
        while true {
            let ended = unsafe waitpid(pid, &status, WNOHANG)
            if ended != 0 { break }
            if patience.isOver, !timedOut {
                timedOut = true
                kill(pid, SIGKILL)
            }
            try await patience.wait()
        }
        defer { try? FileManager.default.removeItem(at: directory) }
        let signal = status & 0x7f
        return Outcome(
            status: signal == 0 ? (status >> 8) & 0xff : 128 + signal, timedOut: timedOut,
            output: String(decoding: try Data(contentsOf: outputFile), as: UTF8.self),
            errors: String(decoding: try Data(contentsOf: errorFile), as: UTF8.self))
    }

    /// The first whole line of the output so far that starts with `start`, waited for.
    public func line(startingWith start: String, within limit: Duration) async throws -> String {
        var patience = Patience(limit)
        while !patience.isOver {
            let output = String(decoding: try Data(contentsOf: outputFile), as: UTF8.self)
            let lines = output.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
            if let line = lines.first(where: { $0.hasPrefix(start) }) { return String(line) }
            try await patience.wait()
        }
        throw CocoaError(.fileReadUnknown)
    }

    /// Sends SIGTERM and waits.
    public func terminate() async throws -> Outcome {
        kill(pid, SIGTERM)
        return try await end(within: .seconds(20))
    }
}

/// Files of this package and of the build that this test belongs to.
public enum PackageFiles {
    public static let root = URL(filePath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    /// An executable of this package, built beside the tests.
    public static func executable(_ name: String) -> String {
        URL(filePath: "/proc/self/exe").resolvingSymlinksInPath()
            .deletingLastPathComponent().appending(path: name).path()
    }

    /// Where PATH has `name`, or nil.
    public static func installed(_ name: String) -> String? {
        ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"].map { "\($0)/\(name)" }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }
}
