// SPDX-License-Identifier: Apache-2.0

#include "reclaimer.h"

#include "candidates.h"
#include "layout.h"
#include "linux_mm.h"
#include "service.h"
#include "service_thread.h"

#include <errno.h>
#include <unistd.h>

static const uint64_t span_bytes = 2 << 20, millisecond = 1000000;
enum { SPAN_SHIFT = 21 };

struct ptreclaim_terms ptreclaim_terms;
struct ptreclaim_now ptreclaim_now;

static bool has_given_way;

static struct ptreclaim_wiped_on_fork *wiped(void) {
    return ptreclaim_live_state()->wiped_on_fork;
}

// ---- what other threads say -------------------------------------------------------------------

void ptreclaim_reclaimer_needed(void) {
    struct ptreclaim_wiped_on_fork *ours = wiped();
    if (ptreclaim_terms.is_enabled && ours && !__atomic_load_n(&ours->is_needed, __ATOMIC_RELAXED)) {
        __atomic_store_n(&ours->is_needed, 1, __ATOMIC_RELAXED);
    }
}

/// Wakes the service thread, or lets it not fall asleep.
static void nudge(struct ptreclaim_stats_page *stats) {
    __atomic_fetch_add(&stats->control.nudges, 1, __ATOMIC_SEQ_CST);
    const int wake = 1; // not private: others wake it, too
    ptreclaim_syscall(SYS_futex, (long)&stats->control.nudges, wake, 1, 0, 0, 0);
}

static uint64_t put_down(uint64_t first, uint64_t count) {
    struct ptreclaim_stats_page *stats = ptreclaim_stats();
    struct ptreclaim_wiped_on_fork *ours = wiped();
    ptreclaim_count(&stats->candidates, count);
    const uint64_t ticket = ptreclaim_candidates_add(first, count);
    if (!ticket) {
        ptreclaim_count(&stats->candidates_lost, count);
        __atomic_store_n(&ours->has_lost_candidates, 1, __ATOMIC_SEQ_CST);
    }
    if (!__atomic_load_n(&ours->has_candidates, __ATOMIC_RELAXED)
        && !__atomic_exchange_n(&ours->has_candidates, 1, __ATOMIC_ACQ_REL)) {
        nudge(stats);
    }
    return ticket;
}

void ptreclaim_reclaimer_purged(uintptr_t start, uintptr_t end, int advice) {
    const int dontneed = 4, free_lazily = 8, remove = 9, dontneed_locked = 24;
    if (!ptreclaim_terms.follows_purges) {
        ptreclaim_reclaimer_needed();
    }
    if (!ptreclaim_terms.is_enabled || !ptreclaim_terms.follows_purges || start >= end
        || (advice != dontneed && advice != free_lazily && advice != remove
            && advice != dontneed_locked)) {
        return;
    }
    struct ptreclaim_wiped_on_fork *ours = wiped();
    if (!ours) {
        return;
    }
    ptreclaim_reclaimer_needed();
    PTRECLAIM_COUNT(purges_seen, 1);
    const uint64_t first = start >> SPAN_SHIFT, last = (end - 1) >> SPAN_SHIFT;
    if (advice == free_lazily) {
        // The kernel takes the pages when it needs them, and leaves every table.
        put_down(first, last - first + 1);
        return;
    }
    // Of the spans that it covers whole the kernel has freed the tables itself.
    // Allocators purge one span piece by piece.
    static _Thread_local uint64_t put_down_last, ticket;
    const bool covers_first = (start & (span_bytes - 1)) == 0 && end - start >= span_bytes;
    const bool covers_last = (end & (span_bytes - 1)) == 0 && end - start >= span_bytes;
    const bool waits = ptreclaim_candidates_waits(ticket)
                       && __atomic_load_n(&ours->has_candidates, __ATOMIC_SEQ_CST);
    if (!covers_first && !(put_down_last == first && waits)) {
        ticket = put_down(first, 1);
        put_down_last = first;
    }
    if (!covers_last && last != first) {
        ticket = put_down(last, 1);
        put_down_last = last;
    }
}

