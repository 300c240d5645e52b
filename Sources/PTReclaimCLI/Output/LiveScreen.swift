// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM
internal import Foundation
internal import Glibc

/// The terminal while a command draws on it: its other screen, keys without Enter and without echo.
///
/// Whoever owns one closes it on every way out; then the terminal is as it was. Signals are read from
/// a descriptor between two frames, so nothing is ever interrupted half-way.
final class LiveScreen {
    enum Key: Equatable {
        case character(Character)
        case up, down, pageUp, pageDown
    }

    enum Event: Equatable {
        case key(Key)
        /// The size has changed, or the screen may have been overwritten: draw again.
        case stale
        /// What was waited for is due.
        case due
        /// The command has to end, by this signal.
        case ending(Int32)
    }

    /// Whether stdout is a terminal on which the cursor can be moved, with somebody at its keyboard.
    static var isPossible: Bool {
        let type = ProcessInfo.processInfo.environment["TERM", default: ""]
        guard isatty(STDOUT_FILENO) != 0, !type.isEmpty, type != "dumb" else { return false }
        guard let keyboard = openKeyboard() else { return false }
        if keyboard != STDIN_FILENO { Glibc.close(keyboard) }
        return true
    }

    private static let enterSequence = "\u{1b}[?1049h"
    private static let hideSequence = "\u{1b}[?25l\u{1b}[?7l\u{1b}[2J"
    private static let leaveSequence = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l"
    private static let signals = [
        SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP, SIGCONT,
    ]

    private let keyboard: Int32
    private let signalDescriptor: Int32
    private let settingsBefore: termios
    private let maskBefore: UInt64
    private var isOpen = false
    private var keys: [UInt8] = []

    /// Nil where the terminal refuses.
    init?() {
        guard Self.isPossible, let keyboard = Self.openKeyboard() else { return nil }
        var settings = termios()
        guard unsafe tcgetattr(keyboard, &settings) == 0 else { return nil }
        self.keyboard = keyboard
        settingsBefore = settings
        let mask = Self.signals.reduce(0 as UInt64) { $0 | Self.bit($1) }
        maskBefore = ptreclaim_set_signal_mask(0)
        _ = ptreclaim_set_signal_mask(maskBefore | mask)
        // Glibc's module lacks signalfd(2). Sound: the kernel reads 8 bytes.
        signalDescriptor = unsafe withUnsafePointer(to: mask) {
            Int32(
                ptreclaim_syscall(
                    Int(SYS_signalfd4), -1, Int(bitPattern: $0), 8, Int(O_CLOEXEC), 0, 0))
        }
        guard signalDescriptor >= 0 else {
            _ = ptreclaim_set_signal_mask(maskBefore)
            return nil
        }
        enter()
    }

    private static func bit(_ signal: Int32) -> UInt64 { 1 << (signal - 1) }

    private static func openKeyboard() -> Int32? {
        if isatty(STDIN_FILENO) != 0 { return STDIN_FILENO }
        let descriptor = unsafe open("/dev/tty", O_RDONLY | O_CLOEXEC)
        return descriptor < 0 ? nil : descriptor
    }

    private func enter() {
        isOpen = true
        takeKeyboard()
        write(Self.enterSequence + Self.hideSequence)
    }

    /// Keys come at once and are not shown; Ctrl-C and Ctrl-Z stay signals.
    private func takeKeyboard() {
        var settings = settingsBefore
        settings.c_lflag &= ~tcflag_t(ICANON | ECHO)
        settings.c_cc.6 = 1  // VMIN
        settings.c_cc.5 = 0  // VTIME
        unsafe _ = tcsetattr(keyboard, TCSANOW, &settings)
    }

    private func leave() {
        guard isOpen else { return }
        isOpen = false
        write(Self.leaveSequence)
        var settings = settingsBefore
        unsafe _ = tcsetattr(keyboard, TCSANOW, &settings)
    }

    /// Gives the terminal back as it was.
    func close() {
        guard isOpen else { return }
        leave()
        Glibc.close(signalDescriptor)
        if keyboard != STDIN_FILENO { Glibc.close(keyboard) }
        _ = ptreclaim_set_signal_mask(maskBefore)
    }

    deinit { close() }

    /// Gives the terminal back and ends by `number`, so that a shell sees what has happened.
    func end(by number: Int32) -> Never {
        close()
        signal(number, SIG_DFL)
        raise(number)
        exit(128 + number)
    }

