// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import LiveSpace
import PTReclaim
import ReclaimCore

// What `ptReclaim` costs beside the system calls that it makes, in one process, in turns. Prints
// series of nanoseconds for the harness, a line each: name, parameter, series, values.

/// One way to free tables.
enum Form: String {
    case fenced, dontneed, remap

    var access: ReclaimAccess { self == .fenced ? .shared : .owned }
    var backend: Backend { self == .remap ? .remap : .dontneed }
}

func fail(_ message: String) -> Never {
    FileHandle.standardError.write(Data("call-cost: \(message)\n".utf8))
    exit(1)
}

extension Field {
    /// Makes an empty table in each of `spans`.
    func makeEmpty(_ spans: Range<Int>) {
        for span in spans {
            // Sound: mapped above, and this program's alone.
            unsafe UnsafeMutablePointer<UInt8>(bitPattern: address(of: span))?.pointee = 1
            _ = ptreclaim_madvise(address(of: span), 4096, PTRECLAIM_MADV_DONTNEED)
        }
    }
}

/// Every system call of `ptReclaim` for runs of empty tables, in its order.
@safe struct BareSequence {
    let form: Form
    let runs: [Range<UInt>]
    let scratch: UInt
    let withLooks: Bool

    func run(pagemap: Int32, maps: Int32, userfaultfd: Int32) {
        for run in runs {
            self.run(run.lowerBound, run.upperBound, pagemap, maps, userfaultfd)
        }
    }

    private func run(
        _ start: UInt, _ end: UInt, _ pagemap: Int32, _ maps: Int32, _ userfaultfd: Int32
    ) {
        var page: UInt = 0
        var first: UInt = 0
        var last: UInt = 0
        if withLooks {
            var vma = ptreclaim_vma()
            _ = ptreclaim_self_vm_pte()
            _ = unsafe ptreclaim_find_vma(maps, start, &vma)
            _ = unsafe ptreclaim_first_tables(pagemap, start, end, 512, &first, &last)
            _ = unsafe ptreclaim_first_populated(pagemap, true, start, end, &page)
        }
        switch form {
        case .dontneed:
            _ = ptreclaim_madvise(start, Int(end - start), PTRECLAIM_MADV_DONTNEED_LOCKED)
        case .remap: remap(start, end)
        case .fenced: fence(start, end, pagemap, userfaultfd)
        }
        if withLooks {
            _ = unsafe ptreclaim_first_tables(pagemap, start, end, 512, &first, &last)
            _ = ptreclaim_self_vm_pte()
        }
    }

    private func remap(_ start: UInt, _ end: UInt) {
        if withLooks { _ = ptreclaim_madvise(start, Int(end - start), PTRECLAIM_MADV_COLD) }
        let count = Field.spanByteCount
        for span in stride(from: start, to: end, by: count) {
            _ = ptreclaim_mremap(
                span, count, count,
                PTRECLAIM_MREMAP_MAYMOVE | PTRECLAIM_MREMAP_FIXED | PTRECLAIM_MREMAP_DONTUNMAP,
                scratch)
            _ = ptreclaim_mmap(scratch, count, 0, 0x4032, -1, 0)
        }
    }

