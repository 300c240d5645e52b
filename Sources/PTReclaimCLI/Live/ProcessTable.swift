// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Glibc
internal import ProcFS

/// All processes that one may look at, at one time.
struct ProcessTable {
    struct Row {
        let glance: ProcessGlance
        let census: PageTableCensus
        let commandLine: String

        var isWasteful: Bool {
            WasteMark.isDeserved(waste: census.wasteByteCount, of: census.vmPTEByteCount)
        }
    }

    enum Order: String, CaseIterable, ExpressibleByArgument {
        case waste, percent, vmpte, empty, rss, virt, pid, name
    }

    /// Why some processes could not be looked at.
    struct Refusal: Encodable {
        let reason: String
        let count: Int
    }

    private(set) var rows: [Row] = []
    private(set) var refusals: [Refusal] = []
    let duration: Duration

    /// One pass. Kernel threads are no processes to be looked at, and what ends meanwhile is left out.
    init(by order: Order) {
        let start = ContinuousClock.now
        var refused: [String: Int] = [:]
        for pid in ProcessList.pids() {
            do throws(ProcFSError) {
                rows.append(try Self.row(of: pid))
            } catch {
                guard error.code != .noMemory, ![ENOENT, ESRCH].contains(error.errno) else {
                    continue
                }
                refused[Self.reason(error), default: 0] += 1
            }
        }
        rows.sort { Self.precedes($0, $1, by: order) }
        refusals = refused.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.map {
            Refusal(reason: $0.key, count: $0.value)
        }
        duration = ContinuousClock.now - start
    }

    /// Where the first thread has left, under the ID of another one: that is the one to inspect.
    private static func row(of pid: Int32) throws(ProcFSError) -> Row {
        do throws(ProcFSError) {
            return try look(at: pid)
        } catch {
            guard error.code == .noMemory, let thread = ProcessList.threadWithMemory(of: pid)
            else { throw error }
            return try look(at: thread)
        }
    }

    private static func look(at pid: Int32) throws(ProcFSError) -> Row {
        let glance = try ProcessGlance(pid: pid)
        let census = try PageTableCensus.take(pid: pid)
        return Row(
            glance: glance, census: census, commandLine: ProcessList.commandLine(pid: pid))
    }

    /// The error's own words, without the file.
    private static func reason(_ error: ProcFSError) -> String {
        let text = "\(error)"
        return text.hasPrefix("\(error.what): ")
            ? String(text.dropFirst(error.what.count + 2)) : text
    }

    /// Most first, unknown last; PIDs and names upwards.
    private static func precedes(_ left: Row, _ right: Row, by order: Order) -> Bool {
        func most(_ value: (Row) -> Double?) -> Bool? {
            let (mine, other) = (value(left) ?? -1, value(right) ?? -1)
            return mine == other ? nil : mine > other
        }
        let byKey: Bool? =
            switch order {
            case .waste: most { $0.census.wasteByteCount.map { Double($0) } }
            case .percent: most { $0.census.wastePercent }
            case .vmpte: nil
            case .empty: most { $0.census.tables.empty.map { Double($0) } }
            case .rss: most { Double($0.glance.rssByteCount) }
            case .virt: most { Double($0.glance.vmSizeByteCount) }
            case .pid: left.glance.pid < right.glance.pid
            case .name:
                left.glance.command == right.glance.command
                    ? nil : left.glance.command < right.glance.command
            }
        return byKey ?? most { Double($0.census.vmPTEByteCount) }
            ?? (left.glance.pid < right.glance.pid)
    }

    var vmPTEByteCount: UInt { rows.reduce(0) { $0 + $1.census.vmPTEByteCount } }

    /// Nil where it is unknown of every process.
    var wasteByteCount: UInt? {
        let known = rows.compactMap(\.census.wasteByteCount)
        return known.isEmpty ? nil : known.reduce(0, +)
    }

    /// What could not be told, in sentences, for as many processes each.
    var unknown: [Refusal] {
        var counts: [String: Int] = [:]
        for row in rows {
            for sentence in row.census.unknown {
                // Some sentences have figures of one process.
                counts[String(sentence.prefix { $0 != ":" }), default: 0] += 1
            }
        }
        return counts.sorted { $0.key < $1.key }.map { Refusal(reason: $0.key, count: $0.value) }
    }
}

/// When waste is worth a sign, on every screen: as much as the library's own watermark, and a
/// quarter of all tables.
enum WasteMark {
    static let sign = "!"
    static let meaning = "!  waste of 256 kB or more, and a quarter of VmPTE"
    private static let byteCount: UInt = 256 << 10

    static func isDeserved(waste: UInt?, of vmPTE: UInt) -> Bool {
        waste.map { $0 >= byteCount && $0 >= vmPTE / 4 } ?? false
    }
}
