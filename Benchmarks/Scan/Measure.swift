// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM
internal import Glibc

// What a pass of the service thread costs beside the system calls that it makes, in one process, on
// that thread, in turns. The pass is the preload library's own: its sources are links to it, and are
// compiled as one module, as they are there. Prints series of nanoseconds for the harness, a line
// each: name, parameter, series, values.

/// Also on the service thread, which has descriptors of its own, and none that says anything.
func fail(_ message: String) -> Never {
    fatalError("scan-cost: \(message)")
}

extension Field {
    /// Memory that the layout rule knows of, as if the library had seen it mapped.
    static func seen(byteCount: Int) -> Field {
        let field = Field(byteCount: byteCount)
        ptreclaim_layout_add(field.start, field.start + UInt(byteCount))
        return field
    }

    /// Gives a span a table with one page, somewhere in it.
    func populate(_ span: Int) {
        let page = address(of: span) + UInt(span * 97 % 512 * 4096)
        // Sound: mapped above, and this program's alone.
        unsafe UnsafeMutablePointer<UInt8>(bitPattern: page)?.pointee = 1
    }

    /// Gives a span an empty table.
    func makeEmpty(_ span: Int) {
        populate(span)
        _ = ptreclaim_madvise(address(of: span), Self.spanByteCount / 2, PTRECLAIM_MADV_DONTNEED)
        _ = ptreclaim_madvise(
            address(of: span) + UInt(Self.spanByteCount / 2), Self.spanByteCount / 2,
            PTRECLAIM_MADV_DONTNEED)
    }
}

/// Runs of empty tables of one length, with a populated one behind each.
struct Pattern {
    let field: Field
    let runLength: Int
    let runCount: Int

    var end: UInt { field.address(of: runCount * (runLength + 1)) }
    var emptyCount: Int { runLength * runCount }

    func prepare() {
        var span = 0
        while span < runCount * (runLength + 1) {
            if span % (runLength + 1) == runLength {
                field.populate(span)
            } else {
                field.makeEmpty(span)
            }
            span += 1
        }
    }
}

/// Every system call of a pass, in its order, without the pass.
@safe struct BarePass {
    let service: UnsafeMutablePointer<ptreclaim_service>
    let frees: Bool
    private let pagemap: Int32

    init(_ service: UnsafeMutablePointer<ptreclaim_service>, frees: Bool) {
        unsafe self.service = service
        self.frees = frees
        pagemap = unsafe service.pointee.pagemap
    }

    private func tables(_ start: UInt, _ end: UInt) -> Range<UInt>? {
        var first: UInt = 0
        var last: UInt = 0
        let found = unsafe ptreclaim_first_tables(pagemap, start, end, 512, &first, &last)
        return found > 0 ? first..<last : nil
    }

    private func firstPopulatedSpan(_ start: UInt, _ end: UInt) -> UInt? {
        var page: UInt = 0
        let found = unsafe ptreclaim_first_populated(pagemap, true, start, end, &page)
        return found > 0 ? page & ~(PageGeometry.spanByteCount - 1) : nil
    }

    func run(_ start: UInt, _ end: UInt) {
        _ = ptreclaim_probe_pagemap_scan(pagemap)
        var rest = start
        while let tables = tables(rest, end) {
            var from = tables.lowerBound
            while from < tables.upperBound {
                let populated = firstPopulatedSpan(from, tables.upperBound)
                let stop = populated ?? tables.upperBound
                if frees, from < stop { free(from, stop) }
                from = populated.map { $0 + PageGeometry.spanByteCount } ?? stop
            }
            rest = tables.upperBound
        }
    }

    /// Look, then by 64: the mapping, the fence, the free; look again.
    private func free(_ start: UInt, _ end: UInt) {
        var vma = ptreclaim_vma()
        let maps = unsafe service.pointee.maps
        _ = unsafe ptreclaim_find_vma(maps, start, &vma)
        _ = tables(start, end)
        _ = firstPopulatedSpan(start, end)
        var from = start
        while from < end {
            let stop = min(end, from + UInt(64 * Field.spanByteCount))
            _ = unsafe ptreclaim_find_vma(maps, from, &vma)
            freeBehindFence(from, stop)
            from = stop
        }
        _ = tables(start, end)
    }

