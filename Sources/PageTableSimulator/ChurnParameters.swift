// SPDX-License-Identifier: Apache-2.0

internal import PageTableModel
internal import ReclaimCore

/// Arenas whose extents are used and given up at random.
///
/// An arena maps a region at a time when what it wants exceeds what it has; each region is cut into
/// extents once, and from then on these come and go.
struct ChurnParameters: Sendable {
    var name: String
    var meaning: String
    var arenaCount: Int
    /// Of each arena, at the end.
    var regionsPerArena: Int
    var regionSpans: Int
    /// Pages of an extent: at least and at most.
    var extentPages: ClosedRange<Int>
    /// Of the extents, at the peak and in the valley of each round.
    var peakShare: Double
    var valleyShare: Double
    /// Of the regions: those that are given up as a whole in a round.
    var emptiedShare: Double
    var rounds: Int
    var seconds: Double

    /// 4 GiB of address space, keys that grow, so that old extents do not fit.
    static func redis(scale: Double) -> ChurnParameters {
        ChurnParameters(
            name: "redis", meaning: "keys that grow, old ones go", arenaCount: 1,
            regionsPerArena: max(2, Int((32 * scale).rounded())), regionSpans: 64,
            extentPages: 8...448, peakShare: 0.9, valleyShare: 0.1, emptiedShare: 0.6,
            rounds: 16, seconds: 3600)
    }

    /// 256 arenas of 256 MiB.
    static func arenas(scale: Double) -> ChurnParameters {
        ChurnParameters(
            name: "arenas", meaning: "256 threads, an arena each", arenaCount: 256,
            regionsPerArena: max(1, Int((32 * scale).rounded())), regionSpans: 4,
            extentPages: 16...1024, peakShare: 0.7, valleyShare: 0.1, emptiedShare: 0.5,
            rounds: 8, seconds: 3600)
    }

    func workload(seed: UInt64) -> Workload {
        Workload(
            name: name, meaning: meaning,
            parameters: [
                ("arenas", "\(arenaCount)"),
                ("address space of each", "\(regionsPerArena * regionSpans * 2) MiB"),
                ("region", "\(regionSpans * 2) MiB"),
                ("pages of an extent", "\(extentPages.lowerBound) to \(extentPages.upperBound)"),
                (
                    "extents in use",
                    "\(Int(peakShare * 100)) % at the peak of each of \(rounds) rounds, "
                        + "\(Int(valleyShare * 100)) % after it"
                ),
                ("regions given up as a whole", "\(Int(emptiedShare * 100)) % in each round"),
                ("time", "\(Int(seconds)) s"), ("seed", "\(seed)"),
            ], seconds: seconds, base: Workload.base
        ) { simulation in
            var churn = Churn(self, seed: seed)
            try churn.play(simulation)
        }
    }
}

private struct Churn {
    private struct Extent {
        let range: AddressRange
        var isUsed = false
    }

    private let parameters: ChurnParameters
    private var random: SplitMix64
    private var arenas: [[Extent]]

    init(_ parameters: ChurnParameters, seed: UInt64) {
        self.parameters = parameters
        random = SplitMix64(seed: seed)
        arenas = Array(repeating: [], count: parameters.arenaCount)
    }

    mutating func play(_ simulation: Simulation) throws {
        var regions = 0
        let step = parameters.seconds / Double(parameters.rounds * 2)
        for round in 0..<parameters.rounds {
            // Regions of the arenas lie between each other, as mmap hands them out.
            let wanted =
                (parameters.regionsPerArena * (round + 1) + parameters.rounds - 1)
                / parameters.rounds
            while regions < wanted {
                for arena in arenas.indices { try grow(arena, regions, simulation) }
                regions += 1
            }
            for arena in arenas.indices { try use(arena, simulation) }
            try simulation.tick(step)
            for arena in arenas.indices { try giveUp(arena, simulation) }
            try simulation.tick(step)
        }
    }

    private var regionByteCount: UInt {
        UInt(parameters.regionSpans) * PageGeometry.spanByteCount
    }

    private mutating func grow(_ arena: Int, _ number: Int, _ simulation: Simulation) throws {
        let start = Workload.base + UInt(number * arenas.count + arena) * regionByteCount
        let region = AddressRange(start: start, end: start + regionByteCount)
        try simulation.retain(region)
        var from = start
        while from < region.end {
            let pages =
                parameters.extentPages.lowerBound
                + random.next(below: parameters.extentPages.count)
            let end = min(from + UInt(pages) * PageGeometry.pageByteCount, region.end)
            arenas[arena].append(Extent(range: AddressRange(start: from, end: end)))
            from = end
        }
    }

    private mutating func use(_ arena: Int, _ simulation: Simulation) throws {
        for index in arenas[arena].indices
        where !arenas[arena][index].isUsed && random.isBelow(parameters.peakShare) {
            try simulation.use(arenas[arena][index].range)
            arenas[arena][index].isUsed = true
        }
    }

    private mutating func giveUp(_ arena: Int, _ simulation: Simulation) throws {
        var region: UInt?
        var share = 1.0
        for index in arenas[arena].indices {
            let start = arenas[arena][index].range.start
            let number = (start - Workload.base) / regionByteCount
            if number != region {
                region = number
                share =
                    random.isBelow(parameters.emptiedShare)
                    ? 1 : 1 - parameters.valleyShare / parameters.peakShare
            }
            guard arenas[arena][index].isUsed, random.isBelow(share) else { continue }
            try simulation.purge(arenas[arena][index].range)
            arenas[arena][index].isUsed = false
        }
    }
}
