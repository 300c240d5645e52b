// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import ProcFS
internal import Synchronization

/// A pass of the library that was asked for, waited for beside the screen.
final class PassRequest: Sendable {
    private let answer = Mutex<String?>(nil)

    /// How long the answer is waited for.
    private static let limit = Duration.seconds(10)

    init(pid: Int32) {
        Thread.detachNewThread { [self] in
            let text = Self.result(pid: pid)
            answer.withLock { $0 = text }
        }
    }

    /// What came of it, in a line; nil while that is not known.
    var result: String? { answer.withLock { $0 } }

    private static func result(pid: Int32) -> String {
        do throws(ProcFSError) {
            let page = try ControlPage(pid: pid)
            guard page.stats.hasServiceThread else {
                return Format.human(
                    Ctl.Outcome(
                        pid: pid, action: .now, mode: page.stats.mode, isOff: page.stats.isOff,
                        wasOff: page.stats.isOff, report: nil))
            }
            let report = try page.reclaimNow(within: limit)
            return "\(report.tablesFreed) of \(report.tablesLookedAt) tables freed, VmPTE "
                + "\(Format.kilobytes(report.vmPTEBeforeByteCount)) before, "
                + "\(Format.kilobytes(report.vmPTEAfterByteCount)) after, "
                + Format.milliseconds(report.nanoseconds)
        } catch {
            return "\(error)"
        }
    }
}