    private func freeBehindFence(_ start: UInt, _ end: UInt) {
        let userfaultfd = unsafe service.pointee.userfaultfd
        let signals = ptreclaim_set_signal_mask(.max)
        var registration = ptreclaim_uffd_register()
        registration.range = ptreclaim_uffd_range(start: UInt64(start), len: UInt64(end - start))
        registration.mode = PTRECLAIM_UFFD_REGISTER_MISSING
        var range = registration.range
        _ = unsafe ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_REGISTER, &registration)
        _ = firstPopulatedSpan(start, end)
        _ = ptreclaim_madvise(start, Int(end - start), PTRECLAIM_MADV_DONTNEED_LOCKED)
        var message: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
        _ = unsafe withUnsafeMutablePointer(to: &message) {
            ptreclaim_syscall(
                Int(SYS_read), Int(userfaultfd), Int(bitPattern: $0), 32, 0, 0, 0)
        }
        _ = unsafe ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_UNREGISTER, &range)
        _ = unsafe ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_WAKE, &range)
        _ = ptreclaim_set_signal_mask(signals)
    }
}

// MARK: - On the service thread

/// Makes a pass as the preload library does. Returns what came of it and how long it took.
func pass(
    _ service: UnsafeMutablePointer<ptreclaim_service>, _ start: UInt, _ end: UInt, frees: Bool
) -> (done: ptreclaim_pass, nanoseconds: UInt64) {
    var pass = ptreclaim_pass()
    pass.start = start
    pass.end = end
    pass.mark_mask = UInt32(PTRECLAIM_MARK_OFF.rawValue)
    pass.most_tables = .max
    pass.longest_fenced_run = 64
    pass.frees = frees
    pass.is_immediate = true
    let before = ptreclaim_monotonic_nanoseconds()
    pass.deadline_ns = before + 60_000_000_000
    let error = unsafe withUnsafeMutablePointer(to: &pass) { unsafe coreServe(service, $0) }
    let after = ptreclaim_monotonic_nanoseconds()
    guard error == 0, pass.resume == 0 else { fail("a pass: errno \(error)") }
    return (pass, after - before)
}

func bare(
    _ service: UnsafeMutablePointer<ptreclaim_service>, _ start: UInt, _ end: UInt, frees: Bool
) -> UInt64 {
    let before = ptreclaim_monotonic_nanoseconds()
    unsafe BarePass(service, frees: frees).run(start, end)
    return ptreclaim_monotonic_nanoseconds() - before
}

/// Looks at tables that stay: full ones, empty ones, and both in turn.
func measureLooks(_ service: UnsafeMutablePointer<ptreclaim_service>, samples: Int) -> [Series] {
    var all: [Series] = []
    let field = Field.seen(byteCount: 512 * Field.spanByteCount)
    for kind in ["populated", "empty", "in turn"] {
        for span in 0..<field.spanCount {
            if kind == "populated" || kind == "in turn" && span % 2 == 0 {
                field.populate(span)
            } else {
                field.makeEmpty(span)
            }
        }
        var call = Series(name: "look", parameter: "512 \(kind)", series: "call")
        var without = Series(name: "look", parameter: "512 \(kind)", series: "bare")
        func measurePass() {
            let result = unsafe pass(service, field.start, field.end, frees: false)
            guard result.done.tables_looked_at == 512 else {
                fail("looked at \(result.done.tables_looked_at) tables of 512")
            }
            call.nanoseconds.append(result.nanoseconds)
        }
        for round in 0..<samples {
            if round % 2 == 1 { measurePass() }
            without.nanoseconds.append(unsafe bare(service, field.start, field.end, frees: false))
            if round % 2 == 0 { measurePass() }
        }
        all += [call, without]
    }
    return all
}