void ptreclaim_reclaimer_look_at(uintptr_t start, uintptr_t end) {
    if (ptreclaim_terms.is_enabled && ptreclaim_terms.follows_purges && start < end && wiped()) {
        ptreclaim_reclaimer_needed();
        put_down(start >> SPAN_SHIFT, (end - start) >> SPAN_SHIFT);
    }
}

void ptreclaim_refuse(uint64_t *counter) {
    ptreclaim_count(counter, 1);
    struct ptreclaim_stats_page *stats = ptreclaim_stats();
    __atomic_store_n(
        &stats->mode,
        stats->mode == PTRECLAIM_MODE_HOOKS_AND_SCAN ? PTRECLAIM_MODE_HOOKS : PTRECLAIM_MODE_OFF,
        __ATOMIC_RELAXED);
}

bool ptreclaim_reclaimer_has_given_way(void) {
    return __atomic_load_n(&has_given_way, __ATOMIC_RELAXED);
}

/// Nothing is fenced any more, for the reason that `counter` counts.
static void stop(uint64_t *counter) {
    ptreclaim_layout_stop();
    ptreclaim_refuse(counter);
    ptreclaim_terms.is_enabled = false;
    nudge(ptreclaim_stats());
}

void ptreclaim_reclaimer_give_way(void) {
    __atomic_store_n(&has_given_way, true, __ATOMIC_RELAXED);
    if (ptreclaim_terms.is_enabled) {
        stop(&ptreclaim_stats()->refused_application_userfaultfd);
    }
}

bool ptreclaim_reclaimer_is_enabled(void) { return ptreclaim_terms.is_enabled; }

