// SPDX-License-Identifier: Apache-2.0
//
// Futexes between processes; those of linux_mm.h are private to one.

#ifndef PTRECLAIM_PLAYER_WAIT_H
#define PTRECLAIM_PLAYER_WAIT_H

#include "player.h"

#include <time.h>

/// Sleeps while `*word` is `expected`; at most `milliseconds`, or for ever where that is negative.
/// Returns also for no reason.
static inline void ptreclaim_shared_wait(uint32_t *word, uint32_t expected, long milliseconds) {
    struct timespec limit = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    const int wait = 0;
    ptreclaim_syscall(
        SYS_futex, (long)word, wait, expected, milliseconds < 0 ? 0 : (long)&limit, 0, 0);
}

static inline void ptreclaim_shared_wake(uint32_t *word) {
    const int wake = 1;
    ptreclaim_syscall(SYS_futex, (long)word, wake, INT32_MAX, 0, 0, 0);
}

/// The player's whole life.
__attribute__((noreturn)) void ptreclaim_player_run(
    struct ptreclaim_player_page *page, ptreclaim_reclaim_call reclaim);

#endif
