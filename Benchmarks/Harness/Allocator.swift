// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation

/// An allocator that LD_PRELOAD puts behind malloc.
enum Allocator: String, CaseIterable, ExpressibleByArgument, Codable {
    case jemalloc
    case tcmalloc
    case mimalloc
    case glibc

    private var libraryName: String? {
        switch self {
        case .jemalloc: "libjemalloc.so.2"
        case .tcmalloc: "libtcmalloc_minimal.so.4"
        case .mimalloc: "libmimalloc.so.2"
        case .glibc: nil
        }
    }

    /// The library to preload; nil for glibc's own.
    /// - Throws: where it is not installed.
    func library() throws -> String? {
        guard let libraryName else { return nil }
        let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"]
        guard
            let path = places.map({ "\($0)/\(libraryName)" })
                .first(where: { FileManager.default.isReadableFile(atPath: $0) })
        else { throw NotInstalled(description: "\(libraryName) is not installed") }
        return path
    }

    /// The environment of a process that runs with it, and with `shim` if there is one.
    func environment(shim: Shim?, mode: Mode?, settings: [String: String] = [:]) throws
        -> [String: String]
    {
        let library = try library()
        if let shim { return shim.in(mode, settings: settings, over: library).environment }
        return library.map { ["LD_PRELOAD": $0] } ?? [:]
    }
}

/// A reason to skip a row, not to fail.
struct NotInstalled: Error, CustomStringConvertible {
    let description: String

    static func find(_ program: String) throws -> String {
        guard let path = Tool.find(program) else {
            throw NotInstalled(description: "\(program) is not installed")
        }
        return path
    }
}
