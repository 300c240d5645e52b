// SPDX-License-Identifier: Apache-2.0

internal import PageTableModel
internal import ReclaimCore

/// A guest with virtio-mem: memory is plugged, which the guest writes, and unplugged, which QEMU
/// answers by `MADV_DONTNEED` over the block. The driver of Linux plugs from the bottom up and
/// unplugs from the top down; blocks with pages that cannot be moved stay.
struct PlugParameters: Sendable {
    var blockSpans: Int
    var guestByteCount: UInt
    /// Of the blocks: those that cannot be unplugged, others in each cycle.
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
                ("cycles", "\(cycles): all is plugged and written, all but 1/64 goes"),
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
        let step = seconds / Double(cycles * 2 * 16)
        try simulation.map(guest)
        var isPlugged = [Bool](repeating: false, count: count)
        for cycle in 0..<cycles {
            for part in 0..<16 {
                for number in count * part / 16..<count * (part + 1) / 16
                where !isPlugged[number] {
                    try simulation.use(block(number), isNew: cycle == 0)
                    isPlugged[number] = true
                }
                try simulation.tick(step)
            }
            for part in (0..<16).reversed() {
                for number in (count * part / 16..<count * (part + 1) / 16).reversed()
                where !random.isBelow(keptShare) {
                    try simulation.purge(block(number))
                    isPlugged[number] = false
                }
                try simulation.tick(step)
            }
        }
    }
}
