// SPDX-License-Identifier: Apache-2.0

import Foundation
import ProcFS
import TestSupport
import Testing

/// How jemalloc and the shim get into a program that links neither.
enum Preloading: CaseIterable, Sendable {
    case jemalloc, shimThenJemalloc, jemallocThenShim

    static let isPossible = FixtureLibraries.sharedJemalloc != nil

    /// Copies in `directory`, where a user that is nobody can read them: the checkout may lie below
    /// a closed directory.
    func libraries(in directory: TemporaryDirectory) async throws -> [URL] {
        let jemalloc = URL(filePath: FixtureLibraries.sharedJemalloc ?? "")
        if self == .jemalloc { return [jemalloc] }
        let shim = try directory.copy(await ShimBuild.release())
        return self == .shimThenJemalloc ? [shim, jemalloc] : [jemalloc, shim]
    }

    /// Purges at once, so that no test waits for a decay.
    static let environment = ["MALLOC_CONF": "dirty_decay_ms:0", "PTRECLAIM_VERBOSE": "1"]
}

/// The page tables of one program after its work, under each `Preloading`.
struct WasteComparison {
    private var looks: [Preloading: (vmPTE: Int, waste: Int?)] = [:]

    /// Looks at a program that is idle now. With the shim in it, its stats page must tell of hooks
    /// and of spans that they zapped.
    mutating func look(at pid: Int32, _ preloading: Preloading) throws {
        let census = try PageTableCensus.take(pid: pid)
        looks[preloading] = (
            Int(census.vmPTEByteCount / 1024), census.wasteByteCount.map { Int($0 / 1024) }
        )
        guard preloading != .jemalloc else { return }
        let page = try StatsPage.read(pid: pid)
        #expect(page.mode == "hooks")
        #expect(try #require(page["arenas_hooked"]) > 0)
        #expect(try #require(page["spans_zapped"]) > 0)
        #expect(page["spans_skipped"] == 0)
        #expect(page["decommit_failures"] == 0)
    }

    /// Small with the shim, in either order, and large without it, or the work shows nothing.
    func check(_ program: String) throws {
        let plain = try #require(looks[.jemalloc])
        for (preloading, look) in looks where preloading != .jemalloc {
            if let waste = look.waste, let plainWaste = plain.waste {
                #expect(waste <= 32 && plainWaste >= 96, "\(program), kB: \(looks)")
            } else {
                // Before Linux 6.7 nobody tells how much of it is waste.
                #expect(look.vmPTE + 64 <= plain.vmPTE, "\(program), kB: \(looks)")
            }
        }
        let asked = ProcessInfo.processInfo.environment["PTRECLAIM_SHOW_WASTE"] != nil
        if asked { print("\(program), kB: \(looks)") }
    }
}

/// Waits for `condition`, for at most `seconds`.
func wait(
    seconds: Int, for what: String, until condition: () async throws -> Bool
) async throws {
    for _ in 0..<seconds * 50 {
        if try await condition() { return }
        try await Task.sleep(for: .milliseconds(20))
    }
    throw ShimBuild.Failure(description: "waited \(seconds) s in vain for \(what)")
}

extension TemporaryDirectory {
    func has(_ name: String) -> Bool {
        let path = url.appending(path: name).path()
        let size = try? FileManager.default.attributesOfItem(atPath: path)[.size] as? Int
        return (size ?? 0) > 0
    }

    func write(_ text: String, to name: String) throws {
        try text.write(to: url.appending(path: name), atomically: true, encoding: .utf8)
    }
}
