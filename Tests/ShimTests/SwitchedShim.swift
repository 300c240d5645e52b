// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport

/// One build of the preload library with places where it can be made wrong, or stopped, each by a
/// number in the environment: a build for each would take minutes.
enum SwitchedShim {
    private static let build = Task { try await ShimBuild.mutated("switches", edits) }

    static func library() async throws -> URL { try await build.value }

    /// Ways to be wrong.
    enum Mistake: Int, CaseIterable, Sendable {
        case noFence = 1
        case noLayoutLock, noReleaseWake, noSecondLook, noCommitment
    }

    /// Where the service thread stops once, for a second, on its way through its first fences.
    enum Step: Int, CaseIterable, Sendable {
        case beforeClaim = 1
        case afterClaim, beforeRegister, afterRegister, afterSecondLook, afterCommit, afterFree
        case afterCommitment, beforeUnregister, beforeWake, afterFence, beforeLetGo, afterLetGo

        /// From then until it has freed nobody may open the fence.
        var isCommitted: Bool { self == .afterCommit || self == .afterFree }
        /// Nothing is held there.
        var isHarmless: Bool { self == .afterLetGo }
    }

    /// - Parameters:
    ///   - stopping: once, for a second.
    ///   - slowing: every time, for 2 ms, as if the machine were busy.
    static func environment(
        _ mistake: Mistake? = nil, stopping: Step? = nil, slowing: Step? = nil
    ) -> [String: String] {
        var environment: [String: String] = [:]
        environment["PTRECLAIM_TEST_MISTAKE"] = mistake.map { "\($0.rawValue)" }
        environment["PTRECLAIM_TEST_STOP"] = stopping.map { "\($0.rawValue)" }
        environment["PTRECLAIM_TEST_SLOW"] = slowing.map { "\($0.rawValue)" }
        return environment
    }

    private static let fence = "Sources/CLinuxMM/fence.c"
    private static let layout = "Sources/CLinuxMM/layout.c"
    private static let watch = "Sources/CLinuxMM/watch.c"

    private static func edit(
        _ file: String, _ original: String, _ replacement: String
    ) -> ShimBuild.Edit {
        ShimBuild.Edit(file: file, original: original, replacement: replacement)
    }

    private static func wrong(_ mistake: Mistake) -> String { "is_wrong(\(mistake.rawValue))" }
    private static func stop(_ step: Step) -> String { "stop_at(\(step.rawValue));" }

    private static let edits = [
        edit(
            "Sources/CLinuxMM/include/linux_mm.h",
            "#include <sys/mman.h>\n#include <sys/syscall.h>\n",
            """
            #include <sys/mman.h>
            #include <stdlib.h>
            #include <time.h>
            #include <sys/syscall.h>
            static inline int test_number(const char *_Nonnull name) {
                const char *_Nullable value = getenv(name);
                return value ? atoi(value) : 0;
            }
            static inline int is_wrong(int mistake) {
                static int number = -1;
                if (number < 0) number = test_number("PTRECLAIM_TEST_MISTAKE");
                return number == mistake;
            }
            static inline long ptreclaim_syscall(long, long, long, long, long, long, long);
            static inline void stop_at(int step) {
                static int number = -1, count;
                if (number < 0) number = test_number("PTRECLAIM_TEST_STOP");
                static int slow = -1;
                if (slow < 0) slow = test_number("PTRECLAIM_TEST_SLOW");
                if (slow == step) {
                    struct timespec some = {0, 2000000};
                    ptreclaim_syscall(SYS_nanosleep, (long)&some, 0, 0, 0, 0, 0);
                }
                if (number == step && __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED) == 5) {
                    struct timespec second = {1, 0};
                    ptreclaim_syscall(SYS_nanosleep, (long)&second, 0, 0, 0, 0, 0);
                }
            }

            """),
        // The mistakes.
        edit(
            fence, "ptreclaim_ioctl(fence->userfaultfd, PTRECLAIM_UFFDIO_REGISTER, &registration)",
            "(\(wrong(.noFence)) ? 0 : ptreclaim_ioctl(fence->userfaultfd, "
                + "PTRECLAIM_UFFDIO_REGISTER, &registration))"),
        edit(
            layout, "while ((old & CLAIMED) && wait_for_release())",
            "while ((old & CLAIMED) && !\(wrong(.noLayoutLock)) && wait_for_release())"),
        edit(
            layout, "__atomic_exchange_n(claims, 0, __ATOMIC_SEQ_CST) == 2",
            "__atomic_exchange_n(claims, 0, __ATOMIC_SEQ_CST) == 2 && !\(wrong(.noReleaseWake))"),
        edit(
            fence, "populated ? page & ~(span_bytes - 1) : end",
            "populated && !\(wrong(.noSecondLook)) ? page & ~(span_bytes - 1) : end"),
        edit(
            watch, "return move(watch, HELD, COMMITTED);",
            "return move(watch, HELD, COMMITTED) || \(wrong(.noCommitment));"),
        // The steps.
        edit(
            layout, "    uint32_t *claims = claims_word();\n    if (!layout || !claims ||",
            "    \(stop(.beforeClaim))\n"
                + "    uint32_t *claims = claims_word();\n    if (!layout || !claims ||"),
        edit(
            layout,
            "        ptreclaim_layout_release(*first, *last);\n        return false;\n    }\n",
            "        ptreclaim_layout_release(*first, *last);\n        return false;\n    }\n"
                + "    \(stop(.afterClaim))\n"),
        edit(
            fence, "    bool was_met = false;\n",
            "    bool was_met = false;\n\(stop(.beforeRegister))\n"),
        edit(
            fence, "    if (fence->was_up) {\n",
            "    if (fence->was_up) {\n\(stop(.afterRegister))\n"),
        edit(
            fence, "        if (start < stop) {\n",
            "        if (start < stop) {\n\(stop(.afterSecondLook))\n"),
        edit(
            fence,
            "    long result = free_by(fence, start, end);\n    ptreclaim_watch_committed(fence->watch);\n",
            "    \(stop(.afterCommit))\n    long result = free_by(fence, start, end);\n"
                + "    \(stop(.afterFree))\n    ptreclaim_watch_committed(fence->watch);\n"
                + "    \(stop(.afterCommitment))\n"),
        edit(
            fence, "        struct ptreclaim_uffd_range range = registration.range;\n",
            "        struct ptreclaim_uffd_range range = registration.range;\n"
                + "\(stop(.beforeUnregister))\n"),
        edit(
            fence, "        long woken =", "        \(stop(.beforeWake))\n        long woken ="),
        edit(
            fence, "    leave_gate(word);\n    if (fence->was_up",
            "    \(stop(.afterFence))\n    leave_gate(word);\n    if (fence->was_up"),
        edit(
            watch,
            "    return __atomic_exchange_n(&watch->state, NOTHING, __ATOMIC_ACQ_REL) == HELD;",
            "    \(stop(.beforeLetGo))\n"
                + "    bool was_held = __atomic_exchange_n(&watch->state, NOTHING, __ATOMIC_ACQ_REL)"
                + " == HELD;\n    \(stop(.afterLetGo))\n    return was_held;"),
    ]
}
