// SPDX-License-Identifier: Apache-2.0
//
// The laws of the call, played on the running kernel in a process that does nothing else: for each
// backend that works here, each kind of memory and each access. Linked statically it runs in a bare
// guest. Exit status: 0 all laws hold, 1 not, 2 nothing could be played.

import Glibc
import LiveSpace
import ReclaimCore

/// Walks as `ptReclaim` does: with `.shared` on the service thread, behind a fence.
func suite(
    _ memory: PlayMemory, _ access: ReclaimAccess, _ backend: Backend
) -> LawSuite<LivePlayground> {
    LawSuite(memory, access) {
        // Starts the service thread, whose stack has tables of its own.
        _ = try ReclaimCall.run(from: 0, upTo: PageGeometry.spanByteCount, access: .shared)
        return try LivePlayground(backend, isAlone: true, hasHugePages: false)
    } walk: { space, range, access in
        try space.call(range, access)
    }
}

LivePlayground.switchHugePagesOff()
var played = 0
var broken = 0
for backend in KernelAbilities.backends {
    LivePlayground.use(backend)
    for memory in PlayMemory.allCases {
        for access in [ReclaimAccess.owned, .shared] {
            let name = "\(backend) \(memory) .\(access)"
            do {
                let run = try suite(memory, access, backend).run()
                played += run.played.count
                broken += run.violations.count
                for violation in run.violations { print("BROKEN \(name): \(violation)") }
                for scenario in run.skipped { print("skipped \(name): \(scenario)") }
            } catch {
                broken += 1
                print("BROKEN \(name): \(error)")
            }
        }
    }
}
let backends = KernelAbilities.backends.map { "\($0)" }.joined(separator: ", ")
let tables = KernelAbilities.showsTables ? "shows tables" : "shows no tables"
print("backends: \(backends); \(tables)")
print("played \(played) scenarios, \(broken) broken laws")
exit(played == 0 ? 2 : broken == 0 ? 0 : 1)
