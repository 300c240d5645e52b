// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

/// An open file of procfs. Here and in `PageScanner` memory is handed to the kernel.
struct ProcFile: ~Copyable {
    let descriptor: Int32
    private let path: String

    init(_ path: String) throws(ProcFSError) {
        let result = unsafe path.withCString { unsafe ptreclaim_open($0, 0) }
        guard result >= 0 else {
            throw ProcFSError(code: .unreadable, errno: -result, what: path)
        }
        descriptor = result
        self.path = path
    }

    deinit { _ = ptreclaim_close(descriptor) }

    /// The whole text of a small file.
    static func text(_ path: String) throws(ProcFSError) -> String {
        let file = try ProcFile(path)
        var bytes: [UInt8] = []
        while true {
            let chunk = try file.read(64 << 10, at: bytes.count)
            if chunk.isEmpty { return String(decoding: bytes, as: UTF8.self) }
            bytes += chunk
        }
    }

    /// The lines of a file that may be long, without holding all of it.
    static func forEachLine(
        _ path: String, _ body: (Substring) -> Void
    ) throws(ProcFSError) {
        let file = try ProcFile(path)
        var offset = 0
        var rest: [UInt8] = []
        while true {
            let chunk = try file.read(64 << 10, at: offset)
            guard !chunk.isEmpty else { break }
            offset += chunk.count
            rest += chunk
            guard let lastBreak = rest.lastIndex(of: UInt8(ascii: "\n")) else { continue }
            String(decoding: rest[...lastBreak], as: UTF8.self).split(separator: "\n")
                .forEach(body)
            rest.removeSubrange(...lastBreak)
        }
        if !rest.isEmpty { body(Substring(decoding: rest, as: UTF8.self)) }
    }

    /// Up to `byteCount` bytes from `offset` on.
    func read(_ byteCount: Int, at offset: Int) throws(ProcFSError) -> [UInt8] {
        var result = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: byteCount) { buffer, count in
            // Sound: the kernel writes at most `byteCount` bytes, and says how many.
            guard let base = buffer.baseAddress else { return }
            result = unsafe ptreclaim_pread(descriptor, base, byteCount, offset)
            count = max(result, 0)
        }
        guard result >= 0 else {
            throw ProcFSError(code: .unreadable, errno: Int32(-result), what: path)
        }
        return bytes
    }
}

extension String {
    /// The number of kB behind `key` in a file like status, in bytes.
    func kilobytes(_ key: String) -> UInt? {
        for line in split(separator: "\n") where line.hasPrefix(key) {
            let fields = line.dropFirst(key.count).split(whereSeparator: { $0 == " " || $0 == "\t" }
            )
            return fields.first.flatMap { UInt($0) }.map { $0 * 1024 }
        }
        return nil
    }
}
