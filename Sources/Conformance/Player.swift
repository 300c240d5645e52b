// SPDX-License-Identifier: Apache-2.0

internal import CPlayer
internal import LiveSpace
internal import PageTableModel
internal import ReclaimCore

/// A child process that plays operations, and what can be seen of it after each.
@safe public final class Player {
    /// Files that its mappings may be of.
    static let fileCount = 2
    /// So long an operation may take.
    public static let limit = Duration.seconds(20)
    public var limit = Player.limit

    /// What the kernel said, and what it shows.
    struct Step {
        var errno: Int32
        var seen: Observation
        /// The child of a fork.
        var child: Observation?
    }

    private var child = unsafe ptreclaim_player()
    private var files: [Int32] = []
    private var observer: ProcessObserver?
    /// VmPTE with an empty field: of the player, and of a child that it forks then.
    private var baseline: UInt = 0
    private var childBaseline: UInt = 0

    public init() throws(RunnerError) {
        try start()
    }

    deinit { stop() }

    private func start() throws(RunnerError) {
        for _ in 0..<Self.fileCount {
            let file = ptreclaim_new_field_file()
            guard file >= 0 else { throw .cannotStart(errno: -file) }
            files.append(file)
        }
        // Sound: the call is a function without a context; the descriptors are copied by fork.
        let result = unsafe ptreclaim_player_start(&child, reclaimOwned, files, files.count)
        guard result == 0 else { throw .cannotStart(errno: -result) }
        _ = try answer("the start")
        let observer = try ProcessObserver(pid: unsafe child.pid)
        self.observer = observer
        baseline = try observer.vmPTEByteCount()
    }

    @discardableResult private func stop() -> Bool {
        observer = nil
        let hasEnded = unsafe ptreclaim_player_stop(&child)
        // After the player: one that hangs may hold a page of these.
        for file in files { _ = ptreclaim_close(file) }
        files = []
        return hasEnded
    }

    /// Makes another process of it, after one that did not do as it should; false where that could
    /// not be ended.
    func restart() throws(RunnerError) -> Bool {
        let hasEnded = stop()
        try start()
        return hasEnded
    }

    /// Empties the field and the files; page tables must then be what they were.
    func reset() throws(RunnerError) {
        try send(PTRECLAIM_PLAY_RESET, what: "munmap of everything")
        for file in files {
            let result = ptreclaim_empty_field_file(file)
            guard result == 0 else { throw .refused("fallocate", errno: -result) }
        }
        guard let observer else { return }
        let byteCount = try observer.vmPTEByteCount()
        guard byteCount == baseline else {
            throw .notBackAtBaseline(byteCount: Int(byteCount) - Int(baseline))
        }
        childBaseline = 0
    }

    /// To be called with an empty field, before a sequence that forks.
    func prepareForForks() throws(RunnerError) {
        try send(PTRECLAIM_PLAY_FORK, what: "fork")
        childBaseline = try ProcessObserver(pid: unsafe ptreclaim_player_grandchild(&child))
            .vmPTEByteCount()
        try send(PTRECLAIM_PLAY_REAP, what: "wait4")
    }

    func play(_ operation: Operation) throws(RunnerError) -> Step {
        guard let observer else { throw .cannotStart(errno: 0) }
        let errno = try post(Command.of(operation, files: files), what: operation.text)
        var step = Step(errno: errno, seen: try observer.observe(baseline: baseline))
        if case .fork = operation, errno == 0 {
            step.child = try ProcessObserver(pid: unsafe ptreclaim_player_grandchild(&child))
                .observe(baseline: childBaseline)
            try send(PTRECLAIM_PLAY_REAP, what: "wait4")
        }
        return step
    }

    private func send(_ verb: ptreclaim_verb, what: String) throws(RunnerError) {
        let errno = try post(Command.plain(verb), what: what)
        guard errno == 0 else { throw .refused(what, errno: errno) }
    }

    private func post(
        _ command: ptreclaim_command, what: @autoclosure () -> String
    ) throws(RunnerError) -> Int32 {
        var command = command
        unsafe ptreclaim_player_post(&child, &command)
        return try answer(what())
    }

    private func answer(_ what: @autoclosure () -> String) throws(RunnerError) -> Int32 {
        switch unsafe ptreclaim_player_await(&child, Int(limit / .milliseconds(1))) {
        case 1: return unsafe ptreclaim_player_result(&child)
        case 0: throw .didNotReturn(from: what())
        case let ended: throw .ended(in: what(), status: -1 - ended)
        }
    }
}

/// `MADV_PT_RECLAIM`, played inside the player.
private func reclaimOwned(_ start: UInt, _ end: UInt) -> Int32 {
    do throws(ReclaimError) {
        _ = try ReclaimCall.run(from: start, upTo: end, access: .owned)
        return 0
    } catch {
        return error.errno
    }
}
