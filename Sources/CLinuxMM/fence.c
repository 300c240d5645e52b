// SPDX-License-Identifier: Apache-2.0

#include "fence.h"

#include "linux_mm.h"
#include "live_state.h"

#include <pthread.h>

// ---- the gate ---------------------------------------------------------------------------------

// One word: how many threads are forking, and whether a fence is up. glibc nests the prepare
// handlers of concurrent forks, so a flag would not do. A child finds zero: none of the threads
// that the word counted is in it.
#define FENCED 0x80000000u
static const uint64_t longest_wait_for_forks = 20000000; // ns

/// Threads that wait for forks. Without any a fork makes no system call here: a filter may kill for it.
static uint32_t waiting_for_forks;

static uint32_t *_Nullable gate(void) {
    struct ptreclaim_wiped_on_fork *wiped = ptreclaim_live_state()->wiped_on_fork;
    return wiped ? &wiped->fork_gate : 0;
}

/// False where forks take too long. The wait has an end because a fork may itself be waiting, in
/// another library's handler, for a lock that our caller holds.
static bool enter_gate(uint32_t *word, bool may_wait) {
    uint64_t deadline = 0;
    for (;;) {
        uint32_t forks = 0;
        if (__atomic_compare_exchange_n(
                word, &forks, FENCED, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            return true;
        }
        if (!may_wait) {
            return false;
        }
        uint64_t now = ptreclaim_monotonic_nanoseconds();
        if (!deadline) {
            deadline = now + longest_wait_for_forks;
        } else if (now > deadline) {
            return false;
        }
        __atomic_fetch_add(&waiting_for_forks, 1, __ATOMIC_SEQ_CST);
        ptreclaim_futex_wait(word, forks, 1);
        __atomic_fetch_sub(&waiting_for_forks, 1, __ATOMIC_SEQ_CST);
    }
}

static void leave_gate(uint32_t *word) {
    if (__atomic_and_fetch(word, ~FENCED, __ATOMIC_ACQ_REL)) {
        ptreclaim_futex_wake(word, INT32_MAX);
    }
}

void ptreclaim_open_fork_gate(void) {
    uint32_t *word = gate();
    if (word && __atomic_fetch_and(word, ~FENCED, __ATOMIC_ACQ_REL) & FENCED) {
        ptreclaim_futex_wake(word, INT32_MAX);
    }
}

static void before_fork(void) {
    uint32_t *word = gate();
    if (!word) {
        return;
    }
    uint32_t now = __atomic_add_fetch(word, 1, __ATOMIC_ACQ_REL);
    while (now & FENCED) {
        ptreclaim_futex_wait(word, now, PTRECLAIM_LONGEST_SLEEP_MS);
        now = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    }
}

static void after_fork_in_parent(void) {
    uint32_t *word = gate();
    // A fork that began before the gate was installed has counted nothing.
    uint32_t forks = word ? __atomic_load_n(word, __ATOMIC_ACQUIRE) : 0;
    while ((forks & ~FENCED)
           && !__atomic_compare_exchange_n(
               word, &forks, forks - 1, false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE)) {
    }
    if (forks && __atomic_load_n(&waiting_for_forks, __ATOMIC_SEQ_CST)) {
        ptreclaim_futex_wake(word, INT32_MAX);
    }
}

int ptreclaim_install_fork_gate(void) {
    // Not once per process: a child inherits the handlers with everything else.
    static uint32_t installed;
    if (__atomic_exchange_n(&installed, 1, __ATOMIC_ACQ_REL)) {
        return 0;
    }
    int error = pthread_atfork(before_fork, after_fork_in_parent, 0);
    if (error) {
        __atomic_store_n(&installed, 0, __ATOMIC_RELEASE);
    }
    return -error;
}

// ---- the fence --------------------------------------------------------------------------------

static const uintptr_t span_bytes = 2 << 20;

static long free_by(const struct ptreclaim_fence *fence, uintptr_t start, uintptr_t end) {
    if (fence->how == PTRECLAIM_FENCED_DONTNEED) {
        return ptreclaim_madvise(start, end - start, PTRECLAIM_MADV_DONTNEED_LOCKED);
    }
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | (fence->is_noreserve ? MAP_NORESERVE : 0);
    long result = ptreclaim_mmap(start, end - start, fence->protection, flags, -1, 0);
    return result < 0 && result > -4096 ? result : 0;
}

/// Commits itself for this one call, where somebody else might open the fence.
static long free_tables(const struct ptreclaim_fence *fence, uintptr_t start, uintptr_t end) {
    if (!fence->watch) {
        return free_by(fence, start, end);
    }
    if (!ptreclaim_watch_commit(fence->watch)) {
        return -ECANCELED;
    }
    long result = free_by(fence, start, end);
    ptreclaim_watch_committed(fence->watch);
    return result;
}

long ptreclaim_watched_free(struct ptreclaim_fence *fence, uintptr_t start, uintptr_t end) {
    uint64_t signals = ptreclaim_set_signal_mask(~0ull);
    long result = free_tables(fence, start, end);
    ptreclaim_set_signal_mask(signals);
    return result;
}

/// Looks again and frees, span by span where it must: what has been filled since the first look
/// stays, the rest goes.
static long free_what_is_still_empty(
    const struct ptreclaim_fence *fence, uintptr_t start, uintptr_t end) {
    while (start < end) {
        uintptr_t page = 0;
        long populated = ptreclaim_first_populated(
            fence->pagemap, fence->has_pagemap_scan, start, end, &page);
        if (populated < 0) {
            return populated;
        }
        uintptr_t stop = populated ? page & ~(span_bytes - 1) : end;
        if (start < stop) {
            long result = free_tables(fence, start, stop);
            if (result < 0) {
                return result;
            }
        }
        start = stop + span_bytes;
    }
    return 0;
}

/// Whether a thread is waiting: it has queued a message.
static bool is_met(int userfaultfd) {
    char message[32]; // struct uffd_msg
    return ptreclaim_syscall(
               SYS_read, userfaultfd, (long)message, sizeof(message), 0, 0, 0)
           == sizeof(message);
}

static void note_length(struct ptreclaim_fences *fences, uint64_t nanoseconds, bool was_met) {
    fences->count++;
    if (nanoseconds > fences->longest_ns) {
        fences->longest_ns = nanoseconds;
    }
    if (was_met) {
        size_t bucket = 0;
        while (bucket + 1 < PTRECLAIM_FENCE_BUCKETS && nanoseconds / 1000 >> bucket) {
            bucket++;
        }
        fences->met_count++;
        fences->met_ns += nanoseconds;
        fences->met_by_microseconds[bucket]++;
    }
}

void ptreclaim_fence_open(int userfaultfd, uintptr_t start, uintptr_t end) {
    struct ptreclaim_uffd_range all = {start, end - start};
    ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_UNREGISTER, &all);
    ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_WAKE, &all);
}