func measureFrees(_ service: UnsafeMutablePointer<ptreclaim_service>, samples: Int) -> [Series] {
    var all: [Series] = []
    let field = Field.seen(byteCount: 520 * Field.spanByteCount)
    for (runLength, runCount) in [(1, 64), (8, 32), (64, 8), (512, 1)] {
        let pattern = Pattern(field: field, runLength: runLength, runCount: runCount)
        let parameter = "\(runCount) runs of \(runLength)"
        var call = Series(name: "free", parameter: parameter, series: "call")
        var without = Series(name: "free", parameter: parameter, series: "bare")
        func measurePass() {
            pattern.prepare()
            let result = unsafe pass(service, field.start, pattern.end, frees: true)
            guard result.done.tables_freed == pattern.emptyCount else {
                fail("freed \(result.done.tables_freed) of \(pattern.emptyCount) tables")
            }
            call.nanoseconds.append(result.nanoseconds)
        }
        for round in 0..<max(samples / 2, 10) {
            if round % 2 == 1 { measurePass() }
            pattern.prepare()
            without.nanoseconds.append(unsafe bare(service, field.start, pattern.end, frees: true))
            if round % 2 == 0 { measurePass() }
        }
        all += [call, without]
        _ = ptreclaim_madvise(
            field.start, field.spanCount * Field.spanByteCount, PTRECLAIM_MADV_DONTNEED)
    }
    return all
}

/// 10 TB reserved, 1 GB of it used, in one piece and in 64 far apart: a pass over all there is.
func measureSparse(_ service: UnsafeMutablePointer<ptreclaim_service>, samples: Int) -> [Series] {
    var all: [Series] = []
    let field = Field.seen(byteCount: 10 << 40)
    let tables = (1 << 30) / Field.spanByteCount
    for pieces in [1, 64] {
        let perPiece = tables / pieces
        for span in 0..<tables {
            field.populate(span / perPiece * (field.spanCount / pieces) + span % perPiece)
        }
        let parameter = pieces == 1 ? "one piece" : "\(pieces) pieces"
        var call = Series(name: "sparse", parameter: parameter, series: "pass")
        for _ in 0..<samples {
            let result = unsafe pass(service, 0, PageGeometry.userSpaceEnd, frees: true)
            guard result.done.tables_looked_at >= UInt64(tables) else {
                fail("looked at \(result.done.tables_looked_at) tables of \(tables)")
            }
            call.nanoseconds.append(result.nanoseconds)
        }
        all.append(call)
        for piece in 0..<pieces {
            _ = ptreclaim_madvise(
                field.address(of: piece * (field.spanCount / pieces)),
                perPiece * Field.spanByteCount, PTRECLAIM_MADV_DONTNEED)
        }
    }
    return all
}

/// What crosses to the service thread and back: it can print nothing.
struct Measurement {
    let samples: Int
    /// Nil: no userfaultfd is to be had.
    var series: [Series]?

    mutating func run(_ service: UnsafeMutablePointer<ptreclaim_service>) {
        // Never deallocated: the watchdog outlives the pass.
        let watch = UnsafeMutablePointer<ptreclaim_watch>.allocate(capacity: 1)
        unsafe watch.initialize(to: ptreclaim_watch())
        unsafe service.pointee.watch = watch
        unsafe service.pointee.is_probed = true
        unsafe service.pointee.must_not_wait = true
        guard unsafe ptreclaim_watch_start(watch) == 0 else { fail("no watchdog") }
        guard unsafe ptreclaim_service_userfaultfd(service) >= 0 else { return }
        unsafe ptreclaim_watch_wake(watch)
        series =
            unsafe measureLooks(service, samples: samples)
            + measureFrees(service, samples: samples)
            + measureSparse(service, samples: max(samples / 4, 5))
        unsafe ptreclaim_watch_rest(watch)
    }

    /// Runs on the service thread.
    mutating func run() {
        let error = unsafe withUnsafeMutablePointer(to: &self) {
            unsafe ptreclaim_service_run(
                { context, service in
                    // Sound: the caller waits, and so keeps the value alive and to itself.
                    unsafe context.assumingMemoryBound(to: Measurement.self).pointee.run(service)
                }, $0)
        }
        guard error == 0 else { fail("no service thread: errno \(-error)") }
    }
}