    var size: Terminal.Size { Terminal.size ?? Terminal.Size(columns: 80, rows: 24) }

    /// Draws `lines` from the top; what does not fit is cut off.
    ///
    /// Each line is erased before it is written: behind a full one the cursor stays on its last
    /// column, and would take that along. Terminals that know synchronised updates show it at once.
    func draw(_ lines: [ScreenLine]) {
        let size = size
        let isColored = Terminal.isColored
        let empty = repeatElement(ScreenLine(""), count: max(size.rows - lines.count, 0))
        let shown = (lines.prefix(size.rows) + empty).map {
            "\u{1b}[2K" + $0.text(columns: size.columns, isColored: isColored)
        }
        write("\u{1b}[?2026h\u{1b}[H" + shown.joined(separator: "\r\n") + "\u{1b}[?2026l")
    }

    /// A terminal that was stopped with Ctrl-S, or that nobody reads, must not hold up a signal.
    private func write(_ text: String) {
        var bytes = Array(text.utf8)[...]
        while !bytes.isEmpty {
            var waits = [
                pollfd(fd: STDOUT_FILENO, events: Int16(POLLOUT), revents: 0),
                pollfd(fd: signalDescriptor, events: Int16(POLLIN), revents: 0),
            ]
            guard unsafe poll(&waits, 2, isOpen ? -1 : 200) > 0, waits[0].revents != 0 else {
                return
            }
            let piece = Array(bytes.prefix(4096))
            let count = unsafe Glibc.write(STDOUT_FILENO, piece, piece.count)
            guard count > 0 else { return }
            bytes = bytes.dropFirst(count)
        }
    }

    /// Waits for a key or a signal, until `deadline` at most.
    func wait(until deadline: ContinuousClock.Instant) -> Event {
        while true {
            if let key = takeKey() { return .key(key) }
            let left = (deadline - ContinuousClock.now) / .milliseconds(1)
            guard left > 0 else { return .due }
            var waits = [
                pollfd(fd: keyboard, events: Int16(POLLIN), revents: 0),
                pollfd(fd: signalDescriptor, events: Int16(POLLIN), revents: 0),
            ]
            guard unsafe poll(&waits, 2, Int32(min(left.rounded(.up), 60_000))) > 0 else {
                continue
            }
            if waits[1].revents != 0, let event = takeSignal() { return event }
            if waits[0].revents != 0, !readKeys() { return .ending(SIGHUP) }
        }
    }

    private func takeSignal() -> Event? {
        // struct signalfd_siginfo: 128 bytes, the signal's number first.
        var information = [UInt32](repeating: 0, count: 32)
        guard unsafe read(signalDescriptor, &information, 128) == 128 else { return nil }
        switch Int32(information[0]) {
        case SIGWINCH: return .stale
        case SIGTSTP:
            stop()
            return .stale
        case SIGCONT:
            // After SIGSTOP the shell had the terminal, and it is still the other screen.
            takeKeyboard()
            write(Self.hideSequence)
            return .stale
        case let number: return .ending(number)
        }
    }

    /// Stops as any program does, with the terminal as it was, and comes back when it goes on.
    private func stop() {
        leave()
        raise(SIGTSTP)
        let mask = ptreclaim_set_signal_mask(maskBefore & ~Self.bit(SIGTSTP))
        _ = ptreclaim_set_signal_mask(mask)
        enter()
    }

    /// False where nobody is at the keyboard any more.
    private func readKeys() -> Bool {
        var bytes = [UInt8](repeating: 0, count: 64)
        let count = unsafe read(keyboard, &bytes, bytes.count)
        guard count > 0 else { return false }
        keys += bytes.prefix(count)
        return true
    }

    private static let escapes: [(bytes: String, key: Key)] = [
        ("\u{1b}[A", .up), ("\u{1b}[B", .down), ("\u{1b}OA", .up), ("\u{1b}OB", .down),
        ("\u{1b}[5~", .pageUp), ("\u{1b}[6~", .pageDown),
    ]

    private func takeKey() -> Key? {
        while let first = keys.first {
            if let (bytes, key) = Self.escapes.first(where: { keys.starts(with: $0.bytes.utf8) }) {
                keys.removeFirst(bytes.utf8.count)
                return key
            }
            guard first != 0x1b else {
                // A key that means nothing here: all of it came in one piece.
                keys = []
                return nil
            }
            keys.removeFirst()
            if first >= 0x20, first < 0x7f {
                return .character(Character(Unicode.Scalar(first)))
            }
        }
        return nil
    }
}
