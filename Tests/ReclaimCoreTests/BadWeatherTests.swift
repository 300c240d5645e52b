// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import LiveSpace
import PTReclaim
import ReclaimCore
import TestSupport
import Testing

/// What a process may be short of, and what may be closed to it. Each is made for real, in a
/// process of its own, and has a clear answer; bytes stay what they are, and where the weather
/// clears up the next call does all its work.
@Suite(.enabled(if: Weather.freesAndShows, Weather.needsFreesAndShows))
struct BadWeatherTests {

    /// What every test here plays on.
    ///
    ///     |     private, anonymous    |       shared memfd        |
    ///     |  empty table  |  pages    |  empty table  |  pages    |
    final class Scene {
        let memory = TestMemory(4)
        static let allDone = "freed 2, populated 2"
        static let noFence = "fenceUnavailable 1, freed 1, populated 2"
        /// A range of nothing but hole, to start what a first call starts.
        private static let hole: Range<UInt> = 1 << 44..<(1 << 44) + 4096

        /// In a process of the test's own: one that hangs is ended, and the test fails.
        init() throws {
            alarm(120)
            try memory.map(0..<2)
            let file = ptreclaim_memfd(4 << 20)
            try check(Int(file))
            try memory.map(2..<4, MAP_SHARED, file: file)
            _ = ptreclaim_close(file)
            try fill()
        }

        func fill() throws {
            try memory.makeEmptyTables(0..<1)
            memory.write(1)
            try memory.makeEmptyTables(2..<3, keepsContents: true)
            memory.write(3)
        }

        /// Makes a first call, on the thread of the caller or on the service thread.
        static func start(_ access: Access) throws { try ptReclaim(range: hole, access: access) }

        /// What a call on the scene comes to, in one line: counts by name, or the error.
        func call(_ access: Access) -> String {
            do throws(ReclaimError) {
                let told = try ptReclaim(range: memory.range, access: access).told
                return told.sorted { $0.key < $1.key }.map { "\($0) \($1)" }
                    .joined(separator: ", ")
            } catch {
                let isOfCall =
                    error.range
                    == AddressRange(
                        start: memory.range.lowerBound, end: memory.range.upperBound)
                return "\(error.code) \(error.errno)\(isOfCall ? "" : " \(error.range)")"
            }
        }

        func expect(
            _ access: Access, _ wanted: String, at location: SourceLocation = #_sourceLocation
        ) {
            let answer = call(access)
            say(answer == wanted, "\(access): \(answer), not \(wanted)", at: location)
        }

        func expectBytes(at location: SourceLocation = #_sourceLocation) {
            let changed = memory.changedBytes()
            say(changed.isEmpty, "\(changed.count) bytes have changed", at: location)
        }

        /// The weather has cleared up: the same scene, and all of it is done.
        func expectAllDone(
            _ access: Access, at location: SourceLocation = #_sourceLocation
        ) throws {
            try fill()
            expect(access, Self.allDone, at: location)
            expectBytes(at: location)
        }
    }

