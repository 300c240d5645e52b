// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

#if !SHIM_SINGLE_MODULE
    public import ReclaimCore
#endif

/// The call, the same for Swift and for C: which thread does it, and with which descriptors.
public enum ReclaimCall {
    /// Frees every PTE table from `start` up to `end` whose 512 entries are all none.
    ///
    /// - Parameters:
    ///   - start: page-aligned.
    ///   - end: rounded up to pages, as madvise does with a length.
    ///   - maximumTables: stop after about as many existing tables.
    /// - Throws: `.invalidRange` with EINVAL, `.lookFailed`, `.unsupported`.
    public static func run(
        from start: UInt, upTo end: UInt, access: ReclaimAccess, maximumTables: Int = .max
    ) throws(ReclaimError) -> ReclaimReport {
        let range = try wholePages(from: start, upTo: end)
        let startTime = ptreclaim_monotonic_nanoseconds()
        guard !range.isEmpty else { return ReclaimReport() }
        var job = Job(
            range: range, access: access, maximumTables: maximumTables,
            stackAddress: ptreclaim_stack_address())
        switch access {
        case .owned: job.runHere()
        case .shared: job.runOnServiceThread()
        }
        switch job.outcome {
        case .failure(let error): throw error
        case .success(var report):
            report.durationNanoseconds = ptreclaim_monotonic_nanoseconds() - startTime
            return report
        }
    }

    /// The range as a call takes it: the end is rounded up to pages.
    /// - Throws: `.invalidRange` with EINVAL.
    public static func wholePages(
        from start: UInt, upTo end: UInt
    ) throws(ReclaimError) -> AddressRange {
        let mask = PageGeometry.pageByteCount - 1
        let (sum, overflow) = end.addingReportingOverflow(mask)
        guard start & mask == 0, start <= end, !overflow, sum & ~mask <= PageGeometry.userSpaceEnd
        else {
            throw ReclaimError(
                .invalidRange, errno: EINVAL,
                range: AddressRange(start: start, end: max(start, end)))
        }
        return AddressRange(start: start, end: sum & ~mask)
    }
}

/// What crosses to the service thread and back.
private struct Job {
    let range: AddressRange
    let access: ReclaimAccess
    let maximumTables: Int
    let stackAddress: UInt
    var outcome: Result<ReclaimReport, ReclaimError> = .success(ReclaimReport())

    mutating func runHere() {
        do throws(ReclaimError) {
            var space = LiveSpace(backend: try backend(), stackAddress: stackAddress)
            try space.openDescriptors(for: range)
            walk(space)
            space.closeDescriptors()
        } catch {
            outcome = .failure(error)
        }
    }

    /// Asked by the thread that does the work: on the service thread nobody closes the probe's
    /// descriptors, which would make it see a kernel that it is not, or close what has since been
    /// opened by the same number.
    private func backend() throws(ReclaimError) -> Backend {
        guard let backend = LiveSpace.probeBackend() else { throw whyNothingFrees() }
        return backend
    }

    /// Nothing frees tables here, or nothing is at hand to find out with.
    private func whyNothingFrees() -> ReclaimError {
        var space = LiveSpace(backend: .dontneed)
        do throws(ReclaimError) {
            try space.openDescriptors(for: range)
            space.closeDescriptors()
        } catch {
            return error
        }
        return LiveSpace.hasRoomToProbe()
            ? ReclaimError(.unsupported, errno: EOPNOTSUPP, range: range)
            : ReclaimError(.lookFailed, errno: ENOMEM, range: range)
    }

    mutating func runOnServiceThread() {
        while true {
            let error = unsafe withUnsafeMutablePointer(to: &self) {
                unsafe ptreclaim_service_run(
                    { context, service in
                        // Sound: the caller waits, and so keeps the job alive and to ourselves.
                        unsafe context.assumingMemoryBound(to: Job.self).pointee.run(with: service)
                    }, $0)
            }
            switch -error {
            case 0: return
            // A child, forked out of the wait: it starts again, with a service thread of its own.
            case ECHILD: continue
            // Without the thread there is no fence, and what needs none is still done.
            default: return runHere()
            }
        }
    }

    private mutating func run(with service: UnsafeMutablePointer<ptreclaim_service>) {
        do throws(ReclaimError) {
            walk(
                try unsafe LiveSpace(
                    backend: try backend(), stackAddress: stackAddress, service: service,
                    range: range))
        } catch {
            outcome = .failure(error)
        }
    }

    private mutating func walk(_ space: LiveSpace) {
        do throws(ReclaimError) {
            var report = try ReclaimWalk(space: space).reclaim(
                range, access: access, maximumTables: maximumTables)
            if report.tablesFreed > 0 { report.backend = space.backend }
            outcome = .success(report)
        } catch {
            outcome = .failure(error)
        }
    }
}
