// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// ptreclaim_advise, from C.
extension ShimTests {
    struct AdviceTests {
        private func run(
            _ act: String, _ environment: [String: String]
        ) async throws {
            // On a machine that is too busy the watchdog ends it: another attempt.
            for attempt in 1...3 {
                let outcome = try await Victim.run(
                    [PackageFiles.executable("advice"), act],
                    environment: [
                        "PTRECLAIM_DELAY_MS": "0", "PTRECLAIM_BUDGET_PERCENT": "100",
                        "PTRECLAIM_WATERMARK_KB": "0",
                    ].merging(environment) { $1 }, preloading: [try await ShimBuild.release()],
                    limit: .seconds(120))
                if outcome.status == 3, attempt < 3 { continue }
                #expect(outcome.status == 0, "\(outcome)")
                #expect(try #require(outcome.numbers["checks"]) >= 3, "\(outcome)")
                return
            }
        }

        @Suite(.enabled(if: modesCanFence, "needs userfaultfd and PT_RECLAIM, Linux 6.14"))
        struct Taken {
            @Test(
                "Where only marked memory is served, marks outlive splits and end at munmap",
                arguments: ["madvise", "scan"])
            func marked(mode: String) async throws {
                try await AdviceTests().run(
                    "marked", ["PTRECLAIM_MODE": mode, "PTRECLAIM_RANGES": "marked"])
            }

            @Test("What is OFF is not looked at and not freed", arguments: ["madvise", "scan"])
            func off(mode: String) async throws {
                try await AdviceTests().run("off", ["PTRECLAIM_MODE": mode])
            }

            @Test(
                "NOW frees before it returns, beside others and in a child; bad addresses are EINVAL",
                arguments: ["madvise", "scan"])
            func now(mode: String) async throws {
                try await AdviceTests().run(
                    "now", ["PTRECLAIM_MODE": mode, "PTRECLAIM_DELAY_MS": "60000"])
            }
        }

        @Test("Without a thread of the library there is nobody to take advice: EOPNOTSUPP")
        func refused() async throws {
            for mode in ["off", "hooks", "auto"] {
                try await run("refused", ["PTRECLAIM_MODE": mode])
            }
        }
    }
}
