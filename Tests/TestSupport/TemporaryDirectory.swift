// SPDX-License-Identifier: Apache-2.0

public import Foundation

/// A directory that goes away with its last reference.
public final class TemporaryDirectory: Sendable {
    public let url: URL

    public init(mode: Int = 0o700) throws {
        url = FileManager.default.temporaryDirectory
            .appending(path: "ptreclaim-test-\(UUID().uuidString)")
        try FileManager.default.createDirectory(
            at: url, withIntermediateDirectories: true, attributes: [.posixPermissions: mode])
    }

    deinit { try? FileManager.default.removeItem(at: url) }

    public func copy(_ file: URL) throws -> URL {
        let destination = url.appending(path: file.lastPathComponent)
        try FileManager.default.copyItem(at: file, to: destination)
        return destination
    }
}
