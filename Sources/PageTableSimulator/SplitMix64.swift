// SPDX-License-Identifier: Apache-2.0

/// A seeded source of numbers that are the same on every machine.
struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) {
        state = seed
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var word = state
        word = (word ^ word >> 30) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ word >> 27) &* 0x94D0_49BB_1331_11EB
        return word ^ word >> 31
    }

    /// A number below `bound`, which is below 2^32.
    mutating func next(below bound: Int) -> Int {
        Int(next() >> 32 &* UInt64(bound) >> 32)
    }

    /// True for `share` of the calls.
    mutating func isBelow(_ share: Double) -> Bool {
        Double(next() >> 11) * 0x1p-53 < share
    }
}