    private func fence(
        _ start: UInt, _ end: UInt, _ pagemap: Int32, _ userfaultfd: Int32
    ) {
        let most = UInt(64 * Field.spanByteCount)
        var from = start
        while from < end {
            let byteCount = min(end - from, most)
            let signals = ptreclaim_set_signal_mask(.max)
            var registration = ptreclaim_uffd_register()
            registration.range = ptreclaim_uffd_range(start: UInt64(from), len: UInt64(byteCount))
            registration.mode = PTRECLAIM_UFFD_REGISTER_MISSING
            var range = registration.range
            _ = unsafe ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_REGISTER, &registration)
            var page: UInt = 0
            _ = unsafe ptreclaim_first_populated(pagemap, true, from, from + byteCount, &page)
            _ = ptreclaim_madvise(from, Int(byteCount), PTRECLAIM_MADV_DONTNEED_LOCKED)
            _ = unsafe ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_UNREGISTER, &range)
            _ = unsafe ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_WAKE, &range)
            _ = ptreclaim_set_signal_mask(signals)
            from += byteCount
        }
    }

    /// The sequence where `ptReclaim` would run it: behind a fence on the service thread.
    func measure() -> UInt64 {
        let before = ptreclaim_monotonic_nanoseconds()
        if form == .fenced {
            var copy = self
            let error = unsafe withUnsafeMutablePointer(to: &copy) {
                unsafe ptreclaim_service_run(
                    { context, service in
                        // Sound: the caller waits and keeps the copy alive.
                        let bare = unsafe context.assumingMemoryBound(to: BareSequence.self).pointee
                        unsafe bare.run(
                            pagemap: service.pointee.pagemap, maps: service.pointee.maps,
                            userfaultfd: service.pointee.userfaultfd)
                    }, $0)
            }
            guard error == 0 else { fail("no service thread: errno \(-error)") }
        } else {
            let pagemap = withLooks ? ptreclaim_open_self_pagemap() : -1
            let maps = withLooks ? ptreclaim_open_self_maps() : -1
            run(pagemap: pagemap, maps: maps, userfaultfd: -1)
            if withLooks {
                _ = ptreclaim_close(pagemap)
                _ = ptreclaim_close(maps)
            }
        }
        return ptreclaim_monotonic_nanoseconds() - before
    }
}

func call(_ range: Range<UInt>, _ access: ReclaimAccess, expecting count: Int) -> UInt64 {
    do throws(ReclaimError) {
        let before = ptreclaim_monotonic_nanoseconds()
        let report = try ptReclaim(range: range, access: access)
        let after = ptreclaim_monotonic_nanoseconds()
        guard report.tablesFreed == count else {
            fail("freed \(report.tablesFreed) of \(count) tables")
        }
        return after - before
    } catch {
        fail("\(error)")
    }
}

func measureRuns(_ form: Form, samples: Int) {
    let field = Field(byteCount: 512 * Field.spanByteCount)
    let scratch = Field(byteCount: Field.spanByteCount).start
    for spanCount in [1, 8, 64, 512] {
        let name = form.rawValue
        // Every system call of `ptReclaim`, on the same thread, without it.
        var bare = Series(name: name, parameter: "\(spanCount)", series: "bare")
        var whole = Series(name: name, parameter: "\(spanCount)", series: "call")
        // Only what frees: REGISTER, look, free, UNREGISTER, WAKE; or the free alone.
        var free = Series(name: name, parameter: "\(spanCount)", series: "free")
        let range = field.start..<field.address(of: spanCount)
        func sequence(withLooks: Bool) -> UInt64 {
            field.makeEmpty(0..<spanCount)
            return BareSequence(
                form: form, runs: [range], scratch: scratch, withLooks: withLooks
            ).measure()
        }
        for round in 0..<max(samples / max(spanCount / 8, 1), min(samples, 60)) {
            // In turns, and every other time in the other order.
            if round % 2 == 0 { bare.nanoseconds.append(sequence(withLooks: true)) }
            field.makeEmpty(0..<spanCount)
            whole.nanoseconds.append(call(range, form.access, expecting: spanCount))
            if round % 2 == 1 { bare.nanoseconds.append(sequence(withLooks: true)) }
            free.nanoseconds.append(sequence(withLooks: false))
        }
        for series in [bare, whole, free] { series.print() }
    }
}

// MARK: - The hand-over

@safe final class PingPong: @unchecked Sendable {
    // Sound: two words of its own, touched by atomic operations of the kernel's futex protocol.
    let words = UnsafeMutablePointer<UInt64>.allocate(capacity: 2)
    init() { unsafe words.initialize(repeating: 0, count: 2) }

    private func wait(_ index: Int, until value: UInt64) {
        while unsafe ptreclaim_load_acquire(words + index) != value {
            unsafe (words + index).withMemoryRebound(to: UInt32.self, capacity: 2) {
                unsafe ptreclaim_futex_wait($0, UInt32(value - 1), -1)
            }
        }
    }

    private func post(_ index: Int, _ value: UInt64) {
        unsafe ptreclaim_store_release(words + index, value)
        unsafe (words + index).withMemoryRebound(to: UInt32.self, capacity: 2) {
            unsafe ptreclaim_futex_wake($0, 1)
        }
    }

