// SPDX-License-Identifier: Apache-2.0

internal import ReclaimCore

/// A guest with virtio-mem: memory is plugged, which the guest writes, and unplugged in another
/// order, which QEMU answers by `MADV_DONTNEED` over the block.
struct PlugParameters: Sendable {
    var blockSpans: Int
    var guestByteCount: UInt
    /// The part that is never unplugged.
    var keptShare = 1.0 / 64
    var cycles = 3
    var seconds = 3 * 3600.0

    init(blockSpans: Int, scale: Double) {
        self.blockSpans = blockSpans
        let block = UInt(blockSpans) * PageGeometry.spanByteCount
        let blocks = max(64, (1_099_511_627_776 * scale / Double(block)).rounded())
        guestByteCount = UInt(blocks) * block
    }

    func workload(seed: UInt64) -> Workload {
        Workload(
            name: "virtio-mem-\(blockSpans * 2)m", meaning: "plug and unplug",
            parameters: [
                ("guest", "\(guestByteCount >> 20) MiB"), ("block", "\(blockSpans * 2) MiB"),
                ("cycles", "\(cycles): all is plugged and written, then all but 1/64 goes"),
                ("time", "\(Int(seconds)) s"), ("seed", "\(seed)"),
            ], seconds: seconds, base: Workload.base
        ) { try play($0, seed: seed) }
    }

    private func play(_ simulation: Simulation, seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        let blockByteCount = UInt(blockSpans) * PageGeometry.spanByteCount
        let count = Int(guestByteCount / blockByteCount)
        let guest = AddressRange(
            start: Workload.base, end: Workload.base + UInt(count) * blockByteCount)
        func block(_ number: Int) -> AddressRange {
            let start = guest.start + UInt(number) * blockByteCount
            return AddressRange(start: start, end: start + blockByteCount)
        }
        let keptCount = Int(Double(count) * keptShare)
        let step = seconds / Double(cycles * 2 * 16)
        var order = Array(keptCount..<count)
        try simulation.map(guest)
        for number in 0..<keptCount { try simulation.use(block(number), isNew: true) }
        for cycle in 0..<cycles {
            for part in 0..<16 {
                for number in order[order.count * part / 16..<order.count * (part + 1) / 16] {
                    try simulation.use(block(number), isNew: cycle == 0)
                }
                try simulation.tick(step)
            }
            order.shuffle(using: &random)
            for part in 0..<16 {
                for number in order[order.count * part / 16..<order.count * (part + 1) / 16] {
                    try simulation.purge(block(number))
                }
                try simulation.tick(step)
            }
        }
    }
}
