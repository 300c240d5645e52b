// SPDX-License-Identifier: Apache-2.0

/// What a program does to its address space, made up as it goes, the same for every policy.
public struct Workload: Sendable {
    public let name: String
    public let meaning: String
    /// What it is made of, for whoever reads the results.
    public let parameters: [(name: String, value: String)]
    /// Simulated time.
    public let seconds: Double
    /// The lowest address.
    let base: UInt
    let play: @Sendable (Simulation) throws -> Void

    static let base: UInt = 1 << 40

    /// Every workload, the first by default.
    public static let names: [(name: String, meaning: String)] = [
        ("server", "VIRT 55 TiB, RES 590 GiB, VmPTE 110 GiB, of which 108 GiB are empty"),
        ("redis", "redis churn: keys that grow, old ones go"),
        ("virtio-mem-2m", "a guest of 1 TB that is plugged and unplugged by 2 MiB"),
        ("virtio-mem-4m", "the same by 4 MiB"),
        ("arenas", "256 threads, an arena each"),
    ]

    /// - Parameters:
    ///   - scale: more than 0, at most 1: of the address space.
    /// - Returns: nil where there is none of that name.
    public static func named(_ name: String, scale: Double, seed: UInt64) -> Workload? {
        switch name {
        case "server": ServerParameters(scale: scale).workload(seed: seed)
        case "redis": ChurnParameters.redis(scale: scale).workload(seed: seed)
        case "virtio-mem-2m": PlugParameters(blockSpans: 1, scale: scale).workload(seed: seed)
        case "virtio-mem-4m": PlugParameters(blockSpans: 2, scale: scale).workload(seed: seed)
        case "arenas": ChurnParameters.arenas(scale: scale).workload(seed: seed)
        default: nil
        }
    }

    /// Plays it under one policy; the memory of that is free again when this returns.
    public func run(_ policy: Policy, costs: Costs) throws -> Outcome {
        let simulation = Simulation(policy, base: base, duration: seconds, costs: costs)
        try play(simulation)
        return simulation.outcome()
    }
}
