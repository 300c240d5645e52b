// SPDX-License-Identifier: Apache-2.0
//
// A watchdog over the service thread: what it holds too long, claimed spans and a fence, is opened.
//
// Only before the service thread has committed itself to free: what is freed after somebody has
// opened the fence is lost. One compare-and-swap decides between the two, and the commitment covers
// one system call.

#ifndef PTRECLAIM_WATCH_H
#define PTRECLAIM_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

struct ptreclaim_watch {
    uint32_t state;     // see watch.c
    uint32_t is_awake;  // see watch.c
    uint32_t *_Nullable thread_id; // where the watchdog writes its own, before it does anything else
    uint64_t held_since_ns;
    uintptr_t first, last; // the spans
    int userfaultfd;       // -1: no fence can be up
    uint64_t opened_count;
};

/// Starts the watchdog, on the service thread, whose descriptors it needs. Returns 0 or -errno.
int ptreclaim_watch_start(struct ptreclaim_watch *watch);

/// Around a pass: while it lasts the watchdog looks every 50 ms.
void ptreclaim_watch_wake(struct ptreclaim_watch *watch);
void ptreclaim_watch_rest(struct ptreclaim_watch *watch);

/// The watchdog leaves, too. Returns when it has nothing more to do with `watch`.
void ptreclaim_watch_end(struct ptreclaim_watch *watch);

/// From now on the spans `first ..< last` are held: whatever of them is claimed or fenced.
void ptreclaim_watch_hold(
    struct ptreclaim_watch *watch, uintptr_t first, uintptr_t last, int userfaultfd);

/// Fewer of them, before a fence goes up: the watchdog opens what one call can.
void ptreclaim_watch_narrow(struct ptreclaim_watch *watch, uintptr_t first, uintptr_t last);

/// They are held no more. False where the watchdog had opened them.
bool ptreclaim_watch_let_go(struct ptreclaim_watch *watch);

/// Before the one call that frees, and after it. False: the watchdog has opened them, and nothing may
/// be freed.
bool ptreclaim_watch_commit(struct ptreclaim_watch *watch);
void ptreclaim_watch_committed(struct ptreclaim_watch *watch);

#pragma clang assume_nonnull end

#endif
