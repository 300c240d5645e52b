// SPDX-License-Identifier: Apache-2.0

internal import Foundation
internal import ProcFS

/// The allocator in a process, by the libraries that it has loaded and by names in its program file.
enum LoadedAllocator {
    /// A library, or the program itself where it is built in. `prefix` is what stands before `mallctl`.
    case jemalloc(file: String, prefix: String)
    /// Another one that is served by madvise and scan.
    case other(name: String, file: String)
    case glibc
    case unknown(String)

    init(pid: Int32) {
        let files: [String]
        do {
            var seen: Set<String> = []
            files = try MemoryMapEntry.read(pid: pid).map(\.name).filter {
                $0.hasPrefix("/") && seen.insert($0).inserted
            }
        } catch {
            self = .unknown("\(error)")
            return
        }
        func library(_ prefix: String) -> String? {
            files.first { $0.split(separator: "/").last?.hasPrefix(prefix) == true }
        }
        let program = ProgramFile(pid: pid)
        let libc = library("libc.so") ?? library("libc-2") ?? library("ld-musl")
        if let file = library("libjemalloc") {
            self = .jemalloc(file: file, prefix: "")
        } else if let file = library("libtcmalloc") {
            self = .other(name: "tcmalloc", file: file)
        } else if let file = library("libmimalloc") {
            self = .other(name: "mimalloc", file: file)
        } else if let prefix = program?.prefix(of: "mallctlbymib") {
            self = .jemalloc(file: "the program itself", prefix: prefix)
        } else if program?.prefix(of: "mi_malloc") != nil {
            self = .other(name: "mimalloc", file: "the program itself")
        } else if program?.prefix(of: "MallocExtension_ReleaseFreeMemory") != nil {
            self = .other(name: "tcmalloc", file: "the program itself")
        } else if libc != nil {
            self = .glibc
        } else {
            self = .unknown("no libc is loaded: a static program ignores a preload")
        }
    }

    /// Why hooks are not possible; nil where they are.
    var hooksRefusal: String? {
        switch self {
        case .jemalloc: nil
        case .other, .glibc: StatsPage.meaning(of: "refused_no_jemalloc")
        case .unknown(let reason): reason
        }
    }

    var finding: Finding {
        switch self {
        case .jemalloc(let file, let prefix) where prefix.isEmpty || prefix == "je_":
            Finding("allocator", .ok, "jemalloc: \(file)")
        case .jemalloc(let file, let prefix):
            Finding(
                "allocator", .limited, "jemalloc: \(file), behind the prefix \(prefix)",
                remedy: "PTRECLAIM_MALLCTL=\(prefix)mallctl, if the program exports that name")
        case .other(let name, let file):
            Finding(
                "allocator", .limited, "\(name): \(file); served by madvise and scan, not by hooks")
        case .glibc:
            Finding(
                "allocator", .limited,
                "glibc's malloc: maps and unmaps inside itself, unseen; only mappings of the "
                    + "program's own are served, by madvise and scan",
                remedy: "preload jemalloc into the program, too")
        case .unknown(let reason): Finding("allocator", .limited, "unknown: \(reason)")
        }
    }
}

/// The file that a process executes, searched for names.
private struct ProgramFile {
    private let bytes: Data

    init?(pid: Int32) {
        let url = URL(fileURLWithPath: "/proc/\(pid)/exe")
        guard let bytes = try? Data(contentsOf: url, options: .alwaysMapped) else { return nil }
        self.bytes = bytes
    }

    /// What stands before `name` in the shortest symbol that ends with it; nil where none does.
    func prefix(of name: String) -> String? {
        var found: String?
        var rest = bytes.startIndex
        let pattern = Data(name.utf8) + [0]
        while let range = bytes.range(of: pattern, in: rest..<bytes.endIndex) {
            let start = bytes[..<range.lowerBound].lastIndex { !Self.isIdentifier($0) }
            let prefix = String(
                decoding: bytes[(start.map { $0 + 1 } ?? bytes.startIndex)..<range.lowerBound],
                as: UTF8.self)
            if prefix.count < found?.count ?? 64 { found = prefix }
            rest = range.upperBound
        }
        return found
    }

    private static func isIdentifier(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"):
            true
        default: false
        }
    }
}
