// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM
internal import Foundation
internal import Glibc

/// What the permission for a fence hangs on, of one process.
struct Privilege {
    let hasPtraceCapability: Bool
    /// The machine's switch for everybody.
    let isUnprivilegedAllowed: Bool
    /// nil where there is no such file.
    let device: Device?
    /// /proc/PID/status: 0 none, 1 strict, 2 filter.
    let seccomp: Int?
    let hasNoNewPrivileges: Bool?

    struct Device {
        let mode: String
        let isOpen: Bool
    }

    enum Grounds {
        case capability, sysctl, device, none

        var text: String {
            switch self {
            case .capability: "CAP_SYS_PTRACE"
            case .sysctl: "vm.unprivileged_userfaultfd=1"
            case .device: "the mode of /dev/userfaultfd"
            case .none: "nothing"
            }
        }
    }

    static let current = Privilege(status: MachineCheckup.text("/proc/self/status") ?? "", root: "")

    static let remedy =
        "any one of: CAP_SYS_PTRACE (AmbientCapabilities= in a systemd unit, --cap-add in a "
        + "container; not setcap, which makes the loader ignore a preload); sysctl "
        + "vm.unprivileged_userfaultfd=1; access to /dev/userfaultfd for the server's user"

    static let seccompRemedy =
        "a profile that permits userfaultfd, ioctl, clone and close_range; hooks need none of these"

    /// - Parameter root: the folder that is the process's root directory.
    init(status: String, root: String) {
        let lines = status.split(separator: "\n")
        func words(_ key: String) -> [Substring] {
            let line = lines.first { $0.hasPrefix(key) }
            return line?.dropFirst(key.count).split(whereSeparator: \.isWhitespace) ?? []
        }
        let capabilities = words("CapEff:").first.flatMap { UInt64($0, radix: 16) } ?? 0
        hasPtraceCapability = capabilities >> 19 & 1 == 1 && Self.isInitialUserNamespace(lines)
        isUnprivilegedAllowed =
            MachineCheckup.number("/proc/sys/vm/unprivileged_userfaultfd") == 1
        seccomp = words("Seccomp:").first.flatMap { Int($0) }
        hasNoNewPrivileges = words("NoNewPrivs:").first.map { $0 == "1" }
        // The effective IDs, and all groups.
        let user = words("Uid:").dropFirst().first.flatMap { UInt32($0) }
        let groups = (words("Gid:").dropFirst().prefix(1) + words("Groups:"))
            .compactMap { UInt32($0) }
        let overridesModes = capabilities >> 1 & 1 == 1
        var file = stat()
        if unsafe stat("\(root)/dev/userfaultfd", &file) == 0 {
            let mask: UInt32 =
                file.st_uid == user ? 0o600 : groups.contains(file.st_gid) ? 0o060 : 0o006
            device = Device(
                mode: String(file.st_mode & 0o777, radix: 8),
                isOpen: overridesModes || file.st_mode & mask == mask)
        } else {
            device = nil
        }
    }

    /// Capabilities in a user namespace of one's own open no userfaultfd.
    private static func isInitialUserNamespace(_ status: [Substring]) -> Bool {
        let pid = status.first { $0.hasPrefix("Pid:") }?.dropFirst(4)
            .trimmingCharacters(in: .whitespaces)
        let map = MachineCheckup.text("/proc/\(pid ?? "self")/uid_map")
        return map?.split(whereSeparator: \.isWhitespace) == ["0", "0", "4294967295"]
    }

    var grounds: Grounds {
        if hasPtraceCapability { return .capability }
        if isUnprivilegedAllowed { return .sysctl }
        return device?.isOpen == true ? .device : .none
    }

    /// The three ways that are closed, in words.
    var missing: String {
        let file =
            device.map { "/dev/userfaultfd has mode \($0.mode)" } ?? "there is no /dev/userfaultfd"
        return "no CAP_SYS_PTRACE, vm.unprivileged_userfaultfd is 0, \(file)"
    }
}
