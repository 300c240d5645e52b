// SPDX-License-Identifier: Apache-2.0

import Conformance
import Foundation
import PageTableModel
import TestSupport
import Testing

/// Plays in another process, `ptreclaim conform`: the tests beside this one go on, and a kernel that
/// does not come back takes nobody along.
func conform(
    _ arguments: [String], limit: Duration = .seconds(120)
) async throws -> Victim.Outcome {
    try await Victim.run(
        [PackageFiles.executable("ptreclaim"), "conform"] + arguments, limit: limit)
}

/// Plays `text` on the model and the kernel, which must agree at every step.
func expectAgreement(
    _ text: String, sourceLocation: SourceLocation = #_sourceLocation
) async throws {
    // What is no sequence should say so here, not in a process.
    _ = try [PageTableModel.Operation](text: text)
    let file = FileManager.default.temporaryDirectory
        .appending(path: "ptreclaim-replay-\(UUID().uuidString)")
    try text.write(to: file, atomically: true, encoding: .utf8)
    defer { try? FileManager.default.removeItem(at: file) }
    let outcome = try await conform(
        ["--no-shrink", "--replay", file.path()], limit: .seconds(300))
    #expect(outcome.status == 0, "\(outcome)", sourceLocation: sourceLocation)
}

/// Whether sequences can be played on this machine.
enum Playground {
    /// The program's own answer would cost a run for each test.
    static let isOpen = geteuid() == 0 && showsFrames
    static let why: Comment =
        "needs root, with /proc/self/pagemap and /proc/kpageflags that show frames"

    private static var showsFrames: Bool {
        // A container may lack CAP_SYS_ADMIN, or the files.
        ["/proc/kpageflags", "/proc/self/pagemap"].allSatisfy {
            FileManager.default.isReadableFile(atPath: $0)
        } && capabilities & 1 << 21 != 0
    }

    /// CapEff; bit 21 is CAP_SYS_ADMIN.
    private static var capabilities: UInt64 {
        let status = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("CapEff:") }
        let number = line?.split(whereSeparator: \.isWhitespace).last
        return number.flatMap { UInt64($0, radix: 16) } ?? 0
    }
}
