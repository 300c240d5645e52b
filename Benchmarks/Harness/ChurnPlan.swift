// SPDX-License-Identifier: Apache-2.0

/// A value: a piece of the random block.
struct ChurnValue {
    let offset: Int
    let byteCount: Int
}

/// What is done to every server, drawn from the seed before anything is timed, and the same for
/// all of them.
struct ChurnPlan {
    /// One fill and its deletion.
    struct Cycle {
        let offsets: [Int32]
        let byteCounts: [Int32]
        /// The keys in the order in which they are deleted.
        let deletionOrder: [Int32]

        func value(_ key: Int) -> ChurnValue {
            ChurnValue(offset: Int(offsets[key]), byteCount: Int(byteCounts[key]))
        }

        /// The first 90 % go first.
        var mostCount: Int { deletionOrder.count / 10 * 9 }
    }

    static let populateByteCount = 1000
    static let byteCountRange = 16...4000

    let seed: UInt64
    let populateCount: Int
    let fillCount: Int
    let cycleCount: Int
    let waitSeconds: Double
    /// Prepended to MALLOC_CONF of every server.
    let mallocConfiguration: String?

    let block: RandomBlock
    let cycles: [Cycle]

    init(
        seed: UInt64, populateCount: Int, fillCount: Int, cycleCount: Int, waitSeconds: Double,
        mallocConfiguration: String?
    ) {
        self.seed = seed
        self.populateCount = populateCount
        self.fillCount = fillCount
        self.cycleCount = cycleCount
        self.waitSeconds = waitSeconds
        self.mallocConfiguration = mallocConfiguration
        block = RandomBlock(seed: seed)
        var generator = SplitMix64(seed: seed &+ 1)
        cycles = (0..<cycleCount).map { _ in
            Self.makeCycle(count: fillCount, from: &generator)
        }
    }

    static func full(seed: UInt64, cycles: Int) -> ChurnPlan {
        ChurnPlan(
            seed: seed, populateCount: 1_000_000, fillCount: 600_000, cycleCount: cycles,
            waitSeconds: 12, mallocConfiguration: nil)
    }

    /// A tenth of it. The decay is shortened, so that 2.5 s are as good as 12 s, and there is no
    /// thread cache: what an idle server keeps in it pins all of so few tables (measured: plain
    /// 0 % waste with it).
    static func quick(seed: UInt64) -> ChurnPlan {
        ChurnPlan(
            seed: seed, populateCount: 100_000, fillCount: 60_000, cycleCount: 1,
            waitSeconds: 2.5, mallocConfiguration: "dirty_decay_ms:1000,tcache:false")
    }

    func populateValue(_ key: Int) -> ChurnValue {
        let room = RandomBlock.byteCount - Self.populateByteCount
        return ChurnValue(offset: key &* 4099 % room, byteCount: Self.populateByteCount)
    }

    private static func makeCycle(count: Int, from generator: inout SplitMix64) -> Cycle {
        var offsets: [Int32] = []
        var byteCounts: [Int32] = []
        var order: [Int32] = []
        offsets.reserveCapacity(count)
        byteCounts.reserveCapacity(count)
        order.reserveCapacity(count)
        let room = RandomBlock.byteCount - byteCountRange.upperBound
        var key = 0
        while key < count {
            offsets.append(Int32(generator.next(below: room)))
            byteCounts.append(
                Int32(byteCountRange.lowerBound + generator.next(below: byteCountRange.count)))
            order.append(Int32(key))
            key += 1
        }
        var last = count - 1
        while last > 0 {
            order.swapAt(last, generator.next(below: last + 1))
            last -= 1
        }
        return Cycle(offsets: offsets, byteCounts: byteCounts, deletionOrder: order)
    }
}
