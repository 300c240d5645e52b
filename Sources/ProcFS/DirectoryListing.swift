// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Names in a directory and where links point to.
enum DirectoryListing {
    /// Empty where the directory cannot be read.
    static func names(_ path: String) -> [String] {
        guard let directory = unsafe opendir(path) else { return [] }
        defer { unsafe _ = closedir(directory) }
        var names: [String] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafePointer(to: entry.pointee.d_name) {
                unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) {
                    unsafe String(cString: $0)
                }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    /// What the symbolic link says; nil where it cannot be read.
    static func linkTarget(_ path: String) -> String? {
        var buffer = [CChar](repeating: 0, count: 4096)
        let count = unsafe readlink(path, &buffer, buffer.count)
        return count < 0
            ? nil
            : String(decoding: buffer.prefix(count).map({ UInt8(bitPattern: $0) }), as: UTF8.self)
    }
}
