// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Foundation
internal import ProcFS

/// Process IDs on the command line.
enum ProcessIDs {
    /// Each once, in their order.
    static func unique(_ pids: [Int32]) -> [Int32] {
        var seen: Set<Int32> = []
        return pids.filter { seen.insert($0).inserted }
    }

    /// What a shell offers: all processes that have memory, but for kernel threads and this one.
    fileprivate static func completions() -> [String] {
        ProcessList.pids().filter { $0 != getpid() }.compactMap { pid in
            // It may have ended, and a name may be any bytes.
            let data = FileManager.default.contents(atPath: "/proc/\(pid)/status") ?? Data()
            let status = String(decoding: data, as: UTF8.self)
            guard status.contains("\nVmPTE:") else { return nil }
            let name = status.prefix { $0 != "\n" }.dropFirst("Name:\t".count)
            return switch CompletionShell.requesting {
            case .zsh: "\(pid):\(name.replacing(":", with: "\\:"))"
            case .fish: "\(pid)\t\(name)"
            default: "\(pid)"
            }
        }
    }
}

extension CompletionKind {
    /// Process IDs, with the command beside them where the shell can show it.
    static var processes: CompletionKind {
        .custom { _, _, _ in ProcessIDs.completions() }
    }
}