    /// The scene itself: without bad weather all of it is done.
    @Test(arguments: Weather.accesses)
    func inFairWeatherAllIsDone(access: Access) async {
        await #expect(processExitsWith: .success) { [name = "\(access)"] in
            let scene = try Scene()
            scene.expect(name == "owned" ? .owned : .shared, Scene.allDone)
            let states = try scene.memory.states()
            say(states == [.absent, .populated, .absent, .populated], "\(states)")
            scene.expectBytes()
        }
    }

    // MARK: No descriptors

    @Test(.enabled(if: Weather.hasFence, Weather.needsFence))
    func withoutADescriptorTheFirstCallSaysSo() async {
        await #expect(processExitsWith: .success) {
            let scene = try Scene()
            let before = try Weather.limitDescriptors(to: 0)
            scene.expect(.owned, "lookFailed \(EMFILE)")
            scene.expect(.shared, "lookFailed \(EMFILE)")
            _ = try Weather.limitDescriptors(to: before)
            scene.expectBytes()
            try scene.expectAllDone(.owned)
            try scene.expectAllDone(.shared)
        }
    }

    @Test(.enabled(if: Weather.hasFence, Weather.needsFence))
    func withoutADescriptorLaterCallsSaySo() async {
        await #expect(processExitsWith: .success) {
            let scene = try Scene()
            try Scene.start(.owned)
            let before = try Weather.limitDescriptors(to: 0)
            scene.expect(.owned, "lookFailed \(EMFILE)")
            scene.expect(.shared, "lookFailed \(EMFILE)")
            _ = try Weather.limitDescriptors(to: before)
            scene.expectBytes()
            try scene.expectAllDone(.shared)
        }
    }

    /// The service thread has descriptors of its own; one that runs needs no other.
    @Test(.enabled(if: Weather.hasFence, Weather.needsFence))
    func theServiceThreadKeepsItsDescriptors() async {
        await #expect(processExitsWith: .success) {
            try Scene().expectAllDone(.shared)
            let scene = try Scene()
            _ = try Weather.limitDescriptors(to: 0)
            scene.expect(.owned, "lookFailed \(EMFILE)")
            scene.expect(.shared, Scene.allDone)
            scene.expectBytes()
        }
    }

    /// A full table of the process is not the service thread's.
    @Test(.enabled(if: Weather.hasFence, Weather.needsFence))
    func aFullTableOfDescriptorsIsNotTheServiceThreads() async {
        await #expect(processExitsWith: .success) {
            try Scene.start(.shared)
            let scene = try Scene()
            _ = try Weather.limitDescriptors(to: 64)
            while dup(0) >= 0 {}
            say(errno == EMFILE, "the table is not full")
            scene.expect(.owned, "lookFailed \(EMFILE)")
            // It has yet to open a userfaultfd.
            scene.expect(.shared, Scene.allDone)
            scene.expectBytes()
        }
    }

    // MARK: No procfs

    @Test(
        .enabled(if: Weather.canHideProcfs, Weather.needsHiding), arguments: Weather.bothAccesses)
    func withoutProcfsTheCallSaysSo(access: Access) async {
        await #expect(processExitsWith: .success) { [name = "\(access)"] in
            let access: Access = name == "owned" ? .owned : .shared
            let scene = try Scene()
            let after = try Scene()
            onThread {
                guard Weather.hideProcfs() == 0 else { exit(2) }
                // The first call of a process measures the kernel; a later one does not.
                scene.expect(access, "lookFailed \(ENOENT)")
                return 0
            }
            scene.expectBytes()
            try Scene.start(.owned)
            onThread {
                guard Weather.hideProcfs() == 0 else { exit(2) }
                after.expect(access, "lookFailed \(ENOENT)")
                return 0
            }
            after.expectBytes()
            try after.expectAllDone(.owned)
        }
    }

    @Test(
        .enabled(if: Weather.canHideProcfs, Weather.needsHiding),
        .enabled(if: Weather.hasFence, Weather.needsFence))
    func theServiceThreadOpenedItsFilesBefore() async {
        await #expect(processExitsWith: .success) {
            try Scene().expectAllDone(.shared)
            let scene = try Scene()
            onThread {
                guard Weather.hideProcfs() == 0 else { exit(2) }
                scene.expect(.shared, Scene.allDone)
                return 0
            }
            scene.expectBytes()
        }
    }

    // MARK: No permission

    /// After setuid procfs is root's, until the process says that it may be looked at.
    @Test(.enabled(if: Weather.canLosePrivileges, Weather.needsRoot))
    func nobodyHasNoFence() async {
        await #expect(processExitsWith: .success) {
            let scene = try Scene()
            Weather.loseTheFence()
            scene.expect(.owned, "lookFailed \(EACCES)")
            scene.expect(.shared, "lookFailed \(EACCES)")
            scene.expectBytes()
            Weather.makeDumpable()
            try scene.fill()
            scene.expect(.shared, Scene.noFence)
            scene.expect(.owned, "absent 1, freed 1, populated 2")
            scene.expectBytes()
        }
    }

    /// What the service thread opened as root serves nobody too; and setuid, which waits until each
    /// thread has taken a signal, comes back.
    @Test(.enabled(if: Weather.canLosePrivileges && Weather.hasFence, Weather.needsRoot))
    func aFenceOfBeforeIsKept() async {
        await #expect(processExitsWith: .success) {
            try Scene().expectAllDone(.shared)
            let scene = try Scene()
            Weather.loseTheFence()
            scene.expect(.owned, "lookFailed \(EACCES)")
            scene.expect(.shared, Scene.allDone)
            scene.expectBytes()
        }
    }

    /// Without a capability the mode of /dev/userfaultfd decides.
    @Test(
        .enabled(if: Weather.canLosePrivileges, Weather.needsRoot),
        .enabled(if: Weather.hasFenceDevice, "needs /dev/userfaultfd"))
    func theDeviceIsAFenceToo() async {
        await #expect(processExitsWith: .success) {
            let scene = try Scene()
            Weather.dropCapabilities(but: 0)
            let descriptor = ptreclaim_syscall(Int(SYS_userfaultfd), 0, 0, 0, 0, 0, 0)
            say(descriptor == -Int(EPERM), "still permitted: \(descriptor)")
            scene.expect(.shared, Scene.allDone)
            scene.expectBytes()
        }
    }

    // MARK: No thread

    /// As nobody, who may have no more threads, but may have a userfaultfd.
    @Test(.enabled(if: Weather.canLosePrivileges, Weather.needsRoot))
    func withoutAThreadThereIsNoFence() async {
        await #expect(processExitsWith: .success) {
            let scene = try Scene()
            try Scene.start(.owned)
            let (setKeepCapabilities, ptrace) = (8, UInt32(1 << 19))
            ptreclaim_syscall(Int(SYS_prctl), setKeepCapabilities, 1, 0, 0, 0, 0)
            Weather.becomeNobody()
            Weather.dropCapabilities(but: ptrace)
            Weather.makeDumpable()
            let descriptor = ptreclaim_open_userfaultfd()
            say(descriptor >= 0, "no userfaultfd: \(descriptor)")
            _ = ptreclaim_close(descriptor)

            let resource = __rlimit_resource_t(6)  // RLIMIT_NPROC
            var limit = rlimit()
            guard unsafe getrlimit(resource, &limit) == 0 else { exit(2) }
            let before = limit.rlim_cur
            limit.rlim_cur = 0
            guard unsafe setrlimit(resource, &limit) == 0 else { exit(2) }
            var thread: pthread_t = 0
            let error = unsafe pthread_create(&thread, nil, { _ in nil }, nil)
            say(error == EAGAIN, "a thread is to be had: \(error)")
            scene.expect(.shared, Scene.noFence)
            scene.expect(.owned, "absent 1, freed 1, populated 2")
            scene.expectBytes()
            // Another time there may be one.
            limit.rlim_cur = before
            guard unsafe setrlimit(resource, &limit) == 0 else { exit(2) }
            try scene.expectAllDone(.shared)
        }
    }

    // MARK: Filters

    @Test(.enabled(if: Weather.canFilter, Weather.needsFilters))
    func aFilterThatDeniesUserfaultfd() async {
        await #expect(processExitsWith: .success) {
            let scene = try Scene()
            guard SeccompFilter.deny(Weather.userfaultfd, errno: EPERM) == 0 else { exit(2) }
            let denied = ptreclaim_syscall(Int(SYS_userfaultfd), 0, 0, 0, 0, 0, 0)
            say(denied == -Int(EPERM), "not denied: \(denied)")
            scene.expect(.shared, Scene.noFence)
            scene.expect(.owned, "absent 1, freed 1, populated 2")
            scene.expectBytes()
        }
    }

    /// Negative control: such a filter does kill.
    @Test(.enabled(if: Weather.canFilter, Weather.needsFilters))
    func aFilterThatKillsKills() async {
        await #expect(processExitsWith: .signal(SIGSYS)) {
            guard SeccompFilter.kill(Weather.userfaultfd) == 0 else { exit(2) }
            ptreclaim_syscall(Int(SYS_userfaultfd), 0, 0, 0, 0, 0, 0)
        }
    }

    /// With a filter on nothing is tried: neither a userfaultfd, nor a thread, nor a table of its
    /// own for it. Any of these would end the process here.
    @Test(.enabled(if: Weather.canFilter, Weather.needsFilters))
    func aFilterThatKillsIsNotProvoked() async {
        await #expect(processExitsWith: .success) {
            let scene = try Scene()
            let deadly: [SeccompFilter.Matched] = [
                Weather.userfaultfd, .anyCall(SYS_clone), .anyCall(SYS_clone3), .anyCall(436),
            ]
            for one in deadly {
                guard SeccompFilter.kill(one) == 0 else { exit(2) }
            }
            scene.expect(.shared, Scene.noFence)
            scene.expect(.owned, "absent 1, freed 1, populated 2")
            scene.expectBytes()
        }
    }

    /// A service thread that runs when the filter comes, and has opened no userfaultfd yet.
    @Test(.enabled(if: Weather.canFilter, Weather.needsFilters))
    func aFilterThatComesLaterIsNotProvoked() async {
        await #expect(processExitsWith: .success) {
            try Scene.start(.shared)
            let scene = try Scene()
            guard SeccompFilter.kill(Weather.userfaultfd) == 0 else { exit(2) }
            scene.expect(.shared, Scene.noFence)
            scene.expectBytes()
        }
    }

    /// Filters that deny what the service thread needs: a descriptor table of its own, its start.
    @Test(
        .enabled(if: Weather.canFilter, Weather.needsFilters),
        arguments: [436, SYS_clone3, SYS_clone],
        [EPERM, EAGAIN, ENOSYS])
    func aFilterThatDeniesTheServiceThread(call: Int32, errno: Int32) async {
        await #expect(processExitsWith: .success) { [call, errno] in
            let scene = try Scene()
            guard SeccompFilter.deny(.anyCall(call), errno: errno) == 0 else { exit(2) }
            for _ in 0..<2 {
                scene.expect(.shared, Scene.noFence)
                try scene.fill()
            }
            scene.expect(.owned, Scene.allDone)
            scene.expectBytes()
        }
    }

    // MARK: Kernels without PAGEMAP_SCAN and PROCMAP_QUERY

    /// As before Linux 6.7 and 6.11: pages are looked up word by word, mappings in the text, and
    /// VmPTE tells what was freed.
    @Test(
        .enabled(if: Weather.canFilter, Weather.needsFilters),
        arguments: [EPERM, ENOSYS, ENOTTY], [false, true])
    func withoutTheIoctlsOfLaterKernels(errno: Int32, isLater: Bool) async {
        await #expect(processExitsWith: .success) { [errno, isLater] in
            let scene = try Scene()
            let guarded = TestMemory(1)
            try guarded.map()
            try guarded.makeEmptyTables()
            if KernelAbilities.hasGuards(.anonymous) {
                try check(ptreclaim_madvise(guarded.spans.start + 4096, 4096, 102))
            }
            if isLater { try Scene.start(.owned) }
            let filtered = SeccompFilter.deny(
                [Weather.pagemapScan, Weather.procmapQuery], errno: errno)
            guard filtered == 0 else { exit(2) }
            let maps = ptreclaim_open_self_maps()
            var query = ptreclaim_procmap_query()
            let denied = unsafe ptreclaim_procmap_query(maps, &query)
            say(denied == -Int(errno), "not denied: \(denied)")
            _ = ptreclaim_close(maps)
            let pagemap = ptreclaim_open_self_pagemap()
            say(!ptreclaim_probe_pagemap_scan(pagemap), "not denied")
            _ = ptreclaim_close(pagemap)

            let before = ptreclaim_self_vm_pte()
            // The filter takes the fence away, too.
            scene.expect(.shared, Scene.noFence)
            scene.expect(.owned, "absent 1, freed 1, populated 2")
            let after = ptreclaim_self_vm_pte()
            say(before - after == 2 * 4096, "VmPTE \(before), \(after)")
            scene.expectBytes()
            // A marker is seen without the ioctl, too.
            let told = try ptReclaim(range: guarded.range, access: .owned).told
            let expected =
                KernelAbilities.hasGuards(.anonymous) ? ["populated": 1] : ["freed": 1]
            say(told == expected, "\(told)")
        }
    }

    /// The fence, too, looks word by word where it must. It was there before the filter.
    @Test(
        .enabled(if: Weather.canFilter, Weather.needsFilters),
        .enabled(if: Weather.hasFence, Weather.needsFence))
    func theFenceWithoutPagemapScan() async {
        await #expect(processExitsWith: .success) {
            try Scene().expectAllDone(.shared)
            let scene = try Scene()
            guard
                SeccompFilter.deny([Weather.pagemapScan, Weather.procmapQuery], errno: EPERM) == 0
            else { exit(2) }
            scene.expect(.shared, Scene.allDone)
            scene.expectBytes()
        }
    }

    /// The text of maps tells each kind of memory as PROCMAP_QUERY does.
    @Test(.enabled(if: Weather.canFilter, Weather.needsFilters), arguments: Weather.accesses)
    func withoutProcmapQueryEachKindOfMemoryHasItsAnswer(access: Access) async {
        await #expect(processExitsWith: .success) { [name = "\(access)"] in
            let access: Access = name == "owned" ? .owned : .shared
            try Scene().expectAllDone(access)
            guard SeccompFilter.deny(Weather.procmapQuery, errno: ENOTTY) == 0 else { exit(2) }
            for kind in BadInputTests.kinds { try BadInputTests.play(kind, access) }
            if Weather.hasHugePages {
                // Nothing in the text tells that a file is one of huge pages. It has no PTE table,
                // and so nothing is freed.
                try BadInputTests.playHugetlb(access, ofFile: ["populated": 1, "absent": 1])
            }
            if Weather.hasRing { try BadInputTests.playRing(access) }
        }
    }

    // MARK: No mappings

    /// Fills the process with mappings of one page until it can have no more.
    final class Mappings {
        private let start: UInt = 0x2800_0000_0000
        private let byteCount = 1 << 30
        private var extra: [UInt] = []

        init(_ scene: Scene) {
            _ = ptreclaim_mmap(
                start, byteCount, PROT_NONE, TestMemory.anonymous | MAP_FIXED, -1, 0)
            for page in stride(from: start, to: start + UInt(byteCount), by: 8192) {
                if !protect(page + 4096, PROT_READ) { break }
            }
            // The last of them. A mapping that nothing can merge with has a name of its own.
            while true {
                let mapped = ptreclaim_mmap(
                    0, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
                if mapped == -Int(ENOMEM) { break }
                extra.append(UInt(mapped))
            }
            // Negative control: nothing can be split, nowhere.
            say(!protect(scene.memory.spans.start, PROT_READ), "a mapping is to be had")
        }

        private func protect(_ address: UInt, _ protection: Int32) -> Bool {
            ptreclaim_syscall(
                Int(SYS_mprotect), Int(address), 4096, Int(protection), 0, 0, 0) == 0
        }

        func giveBack() {
            _ = ptreclaim_munmap(start, byteCount)
            for address in extra { _ = ptreclaim_munmap(address, 4096) }
        }
    }

    @Test(.enabled(if: Weather.mappingsAreFew, Weather.needsFewMappings))
    func atTheLimitOfMappingsNoFenceCanBePutUp() async {
        await #expect(processExitsWith: .success) {
            try Scene.start(.shared)
            let scene = try Scene()
            let mappings = Mappings(scene)
            let (shared, owned) = (scene.call(.shared), scene.call(.owned))
            mappings.giveBack()
            let wanted =
                Weather.hasFence ? "freed 1, populated 2, tooManyMappings 1" : Scene.noFence
            say(shared == wanted, shared)
            say(owned == "absent 1, freed 1, populated 2", owned)
            scene.expectBytes()
            if Weather.hasFence { try scene.expectAllDone(.shared) }
        }
    }

    /// The service thread needs a stack, which is a mapping.
    @Test(.enabled(if: Weather.mappingsAreFew, Weather.needsFewMappings))
    func atTheLimitOfMappingsThereIsNoThread() async {
        await #expect(processExitsWith: .success) {
            try Scene.start(.owned)
            let scene = try Scene()
            let mappings = Mappings(scene)
            let (shared, owned) = (scene.call(.shared), scene.call(.owned))
            mappings.giveBack()
            say(shared == Scene.noFence, shared)
            say(owned == "absent 1, freed 1, populated 2", owned)
            scene.expectBytes()
            if Weather.hasFence { try scene.expectAllDone(.shared) }
        }
    }

    /// The first call measures the kernel, for which it maps something.
    @Test(.enabled(if: Weather.mappingsAreFew, Weather.needsFewMappings))
    func atTheLimitOfMappingsTheFirstCallSaysSo() async {
        await #expect(processExitsWith: .success) {
            let scene = try Scene()
            let mappings = Mappings(scene)
            let (shared, owned) = (scene.call(.shared), scene.call(.owned))
            mappings.giveBack()
            say(shared == "lookFailed \(ENOMEM)", shared)
            say(owned == "lookFailed \(ENOMEM)", owned)
            scene.expectBytes()
            try scene.expectAllDone(.owned)
        }
    }

    @Test(
        .enabled(if: Weather.mappingsAreFew, Weather.needsFewMappings),
        .enabled(if: KernelAbilities.backends.contains(.remap), "needs mremap of Linux 5.7"))
    func atTheLimitOfMappingsNothingMoves() async {
        await #expect(processExitsWith: .success) {
            guard LiveSpace.probeBackend(preferring: .remap) == .remap else { exit(2) }
            let scene = try Scene()
            let mappings = Mappings(scene)
            let owned = scene.call(.owned)
            mappings.giveBack()
            say(owned == "populated 2, tooManyMappings 2", owned)
            scene.expectBytes()
            try scene.expectAllDone(.owned)
        }
    }
}

