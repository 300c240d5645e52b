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
