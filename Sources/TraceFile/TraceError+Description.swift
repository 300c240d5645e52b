// SPDX-License-Identifier: Apache-2.0

internal import Glibc

extension TraceError: CustomStringConvertible {
    /// One line.
    public var description: String { "\(what): \(reason)" }

    private var reason: String {
        switch code {
        case .unreadable(let errno): unsafe String(cString: strerror(errno))
        case .notATrace: "not a file that PTRECLAIM_TRACE made"
        case .unknownVersion(let version): "trace version \(version) is not known here"
        case .badHeader(let why): "damaged header: \(why)"
        case .truncated(let byteCount, let needed):
            "truncated: \(byteCount) bytes, and its header tells of \(needed)"
        case .badRecord(let index, let why): "damaged record \(index): \(why)"
        case .tooLarge(let index): "record \(index) needs more page tables than a replay may have"
        }
    }
}
