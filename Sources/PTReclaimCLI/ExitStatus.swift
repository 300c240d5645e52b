// SPDX-License-Identifier: Apache-2.0

/// What the commands end with, but for `run`, whose status is that of what it runs.
enum ExitStatus: Int32, CaseIterable {
    case done, failed, usage

    var meaning: String {
        switch self {
        case .done: "Done."
        case .failed: "Failed; one line on standard error says why, and what to do about it."
        case .usage: "The command line or a file named there is no good."
        }
    }

    /// For the help: `0 done, 1 failed, 2 usage`.
    static var list: String {
        allCases.map { "\($0.rawValue) \($0)" }.joined(separator: ", ")
    }
}
