// SPDX-License-Identifier: Apache-2.0

#include "watch.h"

#include "fence.h"
#include "layout.h"
#include "linux_mm.h"
#include "service.h"

#include <sys/prctl.h>

// The service thread goes NOTHING, HELD, COMMITTED, HELD …, NOTHING; the watchdog takes HELD to OPENED.
enum { NOTHING = 0, HELD = 1, COMMITTED = 2, OPENED = 3 };
// Whether something may be held; and at the end, whether the watchdog has let go of the whole struct.
enum { ASLEEP = 0, AWAKE = 1, LEAVING = 2, LEFT = 3 };

static const uint64_t longest_hold_ns = 100 * 1000 * 1000;
enum { LOOK_MS = 50, STACK_BYTES = 64 << 10 };

static bool move(struct ptreclaim_watch *watch, uint32_t from, uint32_t to) {
    return __atomic_compare_exchange_n(
        &watch->state, &from, to, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

// ---- the service thread -----------------------------------------------------------------------

void ptreclaim_watch_narrow(struct ptreclaim_watch *watch, uintptr_t first, uintptr_t last) {
    // Read meanwhile they are an old one and a new one, and between these is all that is held.
    __atomic_store_n(&watch->first, first, __ATOMIC_RELAXED);
    __atomic_store_n(&watch->last, last, __ATOMIC_RELAXED);
}

void ptreclaim_watch_hold(
    struct ptreclaim_watch *watch, uintptr_t first, uintptr_t last, int userfaultfd) {
    // Who has to have the CPU takes it now, and not in the middle: a hold begins with a new time slice.
    ptreclaim_syscall(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
    ptreclaim_watch_narrow(watch, first, last);
    watch->userfaultfd = userfaultfd;
    __atomic_store_n(&watch->held_since_ns, ptreclaim_monotonic_nanoseconds(), __ATOMIC_RELAXED);
    __atomic_store_n(&watch->state, HELD, __ATOMIC_RELEASE);
}

bool ptreclaim_watch_let_go(struct ptreclaim_watch *watch) {
    return __atomic_exchange_n(&watch->state, NOTHING, __ATOMIC_ACQ_REL) == HELD;
}

bool ptreclaim_watch_commit(struct ptreclaim_watch *watch) {
    return move(watch, HELD, COMMITTED);
}

void ptreclaim_watch_committed(struct ptreclaim_watch *watch) { (void)move(watch, COMMITTED, HELD); }

// ---- the watchdog -----------------------------------------------------------------------------

/// Lets everybody in. Again and again while the service thread has not taken notice: it may have been
/// on its way into the call that registers.
static void open_up(struct ptreclaim_watch *watch) {
    const uintptr_t first = __atomic_load_n(&watch->first, __ATOMIC_RELAXED);
    const uintptr_t last = __atomic_load_n(&watch->last, __ATOMIC_RELAXED);
    if (watch->userfaultfd >= 0) {
        ptreclaim_fence_open(watch->userfaultfd, first, last);
    }
    ptreclaim_layout_release(first, last);
    ptreclaim_open_fork_gate();
}

/// How long a hold lasts is no more than a clock says: the whole process may have been stopped, or have
/// had no CPU. So the watchdog must have come to look at it three times.
struct sight {
    uint64_t since;
    int looks;
};

static void look(struct ptreclaim_watch *watch, struct sight *sight) {
    const uint64_t since = __atomic_load_n(&watch->held_since_ns, __ATOMIC_RELAXED);
    if (__atomic_load_n(&watch->state, __ATOMIC_ACQUIRE) == HELD
        // Another hold than the one whose beginning was read has begun later.
        && __atomic_load_n(&watch->held_since_ns, __ATOMIC_RELAXED) == since) {
        sight->looks = sight->since == since ? sight->looks + 1 : 1;
        sight->since = since;
        if (sight->looks >= 3 && ptreclaim_monotonic_nanoseconds() - since > longest_hold_ns
            && move(watch, HELD, OPENED)) {
            __atomic_fetch_add(&watch->opened_count, 1, __ATOMIC_RELAXED);
        }
    }
    if (__atomic_load_n(&watch->state, __ATOMIC_ACQUIRE) == OPENED) {
        open_up(watch);
    }
}

static void *watch_over(void *argument) {
    struct ptreclaim_watch *watch = argument;
    if (watch->thread_id) {
        __atomic_store_n(watch->thread_id, ptreclaim_gettid(), __ATOMIC_RELEASE);
    }
    ptreclaim_syscall(SYS_prctl, PR_SET_NAME, (long)"ptreclaim-watch", 0, 0, 0, 0);
    struct sight sight = {0, 0};
    for (;;) {
        switch (__atomic_load_n(&watch->is_awake, __ATOMIC_ACQUIRE)) {
        case ASLEEP: ptreclaim_futex_wait(&watch->is_awake, ASLEEP, -1); break;
        case AWAKE:
            ptreclaim_futex_wait(&watch->is_awake, AWAKE, LOOK_MS);
            look(watch, &sight);
            break;
        default:
            __atomic_store_n(&watch->is_awake, LEFT, __ATOMIC_RELEASE);
            // Of an address, which may be nobody's by now.
            ptreclaim_futex_wake(&watch->is_awake, 1);
            return NULL;
        }
    }
}

static void tell(struct ptreclaim_watch *watch, uint32_t state) {
    __atomic_store_n(&watch->is_awake, state, __ATOMIC_RELEASE);
    if (state != ASLEEP) {
        ptreclaim_futex_wake(&watch->is_awake, 1);
    }
}

void ptreclaim_watch_wake(struct ptreclaim_watch *watch) { tell(watch, AWAKE); }
void ptreclaim_watch_rest(struct ptreclaim_watch *watch) { tell(watch, ASLEEP); }

void ptreclaim_watch_end(struct ptreclaim_watch *watch) {
    tell(watch, LEAVING);
    while (__atomic_load_n(&watch->is_awake, __ATOMIC_ACQUIRE) != LEFT) {
        ptreclaim_futex_wait(&watch->is_awake, LEAVING, 100);
    }
}

int ptreclaim_watch_start(struct ptreclaim_watch *watch) {
    return ptreclaim_start_thread(watch_over, watch, STACK_BYTES);
}
