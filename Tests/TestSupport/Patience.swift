// SPDX-License-Identifier: Apache-2.0

/// A limit that counts the time slept in it, and not what goes by otherwise: a suite that runs in
/// parallel can keep the runner's few threads busy for half a minute, and nobody is late by that.
public struct Patience {
    private static let step = Duration.milliseconds(10)
    private var rest: Duration

    public init(_ limit: Duration) { rest = limit }

    public var isOver: Bool { rest <= .zero }

    /// Sleeps for a moment.
    public mutating func wait() async throws {
        try await Task.sleep(for: Self.step)
        rest -= Self.step
    }
}
