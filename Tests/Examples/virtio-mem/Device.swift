// SPDX-License-Identifier: Apache-2.0

import Glibc
import PTReclaim
import ReclaimCore
import Synchronization

/// Which blocks are plugged, and what the guest left in them.
final class Device: Sendable {
    private enum State {
        case unplugged
        /// The guest has it online; `written` is in each of its words.
        case plugged(written: UInt64)
        /// A thread of the guest works in it, or the host at it.
        case busy
    }

    private struct Blocks {
        var states: [State]
        var plugged: [Int] = []
        var isOn = true
        var wrong = 0
        var rounds = 0
        var report = ReclaimReport()
    }

    private let memory: DeviceMemory
    private let reclaiming: Bool
    private let blocks: Mutex<Blocks>

    init(_ memory: DeviceMemory, reclaiming: Bool) {
        self.memory = memory
        self.reclaiming = reclaiming
        blocks = Mutex(Blocks(states: Array(repeating: .unplugged, count: memory.blockCount)))
    }

    deinit { memory.unmap() }

    var pluggedCount: Int { blocks.withLock { $0.plugged.count } }
    var wrongCount: Int { blocks.withLock { $0.wrong } }
    var roundCount: Int { blocks.withLock { $0.rounds } }
    var report: ReclaimReport { blocks.withLock { $0.report } }

    // MARK: The host

    /// Plugs a block. What the guest finds in it is zero; it writes there at once.
    func plug(using generator: inout SplitMix) {
        let block = Int.random(in: 0..<memory.blockCount, using: &generator)
        let isNew = blocks.withLock { blocks in
            guard case .unplugged = blocks.states[block] else { return false }
            blocks.states[block] = .busy
            blocks.plugged.append(block)
            return true
        }
        if isNew { write(1, to: block, expecting: 0) }
    }

    /// Unplugs a block that the guest has offlined: its pages go, and then its tables.
    func unplug(using generator: inout SplitMix) throws {
        let chosen: Int? = blocks.withLock { blocks in
            let index = Int.random(in: blocks.plugged.indices, using: &generator)
            let block = blocks.plugged[index]
            guard case .plugged = blocks.states[block] else { return nil }
            blocks.states[block] = .busy
            blocks.plugged.swapAt(index, blocks.plugged.count - 1)
            blocks.plugged.removeLast()
            return block
        }
        guard let block = chosen else { return }
        try memory.discard(block)
        if reclaiming {
            let report = try ptReclaim(range: memory.addresses(of: block))
            blocks.withLock { blocks in
                blocks.report.tablesFreed += report.tablesFreed
                for reason in KeptReason.allCases {
                    blocks.report.kept[reason] += report.kept[reason]
                }
            }
        }
        blocks.withLock { $0.states[block] = .unplugged }
    }

    func powerOff() { blocks.withLock { $0.isOn = false } }

    // MARK: The guest

    /// One round of a thread of the guest: reads a block and writes it anew. False: switched off.
    func work(using generator: inout SplitMix) -> Bool {
        let chosen: (block: Int, written: UInt64)? = blocks.withLock { blocks in
            guard let block = blocks.plugged.randomElement(using: &generator),
                case .plugged(let written) = blocks.states[block]
            else { return nil }
            blocks.states[block] = .busy
            blocks.rounds += 1
            return (block, written)
        }
        if let chosen { write(chosen.written + 1, to: chosen.block, expecting: chosen.written) }
        return blocks.withLock { $0.isOn }
    }

    /// Looks at every plugged block.
    func checkAll() {
        for (block, state) in blocks.withLock({ $0.states }).enumerated() {
            if case .plugged(let written) = state {
                write(written, to: block, expecting: written)
            }
        }
    }

    private func write(_ value: UInt64, to block: Int, expecting expected: UInt64) {
        var wrong = 0
        for address in memory.words(of: block) {
            // Sound: mapped, aligned, and the block is busy, so nobody else's.
            let word = unsafe UnsafeMutablePointer<UInt64>(bitPattern: address)!
            let mark = expected == 0 ? 0 : expected ^ UInt64(block) << 32
            if unsafe word.pointee != mark { wrong += 1 }
            unsafe word.pointee = value ^ UInt64(block) << 32
        }
        blocks.withLock { blocks in
            blocks.wrong += wrong
            blocks.states[block] = .plugged(written: value)
        }
    }
}

/// A thread of the guest.
struct Guest {
    private let thread: pthread_t

    init(_ device: Device, seed: UInt64) {
        let context = unsafe Unmanaged.passRetained(Work(device, seed)).toOpaque()
        var thread = pthread_t()
        let error = unsafe pthread_create(
            &thread, nil,
            {
                // Sound: retained above, for this thread alone.
                let work = unsafe Unmanaged<Work>.fromOpaque($0!).takeRetainedValue()
                while work.device.work(using: &work.generator) {}
                return nil
            }, context)
        precondition(error == 0, "pthread_create: errno \(error)")
        self.thread = thread
    }

    func join() { pthread_join(thread, nil) }

    private final class Work {
        let device: Device
        var generator: SplitMix
        init(_ device: Device, _ seed: UInt64) {
            self.device = device
            generator = SplitMix(state: seed)
        }
    }
}

/// Random numbers that are the same in every run.
struct SplitMix: RandomNumberGenerator, Sendable {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
