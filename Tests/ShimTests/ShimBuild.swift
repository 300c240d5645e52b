// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport

/// Builds of the libraries, in release mode and in directories of their own: `swift test` holds the
/// lock on `.build`.
enum ShimBuild {
    enum Product: String {
        case preload = "ptreclaim-preload"
        case library = "ptreclaim-c"
    }

    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    private static let preload = Task { try await build(.preload) }
    private static let library = Task {
        // One at a time in the directory of both.
        _ = try await preload.value
        return try await build(.library)
    }

    /// The library as it is, built once for a run of the tests.
    static func release(_ product: Product = .preload) async throws -> URL {
        switch product {
        case .preload: try await preload.value
        case .library: try await library.value
        }
    }

    private static func build(_ product: Product) async throws -> URL {
        try await build(
            product, package: PackageFiles.root,
            scratch: PackageFiles.root.appending(path: ".build/shim"))
    }

    /// The library with one piece of its source replaced.
    ///
    /// The package around it is cut down to what the library needs, so nothing is fetched and the
    /// other targets are not planned; every flag is the original's.
    static func mutated(
        _ name: String, of product: Product = .preload, replacing original: String,
        with replacement: String, in file: String
    ) async throws -> URL {
        try await mutated(
            name, of: product,
            [Edit(file: file, original: original, replacement: replacement)])
    }

    /// One piece of a source file, and what stands in its place.
    struct Edit: Sendable {
        let file: String
        let original: String
        let replacement: String
    }

    static func mutated(
        _ name: String, of product: Product = .preload, _ edits: [Edit]
    ) async throws -> URL {
        let package = PackageFiles.root.appending(path: ".build/shim-mutants/\(name)")
        let files = FileManager.default
        for directory in ["Sources", "Shim"] {
            try? files.removeItem(at: package.appending(path: directory))
        }
        try files.createDirectory(
            at: package.appending(path: "Sources"), withIntermediateDirectories: true)
        for directory in [
            "Shim", "Sources/CLinuxMM", "Sources/CStatsPage", "Sources/CTraceFile",
            "Sources/CReclaim", "Sources/ReclaimCore", "Sources/LiveSpace",
        ] {
            try files.copyItem(
                at: PackageFiles.root.appending(path: directory),
                to: package.appending(path: directory))
        }
        try reducedManifest().write(
            to: package.appending(path: "Package.swift"), atomically: true, encoding: .utf8)
        for edit in edits { try apply(edit, in: package) }
        return try await build(
            product, package: package, scratch: package.appending(path: ".build"))
    }

    private static func apply(_ edit: Edit, in package: URL) throws {
        let target = package.appending(path: edit.file)
        let source = try String(contentsOf: target, encoding: .utf8)
        let pieces = source.components(separatedBy: edit.original)
        guard pieces.count == 2 else {
            throw Failure(
                description: "\(edit.file) has \(pieces.count - 1) times what is to be replaced: "
                    + edit.original)
        }
        try pieces.joined(separator: edit.replacement)
            .write(to: target, atomically: true, encoding: .utf8)
    }

    private static func build(
        _ product: Product, package: URL, scratch: URL
    ) async throws -> URL {
        try await run([
            "swift", "build", "-c", "release", "--product", product.rawValue, "--package-path",
            package.path(), "--scratch-path", scratch.path(),
        ])
        return scratch.appending(path: "release/lib\(product.rawValue).so")
    }

    /// Runs a command that builds, with the environment of a build from a shell. Throws unless it
    /// succeeds.
    @discardableResult
    static func run(
        _ command: [String], environment more: [String: String] = [:]
    ) async throws -> Victim.Outcome {
        var environment = ProcessInfo.processInfo.environment.filter {
            !$0.key.hasPrefix("SWIFT_TESTING") && $0.key != "LD_PRELOAD"
        }
        environment["SWIFTPM_BUILD_TESTS"] = nil
        environment.merge(more) { $1 }
        let outcome = try await Victim.run(
            ["/usr/bin/env"] + command, environment: environment, limit: .seconds(600))
        guard outcome.status == 0 else {
            throw Failure(description: "\(command.joined(separator: " ")): \(outcome)")
        }
        return outcome
    }

    /// The head of the manifest with its settings, and of the targets those of the libraries.
    private static func reducedManifest() throws -> String {
        let manifest = try String(
            contentsOf: PackageFiles.root.appending(path: "Package.swift"), encoding: .utf8)
        func part(from start: String, upTo end: String) throws -> Substring {
            guard let first = manifest.range(of: start),
                let last = manifest.range(of: end, range: first.lowerBound..<manifest.endIndex)
            else { throw Failure(description: "Package.swift: nothing from \(start) to \(end)") }
            return manifest[first.lowerBound..<last.lowerBound]
        }
        return """
            \(try part(from: "// swift-tools-version", upTo: "let package = "))
            let package = Package(
                name: "PTReclaim",
                products: [
                    .library(
                        name: "ptreclaim-preload", type: .dynamic, targets: ["Preload", "ShimCore"]),
                    .library(
                        name: "ptreclaim-c", type: .dynamic, targets: ["PTReclaimC", "ShimCore"]),
                ],
                targets: [
            \(try part(from: "// What Linux offers", upTo: ".systemLibrary("))
            \(try part(from: "// The libraries for any program", upTo: "// Proof."))
                ],
                swiftLanguageModes: [.v6],
                cLanguageStandard: .c17
            )
            """
    }
}
