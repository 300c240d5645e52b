// SPDX-License-Identifier: Apache-2.0

import CLinuxMM
import Foundation
import LiveSpace
import PTReclaim
import ReclaimCore
import TestSupport
import Testing

@Suite(.enabled(if: KernelAbilities.showsTables, "needs PAGEMAP_SCAN, Linux 6.7"))
struct PTReclaimTests {
    private let playground: LivePlayground
    private let pagesPerSpan = PageGeometry.entriesPerTable

    init() throws {
        playground = try LivePlayground(#require(LiveSpace.probeBackend()))
        try playground.map(playground.pages(0..<4 * pagesPerSpan), marked: false)
        for span in 0..<4 {
            try playground.write(1, at: playground.span(span).start)
            try playground.discardInPieces(span * pagesPerSpan..<(span + 1) * pagesPerSpan)
        }
    }

    private func addresses(_ pages: Range<Int>) -> Range<UInt> {
        let range = playground.pages(pages)
        return range.start..<range.end
    }

    @Test func freesEmptyTablesAndSaysSo() throws {
        try playground.write(0x5A, at: playground.span(2).start + 4096)
        let report = try ptReclaim(range: addresses(0..<4 * pagesPerSpan), access: .owned)
        #expect(report.tablesExamined == 4)
        #expect(report.tablesFreed == 3)
        #expect(report.kept[.populated] == 1)
        #expect(try playground.read(at: playground.span(2).start + 4096) == 0x5A)
        #expect(
            try playground.states()[0..<4] == [.absent, .absent, .populated, .absent])
    }

    @Test func roundsTheLengthUpToPages() throws {
        let span = playground.span(0)
        let report = try ptReclaim(range: span.start..<span.end - 4095, access: .owned)
        #expect(report.tablesFreed == 1)
        let short = playground.span(1)
        let partial = try ptReclaim(range: short.start..<short.end - 4096, access: .owned)
        #expect(partial.tablesFreed == 0)
        #expect(partial.kept[.partial] == 1)
    }

    @Test func anEmptyRangeDoesNothing() throws {
        let start = playground.window.start
        #expect(try ptReclaim(range: start..<start, access: .owned) == ReclaimReport())
    }

    static let wrongRanges: [Range<UInt>] = [
        4097..<8192, 4097..<4097, 0..<(1 << 47) + 1, (1 << 47)..<(1 << 48), 0..<UInt.max,
        (UInt.max - 4095)..<UInt.max,
    ]

    @Test(arguments: wrongRanges)
    func refusesWrongRanges(range: Range<UInt>) throws {
        #expect(
            throws: ReclaimError(
                .invalidRange, errno: EINVAL,
                range: AddressRange(start: range.lowerBound, end: range.upperBound))
        ) {
            try ptReclaim(range: range, access: .owned)
        }
    }

    @Test func holesAreNoError() throws {
        let report = try ptReclaim(
            range: playground.span(20).start..<playground.span(21).end, access: .owned)
        #expect(report.tablesFreed == 0)
        #expect(report.kept[.unmapped] == 2)
    }

    @Test func keepsTheTableOfLockedMemory() throws {
        try playground.write(7, at: playground.span(0).start)
        let locked = playground.pages(0..<1)
        let errno = unsafe mlock(UnsafeRawPointer(bitPattern: locked.start)!, 4096)
        #expect(errno == 0)
        let report = try ptReclaim(range: addresses(0..<pagesPerSpan), access: .owned)
        #expect(report.tablesFreed == 0)
        #expect(try playground.read(at: locked.start) == 7)
    }

    @Test func saysWhenNoDescriptorIsToBeHad() async {
        await #expect(processExitsWith: .success) {
            // The first call measures the kernel, and wants descriptors of its own.
            try ptReclaim(range: 1 << 44..<(1 << 44) + 4096, access: .owned)
            var limit = rlimit(rlim_cur: 0, rlim_max: 0)
            let none = unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            #expect(none == 0)
            do throws(ReclaimError) {
                try ptReclaim(range: 1 << 44..<(1 << 44) + 4096, access: .owned)
                exit(1)
            } catch {
                exit(error.code == .lookFailed && error.errno == EMFILE ? 0 : 2)
            }
        }
    }

    @Test func keepsNoDescriptor() async {
        await #expect(processExitsWith: .success) {
            // What the call opens; the test library opens and closes descriptors of its own.
            func count() -> Int {
                let directory = "/proc/self/fd"
                let files = FileManager.default
                return ((try? files.contentsOfDirectory(atPath: directory)) ?? [])
                    .map { "\(directory)/\($0)" }
                    .compactMap { try? files.destinationOfSymbolicLink(atPath: $0) }
                    .filter { link in
                        ["/pagemap", "/maps", "/status", "userfaultfd"].contains {
                            link.hasSuffix($0) || link.hasSuffix("[\($0)]")
                        }
                    }.count
            }
            // First that the counter sees a descriptor, so that none means something.
            let one = unsafe open("/proc/self/pagemap", O_RDONLY)
            guard count() == 1 else { exit(2) }
            close(one)
            for _ in 0..<10 { try ptReclaim(range: 1 << 44..<(1 << 44) + 4096, access: .owned) }
            exit(count() == 0 ? 0 : 1)
        }
    }
}
