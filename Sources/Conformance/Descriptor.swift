// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

/// An open file of procfs or sysfs. All reading and writing of files is here; without Foundation,
/// which a bare guest does not need to carry.
@safe final class Descriptor {
    let path: String
    private let number: Int32

    init(_ path: String, flags: Int32 = O_RDONLY) throws(RunnerError) {
        self.path = path
        // Sound: the text lives until open returns.
        number = unsafe ptreclaim_open(path, flags)
        guard number >= 0 else { throw .cannotRead(path: path, errno: -number) }
    }

    deinit { _ = ptreclaim_close(number) }

    /// Appends what stands at `offset`, `atMost` bytes or fewer, to `bytes`; returns how many.
    func append(to bytes: inout [UInt8], atMost: Int, offset: Int) throws(RunnerError) -> Int {
        let count = bytes.count
        bytes.append(contentsOf: repeatElement(0, count: atMost))
        // Sound: the kernel writes at most `atMost` bytes behind the first `count`.
        let result = unsafe bytes.withUnsafeMutableBytes { buffer in
            unsafe buffer.baseAddress.map {
                unsafe ptreclaim_pread(number, $0 + count, atMost, off_t(offset))
            } ?? 0
        }
        bytes.removeLast(atMost - max(result, 0))
        guard result >= 0 else { throw .cannotRead(path: path, errno: Int32(-result)) }
        return result
    }

    /// Fills the first `count` of `words` from word number `index` on. Words that the file does not
    /// have are left alone.
    func read(into words: inout [UInt64], count: Int, index: Int) throws(RunnerError) {
        precondition(count <= words.count)
        var done = 0
        // A long pagemap comes in pieces.
        while done < count {
            let result = unsafe words.withUnsafeMutableBytes { buffer in
                unsafe buffer.baseAddress.map {
                    unsafe ptreclaim_pread(
                        number, $0 + done * 8, (count - done) * 8, off_t((index + done) * 8))
                } ?? 0
            }
            guard result >= 0 else { throw .cannotRead(path: path, errno: Int32(-result)) }
            guard result > 0 else { return }
            done += result / 8
        }
    }

    /// The whole of a short file.
    static func text(of path: String) throws(RunnerError) -> String {
        let file = try Descriptor(path)
        var bytes: [UInt8] = []
        _ = try file.append(to: &bytes, atMost: 4096, offset: 0)
        return String(decoding: bytes, as: UTF8.self)
    }

    static func write(_ text: String, to path: String) throws(RunnerError) {
        let file = try Descriptor(path, flags: O_WRONLY)
        let bytes = Array(text.utf8)
        let result = unsafe bytes.withUnsafeBytes { buffer in
            unsafe buffer.baseAddress.map {
                unsafe ptreclaim_write(file.number, $0, buffer.count)
            } ?? 0
        }
        guard result >= 0 else { throw .cannotRead(path: path, errno: Int32(-result)) }
    }
}

/// Why a sequence could not be played to its end.
public enum RunnerError: Error, Equatable, CustomStringConvertible {
    case cannotRead(path: String, errno: Int32)
    case cannotStart(errno: Int32)
    /// The kernel did not return from an operation; the player is lost.
    case didNotReturn(from: String)
    /// The player ended in an operation, with this wait status.
    case ended(in: String, status: Int32)
    /// Page tables that should be gone with the mappings are still there.
    case notBackAtBaseline(byteCount: Int)
    /// A command of the runner's own was refused.
    case refused(String, errno: Int32)

    public var description: String {
        switch self {
        case .cannotRead(let path, let errno): "\(path): errno \(errno)"
        case .cannotStart(let errno): "the player could not be started: errno \(errno)"
        case .didNotReturn(let operation): "the kernel did not return from: \(operation)"
        case .ended(let operation, let status):
            status & 0x7f == 0
                ? "the player left with status \(status >> 8) in: \(operation)"
                : "the player died of signal \(status & 0x7f) in: \(operation)"
        case .notBackAtBaseline(let byteCount):
            "VmPTE \(byteCount) bytes off its baseline with nothing mapped"
        case .refused(let what, let errno): "\(what): errno \(errno)"
        }
    }
}
