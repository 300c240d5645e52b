// SPDX-License-Identifier: Apache-2.0

public import Foundation

/// How a program ended and what it said.
public struct CommandResult: Sendable {
    /// As the process ended: `status` is the signal's number where `wasSignalled`.
    public let status: Int32
    public let wasSignalled: Bool
    public let output: String
    public let errors: String
}

public enum CommandRunner {
    /// Runs a program to its end. `environment` is added to this process's; nil takes a name out.
    public static func run(
        _ program: URL, _ arguments: [String], environment: [String: String?] = [:]
    ) throws -> CommandResult {
        // Files, not pipes: a program that says much cannot block.
        let folder = FileManager.default.temporaryDirectory
            .appending(path: "ptreclaim-test-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: false)
        defer { try? FileManager.default.removeItem(at: folder) }
        let names = ["output", "errors"].map { folder.appending(path: $0) }
        for name in names { try Data().write(to: name) }
        let process = Process()
        process.executableURL = program
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging(
            environment.compactMapValues { $0 }
        ) { $1 }.filter { name, _ in environment[name] != .some(nil) }
        process.standardOutput = try FileHandle(forWritingTo: names[0])
        process.standardError = try FileHandle(forWritingTo: names[1])
        try process.run()
        process.waitUntilExit()
        return CommandResult(
            status: process.terminationStatus,
            wasSignalled: process.terminationReason == .uncaughtSignal,
            output: String(decoding: try Data(contentsOf: names[0]), as: UTF8.self),
            errors: String(decoding: try Data(contentsOf: names[1]), as: UTF8.self))
    }

    /// Runs `body` beside `sleep`, once that has finished its start.
    public static func withSleep<Result>(_ body: (Int32) throws -> Result) throws -> Result {
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = ["sleep", "600"]
        try process.run()
        defer {
            // A thread of the test runner blocks SIGTERM, and the child inherits that.
            kill(process.processIdentifier, SIGKILL)
            process.waitUntilExit()
        }
        let folder = "/proc/\(process.processIdentifier)"
        for _ in 0..<1000 {
            let comm = try String(contentsOfFile: "\(folder)/comm", encoding: .utf8)
            let state = try String(contentsOfFile: "\(folder)/status", encoding: .utf8)
            if comm == "sleep\n", state.contains("State:\tS") { break }
            Thread.sleep(forTimeInterval: 0.005)
        }
        return try body(process.processIdentifier)
    }
}
