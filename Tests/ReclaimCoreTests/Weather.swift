// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import ReclaimCore
import Synchronization
import TestSupport
import Testing

/// One of the two names of the type, for the sake of macros.
typealias Access = ReclaimCore.ReclaimAccess

/// What this process may do and this kernel can do, found by trying.
enum Weather {
    /// A userfaultfd that stops the kernel's own accesses is to be had.
    static let hasFence: Bool = {
        guard !ptreclaim_has_seccomp_filter() else { return false }
        let descriptor = ptreclaim_open_userfaultfd()
        if descriptor >= 0 { _ = ptreclaim_close(descriptor) }
        return descriptor >= 0
    }()
    /// A whole `MADV_DONTNEED` frees a table, and a look tells an empty table from a missing one.
    static let freesAndShows =
        KernelAbilities.backends.contains(.dontneed) && KernelAbilities.showsTables
    static let needsFreesAndShows: Comment = "needs PT_RECLAIM, Linux 6.14"

    static let hasFenceDevice = isOpen(unsafe ptreclaim_open("/dev/userfaultfd", O_RDWR))

    /// Leaves the calling thread, and threads that it starts, with `capabilities` of the first 32.
    static func dropCapabilities(but capabilities: UInt32) {
        // struct __user_cap_header_struct, version 3; two of effective, permitted, inheritable.
        var header: [UInt32] = [0x2008_0522, 0]
        var data: [UInt32] = [capabilities, capabilities, 0, 0, 0, 0]
        let result = unsafe header.withUnsafeMutableBytes { header in
            unsafe data.withUnsafeMutableBytes { data in
                ptreclaim_syscall(
                    Int(SYS_capset), Int(bitPattern: header.baseAddress),
                    Int(bitPattern: data.baseAddress), 0, 0, 0, 0)
            }
        }
        precondition(result == 0, "capabilities can always be given up")
    }

    static let needsFence: Comment = "needs a userfaultfd: CAP_SYS_PTRACE, no seccomp filter"

    static let bothAccesses: [Access] = [.owned, .shared]
    /// Both kinds of access, but for what a machine without a fence cannot show.
    static let accesses: [Access] = hasFence ? [.owned, .shared] : [.owned]

    /// A mount namespace of a thread's own, in which procfs can be covered.
    static let canHideProcfs: Bool = onThread { hideProcfs() } == 0

    /// Seccomp filters can be installed and answer with an errno.
    static let canFilter: Bool =
        onThread {
            SeccompFilter.deny(.anyCall(SYS_kexec_load), errno: EPERM, allThreads: false)
        } == 0

    static let hasHugePages: Bool = {
        guard let pages = HugePages(3) else { return false }
        pages.giveBack()
        return true
    }()
    static let hasRing: Bool = isOpen(makeRing())
    static let hasPerf: Bool = {
        let event = makePerfEvent()
        let address = ptreclaim_mmap(
            0, 4096 + 4 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, event, 0)
        if address > 0 { _ = ptreclaim_munmap(UInt(address), 4096 + 4 << 20) }
        return isOpen(event) && address > 0
    }()

    private static func isOpen(_ descriptor: Int32) -> Bool {
        if descriptor >= 0 { _ = ptreclaim_close(descriptor) }
        return descriptor >= 0
    }

    /// An io_uring whose submission entries are 4 MiB.
    static func makeRing() -> Int32 {
        var parameters = [UInt32](repeating: 0, count: 30)
        parameters[2] = 1 << 10  // flags: IORING_SETUP_SQE128
        return unsafe parameters.withUnsafeMutableBytes {
            Int32(
                ptreclaim_syscall(
                    Int(SYS_io_uring_setup), 32768, Int(bitPattern: $0.baseAddress), 0, 0, 0, 0))
        }
    }

    /// A memfd of huge pages.
    static func makeHugeFile(byteCount: Int) -> Int32 {
        let name = Array("ptreclaim".utf8CString)
        let file = unsafe name.withUnsafeBufferPointer {
            let hugetlb = 4
            return Int32(
                ptreclaim_syscall(
                    Int(SYS_memfd_create), Int(bitPattern: $0.baseAddress), hugetlb, 0, 0, 0, 0))
        }
        return file < 0 || ftruncate(file, byteCount) == 0 ? file : -errno
    }

    /// A software event that never happens.
    static func makePerfEvent() -> Int32 {
        var attributes = [UInt32](repeating: 0, count: 34)
        attributes[0] = 1  // PERF_TYPE_SOFTWARE
        attributes[1] = 136  // size
        attributes[2] = 9  // PERF_COUNT_SW_DUMMY
        return unsafe attributes.withUnsafeMutableBytes {
            Int32(
                ptreclaim_syscall(
                    Int(SYS_perf_event_open), Int(bitPattern: $0.baseAddress), 0, -1, -1, 0, 0))
        }
    }

