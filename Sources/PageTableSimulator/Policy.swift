// SPDX-License-Identifier: Apache-2.0

internal import PageTableModel
internal import ReclaimCore

/// Who frees PTE tables, and when.
public enum Policy: Equatable, Sendable {
    case nothing
    case ptReclaim
    case ptReclaimFree
    /// - Parameter seconds: from the start of one call to the next.
    case call(everySeconds: Double)
    case hintedCall(everySeconds: Double)
    /// - Parameters:
    ///   - delay: seconds from one piece of work to the next.
    ///   - size: bytes of address space that one looks at.
    case taskWork(delay: Double, size: UInt)
    case referenceCounted
    case hooks
    case madvise
    /// - Parameters:
    ///   - share: of one CPU, while it is at it.
    ///   - everySeconds: from the start of one round to the next, at least.
    case scan(share: Double, everySeconds: Double)
    case retainFalse

    /// What the policies leave to whoever compares them.
    public struct Knobs: Equatable, Sendable {
        /// Seconds from one `MADV_PT_RECLAIM` to the next.
        public var everySeconds = 3600.0
        /// Seconds from one piece of the task_work scanner to the next.
        public var taskWorkDelay = 1.0
        /// Bytes that one piece looks at.
        public var taskWorkSize: UInt = 1 << 30
        /// The share of one CPU that our scan may take.
        public var scanShare = 0.01

        public init() {}

        /// What is impossible about them, or nil.
        public var complaint: String? {
            if !(everySeconds > 0 && everySeconds.isFinite) {
                return "the seconds from one call to the next must be more than 0"
            }
            if !(taskWorkDelay > 0 && taskWorkDelay.isFinite) {
                return "the delay of task_work must be more than 0 seconds"
            }
            if taskWorkSize < PageGeometry.spanByteCount {
                return "task_work must look at 2 MiB or more"
            }
            if !(scanShare > 0 && scanShare <= 1) {
                return "the share of a CPU must be more than 0 and at most 1"
            }
            return nil
        }
    }

    /// Every policy, in the order of the comparison.
    public static func all(_ knobs: Knobs = Knobs()) -> [Policy] {
        [
            .nothing, .ptReclaim, .ptReclaimFree, .call(everySeconds: knobs.everySeconds),
            .hintedCall(everySeconds: knobs.everySeconds),
            .taskWork(delay: knobs.taskWorkDelay, size: knobs.taskWorkSize), .referenceCounted,
            .hooks, .madvise, .scan(share: knobs.scanShare, everySeconds: knobs.everySeconds),
            .retainFalse,
        ]
    }

    public static func named(_ name: String, _ knobs: Knobs = Knobs()) -> Policy? {
        all(knobs).first { $0.name == name }
    }

    public var name: String {
        switch self {
        case .nothing: "nothing"
        case .ptReclaim: "pt-reclaim"
        case .ptReclaimFree: "pt-reclaim-free"
        case .call: "pt-reclaim-call"
        case .hintedCall: "pt-reclaim-call-hinted"
        case .taskWork: "task-work"
        case .referenceCounted: "reference-counted"
        case .hooks: "hooks"
        case .madvise: "madvise"
        case .scan: "scan"
        case .retainFalse: "retain-false"
        }
    }

    public var meaning: String {
        switch self {
        case .nothing: "MADV_DONTNEED on a kernel without PT_RECLAIM"
        case .ptReclaim: "MADV_DONTNEED with PT_RECLAIM"
        case .ptReclaimFree: "MADV_FREE with PT_RECLAIM; pressure takes the pages at once"
        case .call(let seconds): "MADV_PT_RECLAIM over everything every \(seconds) s"
        case .hintedCall(let seconds): "MADV_PT_RECLAIM over what was purged every \(seconds) s"
        case .taskWork(let delay, let size):
            "the kernel looks at \(size >> 20) MiB every \(delay) s (task_work)"
        case .referenceCounted: "PTE tables count their entries, freed at 0"
        case .hooks: "our extent hooks: decommit and merge"
        case .madvise: "our madvise mode: a look at the spans of each purge"
        case .scan(let share, let seconds):
            "our scan mode, \(share * 100) % of a CPU, a round every \(seconds) s"
        case .retainFalse: "munmap instead of MADV_DONTNEED (retain:false)"
        }
    }

    /// The kernel below.
    var profile: KernelProfile {
        switch self {
        case .nothing, .retainFalse: .linux612
        default: .linux618
        }
    }

    /// Which tables a purge of the allocator frees by itself.
    var freeing: TableFreeing {
        switch self {
        case .ptReclaim, .hooks, .madvise, .scan: .wholeSpans
        case .referenceCounted: .whenEmpty
        case .nothing, .ptReclaimFree, .call, .hintedCall, .taskWork, .retainFalse: .never
        }
    }

    /// Whether purged memory must be mapped again before it is used.
    var unmaps: Bool { self == .retainFalse }
    var merges: Bool { self == .hooks }
}
