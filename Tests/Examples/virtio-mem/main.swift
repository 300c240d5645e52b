// SPDX-License-Identifier: Apache-2.0

// The memory of a virtual machine as virtio-mem has it: a big sparse mapping, of which blocks of
// 4 MiB are plugged and unplugged while the guest runs. What is unplugged goes back to the host
// with madvise or, for a memfd, fallocate. Its page tables go with `ptReclaim`, in the default
// access: a guest is not to be trusted, and may touch what it has given up.
//
//     example-virtio-mem anonymous|memfd
//
// Does it twice, without and with `ptReclaim`, and prints VmPTE, and what of it is waste. Exits
// with 1 if a byte of a plugged block changed, or one of a block newly plugged is not zero.

import Glibc
import PTReclaim
import ProcFS
import ReclaimCore

/// 64 GiB, of which at most 8 are plugged. The guest touches one page in each 2 MiB.
let deviceByteCount = 64 << 30
let mostPlugged = 2048
let leftPlugged = 256

func kilobytes(_ byteCount: UInt?) -> String {
    byteCount.map { "\($0 >> 10)" } ?? "unknown"
}

/// Plugs, lets the guest work, unplugs most of it, plugs other blocks: what a host does in a day.
func run(_ memory: DeviceMemory.Kind, reclaiming: Bool) throws {
    let name = reclaiming ? "with" : "without"
    let device = try Device(
        DeviceMemory(memory, byteCount: deviceByteCount), reclaiming: reclaiming)
    let guests = (0..<2).map { number in Guest(device, seed: UInt64(number + 1)) }
    var generator = SplitMix(state: 7)
    var peak: UInt = 0
    for _ in 0..<3 {
        while device.pluggedCount < mostPlugged { device.plug(using: &generator) }
        peak = max(peak, try ProcessStatus.read(pid: getpid()).vmPTEByteCount)
        while device.pluggedCount > leftPlugged { try device.unplug(using: &generator) }
    }
    let census = try PageTableCensus.take(pid: getpid())
    device.powerOff()
    for guest in guests { guest.join() }
    device.checkAll()

    print("\(name) blocks plugged: \(device.pluggedCount)")
    print("\(name) rounds of the guest: \(device.roundCount)")
    print("\(name) VmPTE at most, kB: \(kilobytes(peak))")
    print("\(name) VmPTE, kB: \(kilobytes(census.vmPTEByteCount))")
    print("\(name) waste, kB: \(kilobytes(census.wasteByteCount))")
    if reclaiming {
        print("\(name) tables freed: \(device.report.tablesFreed)")
        for reason in KeptReason.allCases where device.report.kept[reason] > 0 {
            print("\(name) kept, \(reason.name): \(device.report.kept[reason])")
        }
    }
    print("\(name) wrong bytes: \(device.wrongCount)")
    if device.wrongCount > 0 { exit(1) }
}

guard CommandLine.arguments.count == 2,
    let memory = DeviceMemory.Kind(rawValue: CommandLine.arguments[1])
else {
    print("usage: example-virtio-mem anonymous|memfd")
    exit(2)
}
try run(memory, reclaiming: false)
try run(memory, reclaiming: true)
