// SPDX-License-Identifier: Apache-2.0

/// Why a trace cannot be used.
public struct TraceError: Error, Equatable, Sendable {
    public enum Code: Equatable, Sendable {
        /// The file cannot be opened or read; `errno` says why.
        case unreadable(errno: Int32)
        /// It does not begin as a trace does, or the library had not finished its beginning.
        case notATrace
        case unknownVersion(UInt32)
        /// A field of the header cannot be right.
        case badHeader(String)
        /// The file ends before the records of which its header tells.
        case truncated(byteCount: Int, neededByteCount: Int)
        /// The record with this number cannot be right.
        case badRecord(index: Int, String)
        /// The record with this number needs more page tables than a replay may have.
        case tooLarge(index: Int)
    }

    public let code: Code
    /// The file's path.
    public let what: String

    public init(_ code: Code, what: String) {
        self.code = code
        self.what = what
    }
}