/// How bad weather is made.
extension Weather {
    /// Lowers the limit on descriptors, and says what it was.
    static func limitDescriptors(to count: UInt) throws -> UInt {
        let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        var limit = rlimit()
        try check(unsafe getrlimit(resource, &limit) == 0 ? 0 : -Int(errno))
        let before = limit.rlim_cur
        limit.rlim_cur = rlim_t(count)
        try check(unsafe setrlimit(resource, &limit) == 0 ? 0 : -Int(errno))
        let one = unsafe open("/dev/null", O_RDONLY)
        if count == 0 { say(one == -1 && errno == EMFILE, "there still is a descriptor") }
        close(one)
        return UInt(before)
    }

    static let needsHiding: Comment = "needs a mount namespace: CAP_SYS_ADMIN"

    static let needsRoot: Comment =
        "needs root, and vm.unprivileged_userfaultfd = 0, to give privileges up"
    static let canLosePrivileges =
        getuid() == 0
        && Weather.contents(ofProcFile: "/proc/sys/vm/unprivileged_userfaultfd") == "0\n"

    /// Becomes nobody, on every thread: glibc asks each, the service thread too, but not the main
    /// thread of a test process, whose procfs files are those of the process.
    static func becomeNobody() {
        let nobody: uid_t = 65534
        let isDone = MainThread.run {
            ptreclaim_syscall(Int(SYS_setgid), Int(nobody), 0, 0, 0, 0, 0)
            ptreclaim_syscall(Int(SYS_setuid), Int(nobody), 0, 0, 0, 0, 0)
        }
        guard isDone, setgid(nobody) == 0, setuid(nobody) == 0 else { exit(2) }
    }

    /// As `becomeNobody`; and no userfaultfd is nobody's to have.
    static func loseTheFence() {
        becomeNobody()
        let descriptor = ptreclaim_open_userfaultfd()
        say(descriptor == -EPERM || descriptor == -EACCES, "nobody may: \(descriptor)")
    }

    static func makeDumpable() {
        let setDumpable = 4
        ptreclaim_syscall(Int(SYS_prctl), setDumpable, 1, 0, 0, 0, 0)
    }

    static let needsFilters: Comment = "needs seccomp filters"
    static let userfaultfd = SeccompFilter.Matched.anyCall(SYS_userfaultfd)
    static let pagemapScan = SeccompFilter.Matched.secondArgument(
        SYS_ioctl, UInt32(PTRECLAIM_PAGEMAP_SCAN))
    static let procmapQuery = SeccompFilter.Matched.secondArgument(
        SYS_ioctl, UInt32(PTRECLAIM_PROCMAP_QUERY))

    static let needsFewMappings: Comment = "needs vm.max_map_count below 131072"
    static let mappingsAreFew =
        (Int(Weather.contents(ofProcFile: "/proc/sys/vm/max_map_count").dropLast()) ?? .max)
        < 131072
}