    /// Of no bytes: it does nothing where it is known.
    static let canSeal = ptreclaim_syscall(462, 0, 0, 0, 0, 0, 0) == 0

    static let droppable: Int32 = 0x08 | MAP_ANONYMOUS | MAP_NORESERVE
    static let canDrop: Bool = {
        let address = ptreclaim_mmap(0, 4096, PROT_READ, droppable, -1, 0)
        if address > 0 { _ = ptreclaim_munmap(UInt(address), 4096) }
        return address > 0
    }()

    static let hasSecretMemory = isOpen(
        Int32(ptreclaim_syscall(Int(SYS_memfd_secret), 0, 0, 0, 0, 0, 0)))

    static let hasTHP = !contents(ofProcFile: "/sys/kernel/mm/transparent_hugepage/enabled")
        .contains("[never]")

    static let hasVDSO = mapping(named: "[vdso]") != nil

    /// Lines of `/proc/self/maps`.
    static func mapping(named name: String) -> String? { mappings.first { $0.hasSuffix(name) } }
    static func mapping(at address: UInt) -> String? {
        mappings.first { line in
            let bounds = line.prefix { $0 != " " }.split(separator: "-")
                .compactMap { UInt($0, radix: 16) }
            return bounds.count == 2 && bounds[0] <= address && address < bounds[1]
        }
    }
    private static var mappings: [String] {
        contents(ofProcFile: "/proc/self/maps").split(separator: "\n").map(String.init)
    }

    /// Foundation reads no more than a page of such a file.
    static func contents(ofProcFile path: String) -> String {
        let file = unsafe ptreclaim_open(path, O_RDONLY)
        defer { _ = ptreclaim_close(file) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = unsafe buffer.withUnsafeMutableBytes { part in
                guard let start = part.baseAddress else { return 0 }
                return unsafe ptreclaim_pread(file, start, part.count, bytes.count)
            }
            guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
            bytes += buffer.prefix(count)
        }
    }

    /// Covers procfs for the calling thread and for threads that it starts. Returns -errno or 0.
    static func hideProcfs() -> Int {
        let newNamespace = 0x0002_0000
        let makePrivate = (1 << 18) | (1 << 14)  // MS_PRIVATE | MS_REC
        let unshared = ptreclaim_syscall(Int(SYS_unshare), newNamespace, 0, 0, 0, 0, 0)
        guard unshared == 0 else { return unshared }
        guard unsafe mount("none", "/", nil, UInt(makePrivate), nil) == 0,
            unsafe mount("none", "/proc", "tmpfs", 0, nil) == 0
        else { return -Int(errno) }
        return 0
    }
}

/// Pages of 2 MiB, taken from the machine's memory while a test needs them, by one test at a time.
struct HugePages {
    private static let path = "/proc/sys/vm/nr_hugepages"
    private let before: Int
    private let file: Int32

    /// Nil where they are not to be had.
    init?(_ wanted: Int) {
        file = unsafe ptreclaim_open(Self.path, O_RDWR)
        guard file >= 0, flock(file, LOCK_EX) == 0 else { return nil }
        before = Self.count
        set(before + wanted)
        if Self.count < before + wanted {
            giveBack()
            return nil
        }
    }

    func giveBack() {
        set(before)
        _ = ptreclaim_close(file)
    }

    private static var count: Int { Int(Weather.contents(ofProcFile: path).dropLast()) ?? 0 }

    private func set(_ count: Int) {
        let text = Array("\(count)\n".utf8)
        unsafe text.withUnsafeBytes { bytes in
            // A number is taken at the beginning of the file only.
            _ = ptreclaim_syscall(
                Int(SYS_pwrite64), Int(file), Int(bitPattern: bytes.baseAddress), bytes.count, 0,
                0, 0)
        }
    }
}

