// SPDX-License-Identifier: Apache-2.0

/// Random numbers that a printed seed brings back.
public struct SplitMix64: RandomNumberGenerator, Sendable {
    private var state: UInt64

    public init(seed: UInt64) { self.state = seed }

    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

extension SplitMix64 {
    /// A number below `bound`, which is below 2^32.
    public mutating func next(below bound: Int) -> Int {
        Int(((next() >> 32) &* UInt64(bound)) >> 32)
    }

    /// True for `share` of the calls.
    public mutating func isBelow(_ share: Double) -> Bool {
        Double(next() >> 11) * 0x1p-53 < share
    }
}