    func answer(_ rounds: UInt64) {
        for round in 1...rounds {
            wait(0, until: round)
            post(1, round)
        }
    }

    func ask(_ round: UInt64) -> UInt64 {
        let before = ptreclaim_monotonic_nanoseconds()
        post(0, round)
        wait(1, until: round)
        return ptreclaim_monotonic_nanoseconds() - before
    }
}

/// An empty job on the service thread beside a bare round trip between two threads.
///
/// - Parameter pinned: all on one CPU. Otherwise both depend on where the scheduler puts the
///   threads: to wake another CPU costs ten times as much.
func measureHandOver(samples: Int, pinned: Bool) {
    if pinned { ptreclaim_pin_to_this_cpu() }
    let pingPong = PingPong()
    let thread = Thread { pingPong.answer(UInt64(samples)) }
    thread.start()
    let parameter = pinned ? "one CPU" : "any CPU"
    var futex = Series(name: "hand-over", parameter: parameter, series: "futex")
    var service = Series(name: "hand-over", parameter: parameter, series: "service")
    for round in 1...UInt64(samples) {
        futex.nanoseconds.append(pingPong.ask(round))
        var nothing = 0
        let before = ptreclaim_monotonic_nanoseconds()
        let error = unsafe ptreclaim_service_run({ _, _ in }, &nothing)
        service.nanoseconds.append(ptreclaim_monotonic_nanoseconds() - before)
        guard error == 0 else { fail("no service thread: errno \(-error)") }
    }
    for series in [futex, service] { series.print() }
}

// MARK: - Much address space, little memory

/// 10 TB mapped, 1 GB touched, in one piece and in 64 pieces far apart.
func measureSparse(_ form: Form, samples: Int) {
    let field = Field(byteCount: 10 << 40)
    let tables = (1 << 30) / Field.spanByteCount
    for pieces in [1, 64] {
        let perPiece = tables / pieces
        let spans = (0..<pieces).map { $0 * (field.spanCount / pieces) }
            .map { $0..<($0 + perPiece) }
        let parameter = "\(form.rawValue), \(pieces == 1 ? "one piece" : "\(pieces) pieces")"
        var whole = Series(name: "sparse", parameter: parameter, series: "call")
        // The frees alone, behind one hand-over.
        var frees = Series(name: "sparse", parameter: parameter, series: "free")
        for _ in 0..<samples {
            for piece in spans { field.makeEmpty(piece) }
            whole.nanoseconds.append(
                call(field.start..<field.end, form.access, expecting: tables))
            for piece in spans { field.makeEmpty(piece) }
            let runs = spans.map {
                field.address(of: $0.lowerBound)..<field.address(of: $0.upperBound)
            }
            frees.nanoseconds.append(
                BareSequence(form: form, runs: runs, scratch: 0, withLooks: false).measure())
        }
        for series in [whole, frees] { series.print() }
    }
}

// MARK: -

func skip(_ reason: String) -> Never {
    Swift.print("skipped", reason, separator: "\t")
    exit(0)
}

/// The first call measures the kernel, and starts the service thread.
func warmUp(_ form: Form) {
    guard LiveSpace.probeBackend(preferring: form.backend) != nil else {
        skip("\(form.backend) frees nothing on this kernel")
    }
    let field = Field(byteCount: Field.spanByteCount)
    field.makeEmpty(0..<1)
    do throws(ReclaimError) {
        let report = try ptReclaim(range: field.start..<field.address(of: 1), access: form.access)
        if report.kept[.fenceUnavailable] > 0 { skip("no userfaultfd is to be had") }
    } catch {
        fail("\(error)")
    }
}

let usage = "usage: call-cost fenced|dontneed|remap|one-cpu|any-cpu SAMPLES"
guard CommandLine.arguments.count == 3, let samples = Int(CommandLine.arguments[2]), samples > 0
else { fail(usage) }
switch CommandLine.arguments[1] {
case "one-cpu", "any-cpu":
    measureHandOver(samples: samples, pinned: CommandLine.arguments[1] == "one-cpu")
default:
    guard let form = Form(rawValue: CommandLine.arguments[1]) else { fail(usage) }
    warmUp(form)
    measureRuns(form, samples: samples)
    if form != .remap { measureSparse(form, samples: 5) }
}
