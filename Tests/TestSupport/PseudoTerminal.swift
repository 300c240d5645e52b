// SPDX-License-Identifier: Apache-2.0

import Foundation

/// A terminal of its own for a program, with a keyboard and a screen that a test can look at.
public final class PseudoTerminal {
    public let pid: Int32
    /// As they were before the program started.
    public let settingsBefore: [UInt32]
    private let master: Int32
    /// Held open, so that the terminal's settings outlive the program.
    private let slave: Int32
    private var received: [UInt8] = []
    private var endStatus: Int32?

    public struct Failure: Error, CustomStringConvertible {
        public let description: String
    }

    /// Starts `command` (an absolute path and its arguments) as the leader of the terminal's session.
    public init(
        _ command: [String], columns: Int = 80, rows: Int = 24, environment: [String: String] = [:]
    ) throws {
        // By the calls behind posix_openpt(3), which Glibc's module lacks.
        let unlock: UInt = 0x4004_5431  // TIOCSPTLCK
        let getNumber: UInt = 0x8004_5430  // TIOCGPTN
        let master = unsafe open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC)
        var zero: Int32 = 0
        var number: Int32 = 0
        guard master >= 0, unsafe ioctl(master, unlock, &zero) == 0,
            unsafe ioctl(master, getNumber, &number) == 0
        else { throw Failure(description: "no pseudo terminal: errno \(errno)") }
        let path = "/dev/pts/\(number)"
        slave = unsafe open(path, O_RDWR | O_NOCTTY | O_CLOEXEC)
        self.master = master
        Self.resize(master, columns: columns, rows: rows)
        settingsBefore = Self.settings(of: slave)
        var variables = [
            "PATH": Spawning.path,
            "TERM": "xterm-256color", "LANG": "C.UTF-8",
        ]
        variables.merge(environment) { $1 }
        let newSession: Int16 = 0x80  // POSIX_SPAWN_SETSID, glibc 2.26
        pid = unsafe try Spawning.start(command, environment: variables, flags: newSession) {
            actions in
            // The first terminal that a session's leader opens becomes the session's.
            unsafe posix_spawn_file_actions_addopen(actions, 0, path, O_RDWR, 0)
            unsafe posix_spawn_file_actions_adddup2(actions, 0, 1)
            unsafe posix_spawn_file_actions_adddup2(actions, 0, 2)
        }
    }

    deinit {
        if endStatus == nil {
            kill(pid, SIGKILL)
            var status: Int32 = 0
            unsafe _ = waitpid(pid, &status, 0)
        }
        close(slave)
        close(master)
    }

    private static func resize(_ descriptor: Int32, columns: Int, rows: Int) {
        var size = winsize(
            ws_row: UInt16(rows), ws_col: UInt16(columns), ws_xpixel: 0, ws_ypixel: 0)
        unsafe _ = ioctl(descriptor, UInt(TIOCSWINSZ), &size)
    }

    /// As a window that is dragged: the foreground gets SIGWINCH.
    public func resize(columns: Int, rows: Int) {
        Self.resize(master, columns: columns, rows: rows)
    }

    public func type(_ text: String) {
        let bytes = Array(text.utf8)
        unsafe _ = write(master, bytes, bytes.count)
    }

    /// Everything that was written so far.
    public var output: String {
        receive()
        return String(decoding: received, as: UTF8.self)
    }

    private func receive() {
        var waits = pollfd(fd: master, events: Int16(POLLIN), revents: 0)
        var buffer = [UInt8](repeating: 0, count: 65536)
        while unsafe poll(&waits, 1, 0) > 0, waits.revents & Int16(POLLIN) != 0 {
            let count = unsafe read(master, &buffer, buffer.count)
            guard count > 0 else { return }
            received += buffer.prefix(count)
        }
    }

    /// Forgets what was written so far.
    public func clear() {
        receive()
        received = []
    }

    /// Waits until what was written since `clear` is as `condition` says, and returns it.
    @discardableResult
    public func output(
        within limit: Duration = .seconds(20), where condition: (String) -> Bool
    ) async throws -> String {
        var patience = Patience(limit)
        while !patience.isOver {
            let output = output
            if condition(output) { return output }
            try await patience.wait()
        }
        throw Failure(
            description: "not seen within \(limit): \(output.suffix(3000).debugDescription)")
    }

    /// The whole frames of `output`: what lies between going home and the end of the update, as lines,
    /// without colours.
    public static func frames(_ output: String) -> [[String]] {
        output.components(separatedBy: "\u{1b}[H").dropFirst().compactMap { piece in
            let parts = piece.components(separatedBy: "\u{1b}[?2026l")
            guard parts.count > 1 else { return nil }
            // The terminal may have put a carriage return of its own before the line feed.
            return parts[0].unicodeScalars.filter { $0 != "\r" }.split(
                separator: "\n", omittingEmptySubsequences: false
            ).map { plain(String($0)) }
        }
    }

    /// `text` without control sequences.
    public static func plain(_ text: String) -> String {
        text.replacing(/\u{1b}\[[0-9;?]*[A-Za-z]/, with: "")
    }

    /// What of the terminal's settings a program may have changed: flags, and two characters.
    public var settings: [UInt32] { Self.settings(of: slave) }

    private static func settings(of descriptor: Int32) -> [UInt32] {
        var settings = termios()
        unsafe _ = tcgetattr(descriptor, &settings)
        return [
            settings.c_iflag, settings.c_oflag, settings.c_cflag, settings.c_lflag,
            UInt32(settings.c_cc.5), UInt32(settings.c_cc.6),
        ]
    }

    /// Waits for the end, killing the program after `limit`. The exit status, or 128 + signal number.
    public func end(within limit: Duration = .seconds(20)) async throws -> Int32 {
        var patience = Patience(limit)
        var status: Int32 = 0
        // Whoever does not read stops who writes.
        while unsafe waitpid(pid, &status, WNOHANG) == 0 {
            if patience.isOver { kill(pid, SIGKILL) }
            receive()
            try await patience.wait()
        }
        receive()
        let signal = status & 0x7f
        let result = signal == 0 ? (status >> 8) & 0xff : 128 + signal
        endStatus = result
        return result
    }
}
