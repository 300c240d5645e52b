// SPDX-License-Identifier: Apache-2.0
//
// The stats page of this process itself. Apart, because its header has names of ptreclaim.h.

#ifndef ADVICE_STATS_H
#define ADVICE_STATS_H

#include <stdbool.h>
#include <stdint.h>

/// What the service thread has done.
struct work {
    uint64_t passes, tables_looked_at;
};
struct work work_so_far(void);

/// The watchdog has opened a fence, because the service thread did not get on for 100 ms: since then
/// nobody is served.
bool has_given_up(void);

/// One pass over everything, as another process asks for it. Returns how many spans it left alone
/// because they are OFF; -1 without an answer, or where it failed.
int64_t ask_for_a_pass(void);

#endif