void ptreclaim_let_go_of(int userfaultfd, uintptr_t start, uintptr_t end) {
    struct ptreclaim_uffd_register registration = {
        .range = {start, end - start},
        .mode = PTRECLAIM_UFFD_REGISTER_MISSING,
    };
    const uint64_t signals = ptreclaim_set_signal_mask(~0ull); // as behind a fence, which it is
    // Fails where it is somebody else's (EBUSY), or cannot be registered (EINVAL).
    if (ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_REGISTER, &registration) >= 0) {
        ptreclaim_fence_open(userfaultfd, start, end);
    }
    ptreclaim_set_signal_mask(signals);
}

long ptreclaim_fenced_free(struct ptreclaim_fence *fence, uintptr_t start, uintptr_t end) {
    uint32_t *word = gate();
    if (!word) {
        return -EAGAIN;
    }
    // A handler that runs on this thread could touch the range and wait for itself. Only now:
    // setuid waits for every thread to take signal 33.
    uint64_t signals = ptreclaim_set_signal_mask(~0ull);
    if (!enter_gate(word, fence->may_wait_for_forks)) {
        ptreclaim_set_signal_mask(signals);
        return -EAGAIN;
    }
    // The first look is the walk's: it chose this run. Then register: from here on a thread that
    // touches the range waits; look again: what is none stays none; free; let go.
    struct ptreclaim_uffd_register registration = {
        .range = {start, end - start},
        .mode = PTRECLAIM_UFFD_REGISTER_MISSING,
    };
    const uint64_t began = fence->fences ? ptreclaim_monotonic_nanoseconds() : 0;
    bool was_met = false;
    long result = ptreclaim_ioctl(fence->userfaultfd, PTRECLAIM_UFFDIO_REGISTER, &registration);
    // What was never registered is never unregistered: before Linux 6.17 that would take away
    // somebody else's registration.
    fence->was_up = result >= 0;
    if (fence->was_up) {
        result = free_what_is_still_empty(fence, start, end);
        was_met = fence->fences && is_met(fence->userfaultfd);
        struct ptreclaim_uffd_range range = registration.range;
        long unregistered =
            ptreclaim_ioctl(fence->userfaultfd, PTRECLAIM_UFFDIO_UNREGISTER, &range);
        // UNREGISTER wakes before it takes the VMA's lock, so a fault can queue behind that wake.
        long woken = ptreclaim_ioctl(fence->userfaultfd, PTRECLAIM_UFFDIO_WAKE, &range);
        if (result < 0 || unregistered < 0 || woken < 0) {
            // Something is not as it should be: start afresh. Closing unregisters and wakes all,
            // where nobody else holds the descriptor: hence the service thread's own table.
            ptreclaim_close(fence->userfaultfd);
            fence->userfaultfd = -1;
        }
    }
    leave_gate(word);
    if (fence->was_up && fence->fences) {
        note_length(fence->fences, ptreclaim_monotonic_nanoseconds() - began, was_met);
    }
    ptreclaim_set_signal_mask(signals);
    return result;
}