/// Runs `body` on a new thread, waits for its end and returns what it returned.
/// - Parameters:
///   - stackByteCount: 0 for what is usual.
///   - stack: the lowest address of memory to use as the stack, or nil for a new one.
@discardableResult
func onThread(
    stackByteCount: Int = 0, stack: UInt? = nil, _ body: @escaping () -> Int
) -> Int {
    let box = ThreadBody(body)
    let attributes = UnsafeMutablePointer<pthread_attr_t>.allocate(capacity: 1)
    defer { unsafe attributes.deallocate() }
    unsafe pthread_attr_init(attributes)
    if let stack, let lowest = unsafe UnsafeMutableRawPointer(bitPattern: stack) {
        unsafe pthread_attr_setstack(attributes, lowest, stackByteCount)
    } else if stackByteCount > 0 {
        unsafe pthread_attr_setstacksize(attributes, stackByteCount)
    }
    var thread: pthread_t = 0
    // Sound: joined below, so the box outlives the thread.
    let failed = unsafe pthread_create(
        &thread, attributes,
        { context in
            guard let context = unsafe context else { return nil }
            let box = unsafe Unmanaged<ThreadBody>.fromOpaque(context).takeUnretainedValue()
            box.result = box.run()
            return nil
        }, Unmanaged.passUnretained(box).toOpaque())
    precondition(failed == 0, "a test needs a thread")
    pthread_join(thread, nil)
    return box.result
}

/// The main thread of a test process: it sleeps in dispatch for ever, and glibc takes it for one
/// that has ended. A signal wakes it.
enum MainThread {
    // Sound: set before the signal is sent, and read by its handler alone.
    nonisolated(unsafe) private static var work: () -> Void = {}
    private static let isDone = Atomic<Bool>(false)

    /// Runs `work` on the main thread and waits for its end; false where that takes too long.
    static func run(_ work: @escaping () -> Void) -> Bool {
        unsafe Self.work = work
        isDone.store(false, ordering: .sequentiallyConsistent)
        signal(SIGUSR2) { _ in
            unsafe MainThread.work()
            MainThread.isDone.store(true, ordering: .sequentiallyConsistent)
        }
        let main = Int(ptreclaim_getpid())
        ptreclaim_syscall(Int(SYS_tgkill), main, main, Int(SIGUSR2), 0, 0, 0)
        for _ in 0..<2000 where !isDone.load(ordering: .sequentiallyConsistent) { usleep(10_000) }
        return isDone.load(ordering: .sequentiallyConsistent)
    }
}

private final class ThreadBody {
    let run: () -> Int
    var result = 0
    init(_ run: @escaping () -> Int) { self.run = run }
}

/// A seccomp filter that answers one system call, and lets the others pass.
enum SeccompFilter {
    enum Matched {
        case anyCall(Int32)
        /// A call with this second argument: an ioctl.
        case secondArgument(Int32, UInt32)
    }

    static func deny(_ matched: [Matched], errno: Int32, allThreads: Bool = true) -> Int {
        install(matched, 0x0005_0000 | UInt32(errno), allThreads)
    }
    static func deny(_ matched: Matched, errno: Int32, allThreads: Bool = true) -> Int {
        deny([matched], errno: errno, allThreads: allThreads)
    }
    static func kill(_ matched: Matched) -> Int { install([matched], 0x8000_0000, true) }

    private static func install(_ matched: [Matched], _ answer: UInt32, _ allThreads: Bool) -> Int {
        // struct sock_filter: code, jt, jf, k in eight bytes.
        func word(_ code: UInt64, _ k: UInt32, elseSkip: UInt64 = 0) -> UInt64 {
            code | elseSkip << 24 | UInt64(k) << 32
        }
        let load: UInt64 = 0x20
        let jumpIfEqual: UInt64 = 0x15
        let answerWith: UInt64 = 0x06
        let numberAt: UInt32 = 0
        let secondArgumentAt: UInt32 = 24
        var program: [UInt64] = []
        for one in matched {
            switch one {
            case .anyCall(let number):
                program += [
                    word(load, numberAt), word(jumpIfEqual, UInt32(number), elseSkip: 1),
                    word(answerWith, answer),
                ]
            case .secondArgument(let number, let value):
                program += [
                    word(load, numberAt), word(jumpIfEqual, UInt32(number), elseSkip: 3),
                    word(load, secondArgumentAt), word(jumpIfEqual, value, elseSkip: 1),
                    word(answerWith, answer),
                ]
            }
        }
        program.append(word(answerWith, 0x7fff_0000))
        let setNoNewPrivileges = 38
        let result = ptreclaim_syscall(Int(SYS_prctl), setNoNewPrivileges, 1, 0, 0, 0, 0)
        guard result == 0 else { return result }
        return unsafe program.withUnsafeBufferPointer { instructions in
            // struct sock_fprog: a count in 16 bits, then a pointer.
            let description = [
                UInt(instructions.count), UInt(bitPattern: instructions.baseAddress),
            ]
            return unsafe description.withUnsafeBufferPointer {
                // SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC
                ptreclaim_syscall(
                    Int(SYS_seccomp), 1, allThreads ? 1 : 0, Int(bitPattern: $0.baseAddress), 0, 0,
                    0)
            }
        }
    }
}
