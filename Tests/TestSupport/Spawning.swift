// SPDX-License-Identifier: Apache-2.0

internal import Foundation

/// posix_spawn, as tests need it.
enum Spawning {
    static let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    /// - Parameters:
    ///   - command: an absolute path and its arguments.
    ///   - flags: beside that of the signal mask.
    ///   - openFiles: adds what becomes descriptors 0, 1 and 2.
    static func start(
        _ command: [String], environment: [String: String], flags: Int16 = 0,
        openFiles: (UnsafeMutablePointer<posix_spawn_file_actions_t>) -> Void
    ) throws -> Int32 {
        // Sound: the vectors end with nil and live until posix_spawn has copied them.
        let arguments = unsafe command.map { unsafe strdup($0) } + [nil]
        let variables =
            unsafe environment.map { unsafe strdup("\($0.key)=\($0.value)") } + [nil]
        let texts = unsafe arguments + variables
        defer {
            for index in unsafe texts.indices { unsafe free(texts[index]) }
        }
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        unsafe openFiles(&actions)
        // Threads of the test runner block signals; a program expects none blocked.
        var attributes = posix_spawnattr_t()
        unsafe posix_spawnattr_init(&attributes)
        defer { unsafe posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        unsafe sigemptyset(&none)
        unsafe posix_spawnattr_setsigmask(&attributes, &none)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK) | flags)
        var pid: pid_t = 0
        let error = unsafe posix_spawn(
            &pid, command[0], &actions, &attributes, arguments, variables)
        guard error == 0 else { throw CocoaError(.executableNotLoadable) }
        return pid
    }
}
