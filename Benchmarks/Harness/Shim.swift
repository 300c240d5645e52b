// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation

struct HarnessError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// A mode of the preload library.
enum Mode: String, CaseIterable, ExpressibleByArgument, Codable {
    case hooks
    case madvise
    case scan
    case hooksAndScan = "hooks+scan"
    case auto

    /// The service thread frees in it, behind fences.
    var isFenced: Bool { self != .hooks }

    /// jemalloc's hooks free in it.
    var hasHooks: Bool { self == .hooks || self == .hooksAndScan }
}

/// The preload library that is measured. SwiftPM does not build a dynamic product for an
/// executable that does not link it, so this program builds it, always in release mode, beside
/// the build it is part of: the lock on that one is held by `swift run` itself.
struct Shim {
    let library: URL
    /// PTRECLAIM_MODE; nil: the library's own choice.
    var mode: Mode?
    /// More of its settings.
    var settings: [String: String] = [:]
    /// Another library to preload: an allocator.
    var allocator: String?

    static let packageRoot = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    private static let scratch = packageRoot.appending(path: ".build/shim")

    /// What a process needs to run with it.
    var environment: [String: String] {
        var environment = settings
        environment["LD_PRELOAD"] = [library.path, allocator].compactMap { $0 }
            .joined(separator: ":")
        if let mode { environment["PTRECLAIM_MODE"] = mode.rawValue }
        return environment
    }

    func `in`(_ mode: Mode?, settings: [String: String] = [:], over allocator: String? = nil)
        -> Shim
    {
        Shim(library: library, mode: mode, settings: settings, allocator: allocator)
    }

    /// Takes the library from PTRECLAIM_SHIM, or builds it.
    static func prepare() throws -> Shim {
        if let path = ProcessInfo.processInfo.environment["PTRECLAIM_SHIM"] {
            let library = URL(fileURLWithPath: path)
            guard FileManager.default.isReadableFile(atPath: library.path) else {
                throw HarnessError("PTRECLAIM_SHIM=\(path): no such file")
            }
            return Shim(library: library)
        }
        let directory = try build(product: "ptreclaim-preload", what: "the shim")
        let library = directory.appending(path: "libptreclaim-preload.so")
        guard FileManager.default.isReadableFile(atPath: library.path) else {
            throw HarnessError("\(library.path): was built and is not there")
        }
        return Shim(library: library)
    }

    /// Builds `jemalloc-churn` the same way and returns its path.
    static func buildEmbeddedChurn() throws -> URL {
        try build(product: "jemalloc-churn", what: "jemalloc-churn")
            .appending(path: "jemalloc-churn")
    }

    /// Returns the directory with the products. Builds each once.
    static func build(product: String, what: String) throws -> URL {
        let products = scratch.appending(path: "release")
        guard !Built.has(product) else { return products }
        let arguments = [
            "swift", "build", "-c", "release", "--package-path", packageRoot.path,
            "--scratch-path", scratch.path, "--product", product,
        ]
        Progress.say(
            "Building \(what) in release mode: swift build -c release --product \(product)")
        let result = try Tool.run("/usr/bin/env", arguments)
        guard result.status == 0 else {
            throw HarnessError("\(what) could not be built:\n\(result.output)")
        }
        Built.add(product)
        return products
    }
}

/// What this program has built so far. It has one thread.
private enum Built {
    nonisolated(unsafe) private static var products: Set<String> = []

    static func has(_ product: String) -> Bool { unsafe products.contains(product) }
    static func add(_ product: String) { unsafe products.insert(product) }
}

/// Other people's programs, run to their end.
enum Tool {
    static func find(_ name: String) -> String? {
        let path = ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin:/bin"
        return path.split(separator: ":").map { "\($0)/\(name)" }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    /// Returns standard output and error together.
    static func run(
        _ executable: String, _ arguments: [String], environment: [String: String] = [:]
    ) throws -> (status: Int32, output: String) {
        let process = Process()
        let output = Pipe()
        process.executableURL = URL(fileURLWithPath: executable)
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let data = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: data, as: UTF8.self))
    }
}

/// A new directory for this run, below the system's own for such things.
func makeRunDirectory() throws -> URL {
    let directory = FileManager.default.temporaryDirectory
        .appending(path: "ptreclaim-\(ProcessInfo.processInfo.processIdentifier)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    return directory
}
