// SPDX-License-Identifier: Apache-2.0
//
// What the service thread of the preload library is asked to do, and what came of it. Between C, that
// decides when, and the Swift core, that decides which tables.

#ifndef PTRECLAIM_PASS_H
#define PTRECLAIM_PASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PTRECLAIM_PASS_REASONS = 32 }; // at least KeptReason.count

struct ptreclaim_pass {
    // Asked.
    uintptr_t start, end;          // any addresses; partial spans at both ends are left alone
    uint32_t mark_mask, mark_wanted; // see layout.h
    uint64_t most_tables;          // to be looked at
    uint64_t deadline_ns;          // CLOCK_MONOTONIC
    uint32_t longest_fenced_run;   // tables behind one fence
    bool frees;                    // false: looks and remembers
    bool is_immediate;             // false: frees what was empty at the pass before, too

    // What came of it.
    uintptr_t resume; // where it stopped early; 0: it came to the end
    uint64_t tables_looked_at, tables_empty, tables_freed;
    uint64_t kept[PTRECLAIM_PASS_REASONS]; // by KeptReason: of those that were to be freed
};

#endif
