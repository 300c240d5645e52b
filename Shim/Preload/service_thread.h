// SPDX-License-Identifier: Apache-2.0
//
// The service thread: when it makes a pass over tables, and how much it takes at once. Which tables,
// and whether they are freed, is decided behind core.h.

#ifndef PTRECLAIM_SERVICE_THREAD_H
#define PTRECLAIM_SERVICE_THREAD_H

#include "live_state.h"
#include "stats.h"

#include <stdbool.h>
#include <stdint.h>

/// What the options ask for.
struct ptreclaim_terms {
    bool is_enabled;     // the service thread leaves when it no longer is
    bool follows_purges; // madvise mode; otherwise it scans
    uint32_t mark_mask, mark_wanted; // of a child not what its parent kept from it
    uint64_t delay_ns, budget_ns, budget_percent, most_tables, watermark_tables;
    bool is_inherited;
};
extern struct ptreclaim_terms ptreclaim_terms;

// wiped_on_fork->reclaimer. FAILED stays: what is not possible now will not be later.
enum { NONE = 0, STARTING = 1, RUNNING = 2, FAILED = 3 };

// wiped_on_fork->now: one caller at a time, who waits.
enum { NOBODY = 0, PREPARING = 1, ASKED = 2, ANSWERED = 3 };

/// What is asked for, from ASKED to ANSWERED.
extern struct ptreclaim_now {
    uintptr_t start, end;
} ptreclaim_now;

/// For pthread_create; the argument is the wiped_on_fork of this process.
void *ptreclaim_service_thread(void *argument);

/// Counts why there is no such thread, or will be none, and says so in the stats page.
void ptreclaim_refuse(uint64_t *counter);

#endif
