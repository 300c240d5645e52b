// SPDX-License-Identifier: Apache-2.0

import Foundation

extension Fact {
    /// The machine, and the versions of what is measured and of what measures.
    static func all() -> [Fact] {
        let machine = Machine.current()
        var facts = [
            Fact(name: "CPU", value: "\(machine.cpu), \(machine.cpuCount) CPUs"),
            Fact(name: "memory", value: memory()),
            Fact(
                name: "load average at start",
                value: text("/proc/loadavg").split(separator: " ").prefix(3)
                    .joined(separator: ", ")),
            Fact(name: "kernel", value: "Linux \(machine.kernel)"),
            Fact(name: "transparent huge pages", value: machine.transparentHugePages),
            Fact(name: "system", value: system()),
        ]
        for (program, arguments) in [
            ("redis-server", ["--version"]), ("memcached", ["--version"]), ("node", ["--version"]),
        ] {
            facts.append(
                Fact(
                    name: program,
                    value: Tool.find(program).map { firstLine($0, arguments) } ?? "not installed"))
        }
        for allocator in Allocator.allCases {
            facts.append(Fact(name: allocator.rawValue, value: version(allocator)))
        }
        facts.append(Fact(name: "swift", value: env(["swift", "--version"])))
        facts.append(Fact(name: "git commit", value: commit()))
        return facts
    }

    private static func memory() -> String {
        decimal(Double(ProcessInfo.processInfo.physicalMemory) / 1_073_741_824, 1) + " GiB"
    }

    private static func system() -> String {
        text("/etc/os-release").split(separator: "\n").first { $0.hasPrefix("PRETTY_NAME=") }
            .map { $0.dropFirst("PRETTY_NAME=".count).filter { $0 != "\"" } } ?? "unknown"
    }

    private static func version(_ allocator: Allocator) -> String {
        guard allocator != .glibc else { return env(["getconf", "GNU_LIBC_VERSION"]) }
        guard let path = (try? allocator.library()) ?? nil else { return "not installed" }
        let file = URL(fileURLWithPath: path).resolvingSymlinksInPath()
        guard let dpkg = Tool.find("dpkg-query") else { return file.path }
        // A merged /usr has each file twice, and the package only one of them.
        let owner = [file.path, String(file.path.dropFirst("/usr".count))].lazy
            .compactMap { try? Tool.run(dpkg, ["--search", $0]) }
            .first { $0.status == 0 }?.output.split(separator: ":").first
        guard let owner else { return file.path }
        let package = firstLine(dpkg, ["--show", "--showformat", "${Version}", String(owner)])
        return "\(package) (\(file.lastPathComponent))"
    }

    private static func commit() -> String {
        let root = Shim.packageRoot.path
        let head = env(["git", "-C", root, "rev-parse", "HEAD"])
        let changes = try? Tool.run(
            "/usr/bin/env", ["git", "-C", root, "status", "--porcelain", "--untracked-files=no"])
        guard let changes, changes.status == 0 else { return head }
        return head + (changes.output.isEmpty ? "" : ", with changes that are not committed")
    }

    private static func env(_ command: [String]) -> String { firstLine("/usr/bin/env", command) }

    private static func firstLine(_ program: String, _ arguments: [String]) -> String {
        guard let result = try? Tool.run(program, arguments), result.status == 0 else {
            return "unknown"
        }
        return result.output.split(separator: "\n").first.map(String.init) ?? "unknown"
    }

    private static func text(_ path: String) -> String {
        (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
    }
}
