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

    private let process: Process
    private let directory: URL
    private var outputFile: URL { directory.appending(path: "output") }
    private var errorFile: URL { directory.appending(path: "errors") }

    public var pid: Int32 { process.processIdentifier }

    /// Starts `command` (an absolute path and its arguments) in an environment that holds PATH and
    /// `environment`, and nothing else that this process happens to have.
    ///
    /// Output goes to files and not through pipes: a daemon that a command leaves behind keeps its
    /// descriptors open.
    public static func start(
        _ command: [String], environment: [String: String] = [:], preloading: [URL] = []
    ) throws -> Victim {
        let directory = FileManager.default.temporaryDirectory
            .appending(path: "ptreclaim-victim-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        let victim = Victim(process: Process(), directory: directory)
        try Data().write(to: victim.outputFile)
        try Data().write(to: victim.errorFile)
        let process = victim.process
        process.executableURL = URL(filePath: command[0])
        process.arguments = Array(command.dropFirst())
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = try FileHandle(forWritingTo: victim.outputFile)
        process.standardError = try FileHandle(forWritingTo: victim.errorFile)
        var variables = environment
        variables["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        if !preloading.isEmpty {
            variables["LD_PRELOAD"] = preloading.map { $0.path() }.joined(separator: ":")
        }
        process.environment = variables
        try process.run()
        return victim
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
        let deadline = ContinuousClock.now + limit
        var timedOut = false
        while process.isRunning {
            if ContinuousClock.now > deadline, !timedOut {
                timedOut = true
                kill(process.processIdentifier, SIGKILL)
            }
            try await Task.sleep(for: .milliseconds(10))
        }
        defer { try? FileManager.default.removeItem(at: directory) }
        let signalled = process.terminationReason == .uncaughtSignal
        return Outcome(
            status: process.terminationStatus + (signalled ? 128 : 0), timedOut: timedOut,
            output: String(decoding: try Data(contentsOf: outputFile), as: UTF8.self),
            errors: String(decoding: try Data(contentsOf: errorFile), as: UTF8.self))
    }

    /// Sends SIGTERM and waits.
    public func terminate() async throws -> Outcome {
        process.terminate()
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