int ptreclaim_reclaimer_now(uintptr_t start, uintptr_t end) {
    struct ptreclaim_wiped_on_fork *ours = wiped();
    if (!ptreclaim_terms.is_enabled || !ours) {
        return EOPNOTSUPP;
    }
    ptreclaim_reclaimer_needed();
    ptreclaim_reclaimer_start_if_needed();
    uint32_t seen = NOBODY;
    while (!__atomic_compare_exchange_n(
        &ours->now, &seen, PREPARING, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        ptreclaim_futex_wait(&ours->now, seen, 100);
        seen = NOBODY;
    }
    ptreclaim_now.start = start;
    ptreclaim_now.end = end;
    __atomic_store_n(&ours->now, ASKED, __ATOMIC_RELEASE);
    nudge(ptreclaim_stats());
    int error = 0;
    while (__atomic_load_n(&ours->now, __ATOMIC_ACQUIRE) != ANSWERED) {
        ptreclaim_futex_wait(&ours->now, ASKED, 100);
        if (!ptreclaim_terms.is_enabled || __atomic_load_n(&ours->reclaimer, __ATOMIC_ACQUIRE) == FAILED
            || __atomic_load_n(&ours->now, __ATOMIC_ACQUIRE) == NOBODY) {
            error = EAGAIN; // it has gone, or we are a child that was forked out of the wait
            break;
        }
    }
    __atomic_store_n(&ours->now, NOBODY, __ATOMIC_RELEASE);
    ptreclaim_futex_wake(&ours->now, INT32_MAX);
    return error;
}

// ---- leaving ----------------------------------------------------------------------------------

/// Waits until the kernel knows nothing of a thread; it is on its way out.
static void wait_for_end_of(const uint32_t *thread_id, uint64_t deadline) {
    const uint32_t thread = __atomic_load_n(thread_id, __ATOMIC_ACQUIRE);
    const uint32_t never = 0;
    while (thread && ptreclaim_has_thread((int)thread)
           && ptreclaim_monotonic_nanoseconds() < deadline) {
        ptreclaim_futex_wait((uint32_t *)&never, 0, 1);
    }
}

/// Where it takes longer than two seconds (a process that is being stopped), nobody waits on.
static void leave(uint32_t next_state) {
    struct ptreclaim_wiped_on_fork *ours = wiped();
    if (!ours) {
        return;
    }
    const uint64_t deadline = ptreclaim_monotonic_nanoseconds() + 2000 * millisecond;
    uint32_t state = NONE;
    __atomic_store_n(&ours->must_leave, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_compare_exchange_n(
            &ours->reclaimer, &state, next_state, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        while (__atomic_load_n(&ours->reclaimer, __ATOMIC_ACQUIRE) == STARTING
               && ptreclaim_monotonic_nanoseconds() < deadline) {
            ptreclaim_futex_wait(&ours->reclaimer, STARTING, 1);
        }
        const bool has_failed = __atomic_load_n(&ours->reclaimer, __ATOMIC_ACQUIRE) == FAILED;
        nudge(ptreclaim_stats());
        wait_for_end_of(&ours->thread_id, deadline);
        wait_for_end_of(&ours->watch_thread_id, deadline);
        if (!has_failed) {
            __atomic_store_n(&ours->reclaimer, next_state, __ATOMIC_RELEASE);
        }
    }
    __atomic_store_n(&ours->must_leave, 0, __ATOMIC_SEQ_CST);
}

/// Not in a child of vfork, which is here with its parent's memory.
static bool is_enabled_here(void) {
    const struct ptreclaim_stats_page *stats = ptreclaim_stats(); // a forked child makes its own
    return ptreclaim_terms.is_enabled && wiped() && stats->pid == ptreclaim_getpid();
}

void ptreclaim_reclaimer_step_aside(void) {
    if (is_enabled_here()) {
        leave(NONE);
    }
}

void ptreclaim_reclaimer_end(uint64_t *refusal) {
    if (!is_enabled_here()) {
        return;
    }
    ptreclaim_layout_stop();
    ptreclaim_terms.is_enabled = false;
    ptreclaim_refuse(refusal);
    leave(FAILED);
}

// ---- starting ---------------------------------------------------------------------------------

static bool is_child(void) {
    static pid_t first;
    const pid_t now = ptreclaim_getpid();
    if (!first) {
        first = now;
    }
    return now != first;
}

void ptreclaim_reclaimer_start_if_needed(void) {
    struct ptreclaim_wiped_on_fork *ours = wiped();
    if (!ptreclaim_terms.is_enabled || !ours
        || __builtin_expect(__atomic_load_n(&ours->reclaimer, __ATOMIC_RELAXED) != NONE, 1)
        || !__atomic_load_n(&ours->is_needed, __ATOMIC_RELAXED)) {
        return;
    }
    uint32_t none = NONE;
    if (!__atomic_compare_exchange_n(
            &ours->reclaimer, &none, STARTING, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        return;
    }
    if (is_child()) {
        ptreclaim_terms.mark_mask |= PTRECLAIM_MARK_DONTFORK;
    }
    uint64_t *refusal = NULL;
    if (is_child() && !ptreclaim_terms.is_inherited) {
        refusal = &ptreclaim_stats()->refused_child;
    } else if (ptreclaim_service_start(ptreclaim_service_thread, ours)) {
        refusal = &ptreclaim_stats()->refused_no_service_thread;
    }
    if (refusal) {
        ptreclaim_refuse(refusal);
        __atomic_store_n(&ours->reclaimer, FAILED, __ATOMIC_RELEASE);
    }
}

void ptreclaim_reclaimer_enable(const struct ptreclaim_options *options, bool follows_purges) {
    ptreclaim_terms.follows_purges = follows_purges;
    ptreclaim_terms.mark_mask = PTRECLAIM_MARK_OFF | (options->ranges ? PTRECLAIM_MARK_ON : 0);
    ptreclaim_terms.mark_wanted = options->ranges ? PTRECLAIM_MARK_ON : 0;
    ptreclaim_terms.delay_ns = options->delay_ms ? options->delay_ms * millisecond : 1;
    const uint64_t longest_pass = ptreclaim_terms.delay_ns / 100 * options->budget_percent;
    ptreclaim_terms.budget_ns = longest_pass < millisecond ? millisecond : longest_pass;
    ptreclaim_terms.budget_percent = options->budget_percent;
    ptreclaim_terms.most_tables = (uint64_t)options->size_mb * 256;
    ptreclaim_terms.watermark_tables = options->watermark_kb / 4;
    ptreclaim_terms.is_inherited = options->inherit != 0;
    (void)is_child();
    ptreclaim_terms.is_enabled = true;
    // What was mapped before this is memory of the process as well.
    ptreclaim_reclaimer_needed();
}
