// SPDX-License-Identifier: Apache-2.0

import CTraceFile
import Foundation
import PageTableModel
import ReclaimCore
import Testing
import TraceFile

/// Bytes of any kind: they are replayed or refused with one line. A trap would end this process.
@Suite struct TraceFuzzTests {
    /// PTRECLAIM_TRACE_SEED repeats a run.
    private static let firstSeed =
        ProcessInfo.processInfo.environment["PTRECLAIM_TRACE_SEED"].flatMap { UInt64($0) }
        ?? UInt64.random(in: 0...UInt64(UInt32.max))
    private static let runs: UInt64 = 4000

    /// A trace of 120 events that fit together.
    private static func plausible(_ random: inout SplitMix64) -> TraceBytes {
        var trace = TraceBytes(
            backend: Backend.allCases.randomElement(using: &random) ?? .dontneed,
            dontneedFreesTables: Bool.random(using: &random))
        trace.header.capacity = 200
        trace.sample(100)
        trace.add(PTRECLAIM_TRACE_MAP, at: TraceBytes.heap, pages: 1500, more: 36)
        for _ in 0..<120 {
            let start = UInt.random(in: 0..<1499, using: &random)
            let count = UInt.random(in: 1...(1500 - start), using: &random)
            let kind = ptreclaim_trace_kind(UInt32.random(in: 1...10, using: &random))
            let address = TraceBytes.heap + start * TraceBytes.page
            let lower = UInt32.random(in: 1...UInt32(count), using: &random)
            trace.add(
                kind, at: address, pages: kind == PTRECLAIM_TRACE_MERGE ? lower : UInt32(count),
                more: UInt32.random(in: 1...3, using: &random))
        }
        return trace
    }

    private static func mutate(_ bytes: inout [UInt8], _ random: inout SplitMix64) {
        let interesting: [UInt64] = [
            0, 1, 4095, 4096, 1 << 31, 1 << 32, 1 << 46, (1 << 47) - 4096, 1 << 47, 1 << 63, .max,
            .max - 4095,
        ]
        // A damaged header is mostly the end of it; half of all traces keep theirs.
        let sparesHeader = Bool.random(using: &random)
        func place(_ random: inout SplitMix64) -> Int {
            let lowest = sparesHeader ? min(4096, bytes.count - 1) : 0
            let highest = sparesHeader ? bytes.count : min(136, bytes.count)
            return Int.random(in: lowest..<highest, using: &random)
        }
        for _ in 0..<Int.random(in: 1...4, using: &random) where !bytes.isEmpty {
            switch Int.random(in: 0..<6, using: &random) {
            case 0: bytes[place(&random)] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 1: bytes[place(&random)] = UInt8.random(in: 0...255, using: &random)
            case 2:
                let value = interesting.randomElement(using: &random) ?? 0
                let start = place(&random) & ~7
                for index in 0..<8 where start + index < bytes.count {
                    bytes[start + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * index))
                }
            case 3 where !sparesHeader:
                bytes.removeLast(Int.random(in: 0...bytes.count, using: &random))
            case 3, 4:
                // One record over another.
                guard bytes.count >= 4096 + 64 else { continue }
                let count = (bytes.count - 4096) / 32
                let from = 4096 + 32 * Int.random(in: 0..<count, using: &random)
                let to = 4096 + 32 * Int.random(in: 0..<count, using: &random)
                bytes.replaceSubrange(to..<to + 32, with: bytes[from..<from + 32])
            default:
                let start = place(&random)
                for index in start..<min(start + 32, bytes.count) {
                    bytes[index] = UInt8.random(in: 0...255, using: &random)
                }
            }
        }
    }

    @Test("Thousands of damaged traces are replayed or refused, and none of them traps")
    func damaged() {
        print("TraceFuzzTests: \(Self.runs) seeds from \(Self.firstSeed)")
        var replayed = 0
        for seed in Self.firstSeed..<Self.firstSeed + Self.runs {
            var random = SplitMix64(seed: seed)
            var bytes: [UInt8]
            if seed % 16 == 0 {
                bytes = (0..<Int.random(in: 0...9000, using: &random)).map { _ in
                    UInt8.random(in: 0...255, using: &random)
                }
            } else {
                bytes = Self.plausible(&random).bytes
                Self.mutate(&bytes, &random)
            }
            do throws(TraceError) {
                let replay = try TraceReplay(TraceReader(bytes: bytes), mostTables: 64)
                _ = replay.medianAndFurthest
                _ = replay.thinned(to: 5)
                replayed += 1
            } catch {
                let text = error.description
                #expect(!text.isEmpty && !text.contains("\n"), "seed \(seed)")
            }
        }
        // Else only the reader is tried.
        #expect(replayed > Int(Self.runs) / 20, "\(replayed) were replayed")
        #expect(replayed < Int(Self.runs), "all of them were replayed")
    }
}

struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }
}
