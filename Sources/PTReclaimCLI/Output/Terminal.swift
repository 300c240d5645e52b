// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import Glibc

/// The terminal that stdout is, where it is one.
enum Terminal {
    struct Size: Equatable {
        var columns: Int
        var rows: Int
    }

    /// Nil where stdout is a pipe or a file.
    static var size: Size? {
        var size = winsize()
        guard unsafe ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else {
            return nil
        }
        // A serial line, or a terminal that nobody has told its size, may have none.
        return Size(columns: Int(size.ws_col), rows: size.ws_row > 0 ? Int(size.ws_row) : 24)
    }

    /// How wide to draw: as the terminal is, or as COLUMNS says, or 80.
    static var columns: Int {
        if let size { return size.columns }
        return ProcessInfo.processInfo.environment["COLUMNS"].flatMap { Int($0) }
            .map { min(max($0, 40), 1000) } ?? 80
    }

    /// How wide sentences are, on any terminal: longer lines are hard to read.
    static let textColumns = 80

    /// Whether colours may be written: not into pipes, not where NO_COLOR is set to anything
    /// (no-color.org) or TERM is dumb. No meaning hangs on a colour alone.
    static var isColored: Bool {
        let environment = ProcessInfo.processInfo.environment
        return isatty(STDOUT_FILENO) != 0 && environment["NO_COLOR", default: ""].isEmpty
            && environment["TERM"] != "dumb"
    }
}
