// SPDX-License-Identifier: Apache-2.0

internal import PageTableModel

/// What was played.
public struct Tally: Sendable {
    public internal(set) var sequences = 0
    public internal(set) var operations = 0
    /// Operations that would not have returned, and were left out.
    public internal(set) var left = 0
    /// By the first word of the operation: how many, and how many that the kernel refused.
    public internal(set) var kinds: [String: (played: Int, refused: Int)] = [:]
    /// What the kernel was free to choose, and chose.
    public internal(set) var outcomes: [String: Int] = [:]
    public internal(set) var mixtures: [String: Int] = [:]

    mutating func count(_ operation: Operation, errno: Int32) {
        operations += 1
        var entry = kinds[operation.kindName] ?? (0, 0)
        entry.played += 1
        if errno != 0 { entry.refused += 1 }
        kinds[operation.kindName] = entry
    }

    public var lines: [String] {
        let kinds = kinds.sorted { $0.key < $1.key }.map {
            "\($0.key) \($0.value.played)"
                + ($0.value.refused > 0 ? " (\($0.value.refused) refused)" : "")
        }
        let sorted = { (counts: [String: Int]) in
            counts.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
                .joined(separator: ", ")
        }
        return [
            "operations: " + kinds.joined(separator: ", "),
            "choices of the kernel: " + (outcomes.isEmpty ? "none" : sorted(outcomes)),
        ] + (mixtures.isEmpty ? [] : ["mixtures: " + sorted(mixtures)])
            + (left > 0 ? ["left out as endless: \(left)"] : [])
    }
}
