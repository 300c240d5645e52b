// SPDX-License-Identifier: Apache-2.0

internal import CPlayer

/// Settings of the kernel under which what it does depends on the operations alone. They are put
/// back when this process ends, however it ends: another process sees to that.
@safe public final class KernelSettings {
    public enum Failure: Error, Equatable, CustomStringConvertible {
        /// Somebody else plays here, and has changed the settings for it.
        case isLocked(path: String)
        case cannotLock(path: String, errno: Int32)
        case cannotKeep(errno: Int32)

        public var description: String {
            switch self {
            case .isLocked(let path): "another run holds \(path)"
            case .cannotLock(let path, let errno): "\(path): errno \(errno)"
            case .cannotKeep(let errno): "fork: errno \(errno)"
            }
        }
    }

    private static let huge = "/sys/kernel/mm/transparent_hugepage/"
    private static let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
    /// More pages of the pool than a sequence ever uses at once.
    private static let neededPoolPages = 8
    /// khugepaged would come by in the middle of a sequence: milliseconds, 49 days.
    private static let never = "4294967295"

    private let keeper: Int32
    private let lock: Int32
    /// Whether the pool has huge pages for us.
    public private(set) var hasPool = false

    /// - Parameters:
    ///   - patience: how long to wait for another run to end.
    ///   - wantsPool: whether huge pages of the pool will be used; if not it is left as it is.
    public init(patience: Duration, wantsPool: Bool) throws(Failure) {
        lock = try Self.takeLock(patience: patience)
        var wanted = [
            (Self.huge + "khugepaged/scan_sleep_millisecs", Self.never),
            (Self.huge + "khugepaged/alloc_sleep_millisecs", Self.never),
            (Self.huge + "shmem_enabled", "deny"), (Self.huge + "enabled", "madvise"),
        ]
        // Folios of other sizes would be mapped by one fault.
        for size in [8, 16, 32, 64, 128, 256, 512, 1024] {
            wanted.append((Self.huge + "hugepages-\(size)kB/enabled", "never"))
            wanted.append((Self.huge + "hugepages-\(size)kB/shmem_enabled", "never"))
        }
        let free = Self.number(Self.pool + "free_hugepages") ?? 0
        if wantsPool, free < Self.neededPoolPages,
            let count = Self.number(Self.pool + "nr_hugepages")
        {
            wanted.append(
                (Self.pool + "nr_hugepages", "\(count + Self.neededPoolPages - free)"))
        }
        let changes = wanted.compactMap { path, value in
            Self.current(path).flatMap { $0 == value ? nil : (path: path, old: $0, new: value) }
        }
        keeper = Self.startKeeper(changes.map { ($0.path, $0.old) }, lock: lock)
        guard keeper > 0 else {
            _ = ptreclaim_close(lock)
            throw .cannotKeep(errno: -keeper)
        }
        for change in changes { try? Descriptor.write(change.new, to: change.path) }
        hasPool =
            wantsPool && Self.number(Self.pool + "free_hugepages") ?? 0 >= Self.neededPoolPages
        // A new pause wakes khugepaged up: it makes one round, and then sleeps that long.
        ptreclaim_sleep_milliseconds(300)
    }

    /// Puts everything back.
    public func restore() {
        _ = ptreclaim_close(lock)
        ptreclaim_keeper_stop(keeper)
    }

    private static func takeLock(patience: Duration) throws(Failure) -> Int32 {
        let deadline = ContinuousClock.now + patience
        var path = "/run/ptreclaim-conform.lock"
        while true {
            let lock = unsafe ptreclaim_take_lock(path)
            if lock >= 0 { return lock }
            switch -lock {
            case EWOULDBLOCK:
                guard ContinuousClock.now < deadline else { throw .isLocked(path: path) }
                ptreclaim_sleep_milliseconds(100)
            case ENOENT where path.hasPrefix("/run/"): path = "/tmp/ptreclaim-conform.lock"
            default: throw .cannotLock(path: path, errno: -lock)
            }
        }
    }

    private static func startKeeper(_ values: [(String, String)], lock: Int32) -> Int32 {
        // Sound: the texts live until the keeper, a copy of this process, has its own of them; it
        // needs them until its end, and this process must not free what is its own copy.
        let paths = unsafe values.map { unsafe UnsafePointer(copy($0.0)) }
        let texts = unsafe values.map { unsafe UnsafePointer(copy($0.1)) }
        defer {
            for index in values.indices {
                unsafe paths[index].deallocate()
                unsafe texts[index].deallocate()
            }
        }
        return unsafe paths.withUnsafeBufferPointer { paths in
            unsafe texts.withUnsafeBufferPointer { texts in
                // Without changes there is nothing to point at.
                guard let path = paths.baseAddress, let text = texts.baseAddress else {
                    return keepNothing(lock)
                }
                return unsafe ptreclaim_keeper_start(path, text, values.count, lock)
            }
        }
    }

    private static func keepNothing(_ lock: Int32) -> Int32 {
        var none = unsafe UnsafePointer(copy(""))
        defer { unsafe none.deallocate() }
        return unsafe withUnsafePointer(to: &none) {
            unsafe ptreclaim_keeper_start($0, $0, 0, lock)
        }
    }

    private static func copy(_ text: String) -> UnsafeMutablePointer<CChar> {
        let bytes = text.utf8CString
        let pointer = UnsafeMutablePointer<CChar>.allocate(capacity: bytes.count)
        for (index, byte) in bytes.enumerated() { unsafe pointer[index] = byte }
        return unsafe pointer
    }

    /// What is set: the word in brackets, where there are some.
    private static func current(_ path: String) -> String? {
        guard let text = try? Descriptor.text(of: path) else { return nil }
        if let open = text.firstIndex(of: "["), let close = text.firstIndex(of: "]") {
            return String(text[text.index(after: open)..<close])
        }
        return text.split { $0 == "\n" || $0 == " " }.first.map(String.init)
    }

    private static func number(_ path: String) -> Int? { current(path).flatMap { Int($0) } }

    /// A line below the heading of /proc/swaps.
    public static var hasSwap: Bool {
        guard let text = try? Descriptor.text(of: "/proc/swaps") else { return false }
        return text.split(separator: "\n").count > 1
    }
}
