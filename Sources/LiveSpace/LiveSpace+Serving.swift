// SPDX-License-Identifier: Apache-2.0

internal import CLinuxMM

#if !SHIM_SINGLE_MODULE
    public import ReclaimCore
#endif

/// Which memory the service thread may free tables of by itself; see layout.h.
struct Servable {
    /// These marks are asked for,
    let mask: UInt32
    /// and must be these.
    let wanted: UInt32
    /// When a pass has to end: CLOCK_MONOTONIC, in nanoseconds.
    let deadline: UInt64
}

extension LiveSpace: ServedSpace {
    public func firstServable(in run: SpanRun) -> SpanRun? {
        find(in: run, alsoMarked: 0)
    }

    public func firstRemembered(in run: SpanRun) -> SpanRun? {
        find(in: run, alsoMarked: UInt32(PTRECLAIM_MARK_EMPTY.rawValue))
    }

    public func remember(_ run: SpanRun) {
        _ = ptreclaim_layout_mark(
            run.start, run.end, UInt32(PTRECLAIM_MARK_EMPTY.rawValue), 0)
    }

    public func forget(_ run: SpanRun) {
        _ = ptreclaim_layout_mark(
            run.start, run.end, 0, UInt32(PTRECLAIM_MARK_EMPTY.rawValue))
    }

    public var isTimeUp: Bool {
        guard let servable else { return false }
        return ptreclaim_monotonic_nanoseconds() > servable.deadline || ptreclaim_must_leave()
    }

    private func find(in run: SpanRun, alsoMarked mark: UInt32) -> SpanRun? {
        guard let servable, !run.isEmpty else { return nil }
        var first: UInt = 0
        var last: UInt = 0
        let found = unsafe ptreclaim_layout_find(
            run.start, run.end, servable.mask | mark, servable.wanted | mark, &first, &last)
        return found ? run.prefix(upTo: last).suffix(from: first) : nil
    }
}

extension LiveSpace {
    /// The part of `mapping` around `address` that is marked OFF, or is not.
    func partLeftAlone(_ mapping: Mapping, _ address: UInt) -> Mapping {
        guard mapping.kind != .hole else { return mapping }
        var isOff = false
        let end = unsafe ptreclaim_layout_off(address, mapping.range.end, &isOff)
        return Mapping(
            range: AddressRange(start: address, end: end),
            kind: isOff ? .switchedOff : mapping.kind)
    }
}

// MARK: - Freeing what can be claimed

extension LiveSpace {
    /// Frees the tables of the spans of `run` that the layout rule gives, each claimed meanwhile.
    func freeClaimed(_ run: SpanRun) -> KeptReason? {
        guard let servable, let service = unsafe service, let watch = unsafe service.pointee.watch
        else { return .unseenMapping }
        var refusal: KeptReason?
        var rest = run
        while !rest.isEmpty {
            // What the watchdog has opened once is not tried again.
            guard unsafe watch.pointee.opened_count == 0 else { return .fenceUnavailable }
            var first: UInt = 0
            var last: UInt = 0
            // Held from before the claim until after the release: wherever this thread stops, the
            // watchdog lets the others get on.
            unsafe ptreclaim_watch_hold(watch, rest.start, rest.end, service.pointee.userfaultfd)
            defer { _ = unsafe ptreclaim_watch_let_go(watch) }
            guard
                unsafe ptreclaim_layout_claim(
                    rest.start, rest.end, servable.mask, servable.wanted, &first, &last)
            else { return .unseenMapping }
            if first != rest.start { refusal = .unseenMapping }
            unsafe ptreclaim_watch_narrow(watch, first, last)
            refusal = freeHeld(rest.prefix(upTo: last).suffix(from: first)) ?? refusal
            ptreclaim_layout_release(first, last)
            rest = rest.suffix(from: last)
        }
        return refusal
    }

    /// What is mapped where is known only now: nobody can change it any more.
    private func freeHeld(_ run: SpanRun) -> KeptReason? {
        var refusal: KeptReason?
        var rest = run
        while !rest.isEmpty {
            guard let mapping = try? mapping(at: rest.start) else { return .backendFailed }
            let end = Span(containing: min(mapping.range.end, rest.end)).start
            guard end > rest.start else {
                refusal = .crossesVMA
                rest = rest.suffix(from: rest.start + PageGeometry.spanByteCount)
                continue
            }
            let part = rest.prefix(upTo: end)
            switch EligibilityRule.verdict(for: mapping.kind, access: .shared) {
            case .keep(let reason): refusal = reason
            case .freeFenced: refusal = freeBehindFence(part, mapping) ?? refusal
            case .free: refusal = freeHeldUnfenced(part) ?? refusal
            }
            rest = rest.suffix(from: end)
        }
        return refusal
    }

    private func freeHeldUnfenced(_ run: SpanRun) -> KeptReason? {
        guard backend == .dontneed, let service = unsafe service else { return .backendFailed }
        var fence = unsafe fence(of: service)
        let result = unsafe ptreclaim_watched_free(&fence, run.start, run.end)
        return switch Int32(-result) {
        case 0: nil
        case ECANCELED: .fenceUnavailable
        case EINVAL: .specialVMA
        default: .backendFailed
        }
    }
}
