// SPDX-License-Identifier: Apache-2.0

#ifndef PTRECLAIM_STATS_H
#define PTRECLAIM_STATS_H

#include "stats_page.h"

#include <stdint.h>

/// Makes the page of this process; see stats_page.h. Called once, from the constructor.
void ptreclaim_stats_start(uint32_t mode, uint32_t backend);

/// The page of this process: after fork a fresh one, made at the child's first event. Never NULL;
/// before `ptreclaim_stats_start`, and while another thread is making the page, what is counted
/// is lost.
struct ptreclaim_stats_page *ptreclaim_stats(void);

/// A seccomp filter is about to come: the page is made now, and in children that are forked later none
/// is. What these count is lost.
void ptreclaim_stats_filtered(void);

static inline void ptreclaim_count(uint64_t *counter, uint64_t value) {
    __atomic_fetch_add(counter, value, __ATOMIC_RELAXED);
}

#define PTRECLAIM_COUNT(field, value) ptreclaim_count(&ptreclaim_stats()->field, (value))

#endif
