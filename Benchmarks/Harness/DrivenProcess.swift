// SPDX-License-Identifier: Apache-2.0

import Foundation

/// A program that says "ready", does what it is told in lines, and ends with its input.
final class DrivenProcess {
    /// What it said behind "ready".
    let greeting: String
    /// The environment and command, as one would type it.
    let commandLine: String
    private let process = Process()
    private let input = Pipe()
    private let output = Pipe()

    var pid: Int32 { process.processIdentifier }

    /// Starts `command` with `environment` added to this program's own, and waits for "ready".
    init(_ command: [String], environment: [String: String]) throws {
        commandLine = RedisServer.line(environment, command)
        process.executableURL = URL(fileURLWithPath: command[0])
        process.arguments = Array(command.dropFirst())
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        process.standardInput = input
        process.standardOutput = output
        try process.run()
        let ready = Self.readLine(from: output.fileHandleForReading) {}
        guard ready.hasPrefix("ready") else {
            throw HarnessError("\(commandLine) did not come up: \(ready)")
        }
        greeting = String(ready.dropFirst("ready ".count))
    }

    private static func readLine(from handle: FileHandle, meanwhile: () -> Void) -> String {
        var line: [UInt8] = []
        while line.last != UInt8(ascii: "\n") {
            guard isReadable(handle.fileDescriptor, within: 100) else {
                meanwhile()
                continue
            }
            // Byte by byte: what comes behind the line is the next one's.
            guard let byte = try? handle.read(upToCount: 1), !byte.isEmpty else { break }
            line += byte
        }
        return String(decoding: line.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
    }

    /// The next line that it prints, or what there is of it when it ends.
    func line(meanwhile: () -> Void = {}) -> String {
        Self.readLine(from: output.fileHandleForReading, meanwhile: meanwhile)
    }

    /// Has it do `command`, which it answers with `ok OPERATIONS NANOSECONDS`.
    @discardableResult
    func work(_ command: String, meanwhile: () -> Void = {}) throws -> Work {
        try input.fileHandleForWriting.write(contentsOf: Data((command + "\n").utf8))
        let reply = line(meanwhile: meanwhile)
        let words = reply.split(separator: " ")
        guard words.count == 3, words[0] == "ok", let count = Int(words[1]),
            let nanoseconds = Double(words[2])
        else { throw HarnessError("\(commandLine), \(command): \(reply)") }
        var work = Work()
        work.add(operations: count, seconds: nanoseconds / 1e9)
        return work
    }

    func stop() {
        try? input.fileHandleForWriting.close()
        process.waitUntilExit()
    }
}
