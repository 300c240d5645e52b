// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM
internal import Foundation
internal import Glibc

/// A program about to be started: the loader's reasons to ignore LD_PRELOAD, seen beforehand,
/// because the loader itself says nothing.
struct Executable {
    let path: String

    /// What execvp would take for `command`.
    static func find(_ command: String) -> String? {
        if command.contains("/") { return command }
        let path = ProcessInfo.processInfo.environment["PATH"] ?? "/bin:/usr/bin"
        return path.split(separator: ":").map { "\($0)/\(command)" }.first {
            unsafe access($0, X_OK) == 0
        }
    }

    /// In words; empty where nothing speaks against it.
    func reasonsToIgnorePreload(of shim: String) -> [String] {
        var reasons: [String] = []
        if isOnNoexecMount(shim) { reasons.append("\(shim) is on a noexec mount") }
        if gainsPrivilege { reasons.append("\(path) is setuid, setgid or has file capabilities") }
        if isStatic(path, depth: 0) { reasons.append("\(path) is a static binary") }
        return reasons
    }

    private func isOnNoexecMount(_ file: String) -> Bool {
        var status = statvfs()
        return unsafe statvfs(file, &status) == 0 && status.f_flag & UInt(PTRECLAIM_ST_NOEXEC) != 0
    }

    /// Then the kernel sets AT_SECURE and the loader drops LD_PRELOAD with a slash in it.
    private var gainsPrivilege: Bool {
        var status = stat()
        guard unsafe stat(path, &status) == 0 else { return false }
        let setuid = status.st_mode & S_ISUID != 0 && status.st_uid != geteuid()
        let setgid = status.st_mode & S_ISGID != 0 && status.st_gid != getegid()
        let capabilities = unsafe ptreclaim_has_file_capabilities(path)
        return setuid || setgid || capabilities && geteuid() != 0
    }

    /// An ELF file without PT_INTERP; for a script, what its first line names.
    private func isStatic(_ file: String, depth: Int) -> Bool {
        guard let handle = FileHandle(forReadingAtPath: file),
            let head = try? handle.read(upToCount: 4096)
        else { return false }
        let bytes = [UInt8](head)
        if bytes.starts(with: Array("#!".utf8)) {
            let line = String(decoding: bytes.dropFirst(2).prefix { $0 != 10 }, as: UTF8.self)
            guard depth < 4, let interpreter = line.split(separator: " ").first else {
                return false
            }
            return isStatic(String(interpreter), depth: depth + 1)
        }
        guard bytes.count >= 64, bytes.starts(with: [0x7f, 0x45, 0x4c, 0x46, 2]) else {
            return false
        }
        func number(at offset: Int, bytes count: Int) -> Int {
            bytes[offset..<offset + count].reversed().reduce(0) { $0 << 8 | Int($1) }
        }
        let interpreterType = 3
        let table = number(at: 32, bytes: 8)
        let entryCount = number(at: 56, bytes: 2)
        let entryByteCount = number(at: 54, bytes: 2)
        guard table + entryCount * entryByteCount <= bytes.count else { return false }
        return !(0..<entryCount).contains {
            number(at: table + $0 * entryByteCount, bytes: 4) == interpreterType
        }
    }
}
