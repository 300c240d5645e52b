// SPDX-License-Identifier: Apache-2.0

#include "service.h"

#include "fence.h"
#include "linux_mm.h"
#include "live_state.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <unistd.h>

// All that fork must not hand down stands in the wiped page; these two are set by the caller that
// holds `service_lock`, and read by the thread that it wakes.
static void (*current_job)(void *context, struct ptreclaim_service *service);
static void *current_context;

/// What a job may need of the thread's stack, with debug builds in mind, and what starting it needs.
enum { NEEDED_STACK_BYTES = 192 << 10, SPARE_STACK_BYTES = 64 << 10 };

/// Without the signals of glibc itself: setuid waits for every thread to take number 33.
static const uint64_t all_but_glibcs = ~(3ull << 31);

enum { IDLE = 1, POSTED = 2, LEFT = 3 };        // service_request
enum { WAITING = 1, ANSWERED = 2 };             // service_answer
enum { STARTING = 1, RUNNING = 2, FAILED = 3 }; // service_thread; FAILED + errno

/// So long the thread waits for a next job. It does not stay for ever: a process whose own threads
/// have all gone ends with its last thread, and must not be kept alive by this one.
static const uint64_t longest_idleness = 1000000000; // ns

// ---- the callers' lock: 0 free, 1 held, 2 held and waited for -----------------------------------

static void lock(uint32_t *word) {
    uint32_t free = 0;
    if (__atomic_compare_exchange_n(word, &free, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        return;
    }
    while (__atomic_exchange_n(word, 2, __ATOMIC_ACQUIRE)) {
        ptreclaim_futex_wait(word, 2, -1);
    }
}

static void unlock(uint32_t *word) {
    if (__atomic_exchange_n(word, 0, __ATOMIC_RELEASE) == 2) {
        ptreclaim_futex_wake(word, 1);
    }
}

// ---- the thread -------------------------------------------------------------------------------

/// Leaves the process's descriptor table for an empty one.
static int take_own_descriptor_table(void) {
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
    const long unshare = 2; // CLOSE_RANGE_UNSHARE
    return (int)ptreclaim_syscall(SYS_close_range, 0, ~0u, unshare, 0, 0, 0);
}

/// False when none has come for a second. The thread has then said that it leaves, and whoever
/// comes now starts another.
static bool wait_for_job(struct ptreclaim_wiped_on_fork *wiped) {
    uint64_t deadline = ptreclaim_monotonic_nanoseconds() + longest_idleness;
    for (;;) {
        uint32_t request = POSTED;
        if (__atomic_compare_exchange_n(
                &wiped->service_request, &request, IDLE, false, __ATOMIC_ACQUIRE,
                __ATOMIC_RELAXED)) {
            return true;
        }
        uint64_t now = ptreclaim_monotonic_nanoseconds();
        if (now >= deadline) {
            request = IDLE;
            if (__atomic_compare_exchange_n(
                    &wiped->service_request, &request, LEFT, false, __ATOMIC_RELEASE,
                    __ATOMIC_RELAXED)) {
                return false;
            }
            continue;
        }
        ptreclaim_futex_wait(
            &wiped->service_request, IDLE, (long)((deadline - now) / 1000000) + 1);
    }
}

/// Touches the far end of what jobs need of the stack. The near end holds the thread's own data, so
/// every span that the stack lies in has a page, is never all none, and so is never fenced.
__attribute__((noinline)) static void touch_stack(void) {
    volatile char far_end[NEEDED_STACK_BYTES];
    far_end[0] = 0;
}

int ptreclaim_service_enter(struct ptreclaim_service *service) {
    *service = (struct ptreclaim_service){
        .pagemap = -1,
        .maps = -1,
        .userfaultfd = -1,
        .process_status = -1,
        .thread_status = -1};
    ptreclaim_set_signal_mask(all_but_glibcs);
    ptreclaim_syscall(SYS_prctl, PR_SET_NAME, (long)"ptreclaim", 0, 0, 0, 0);
    touch_stack();
    // Closed with the table when the thread ends.
    return take_own_descriptor_table();
}

void ptreclaim_service_begin_job(struct ptreclaim_service *service) {
    if (service->pagemap < 0) {
        service->pagemap = ptreclaim_open_self_pagemap();
    }
    if (service->maps < 0) {
        service->maps = ptreclaim_open_self_maps();
    }
    service->has_tried_userfaultfd = false;
    service->has_met_forks = false;
}

static void *serve(void *argument) {
    struct ptreclaim_wiped_on_fork *wiped = argument;
    struct ptreclaim_service service;
    int error = ptreclaim_service_enter(&service);
    __atomic_store_n(&wiped->service_request, IDLE, __ATOMIC_RELAXED);
    __atomic_store_n(
        &wiped->service_thread, error ? FAILED + (uint32_t)-error : RUNNING, __ATOMIC_RELEASE);
    ptreclaim_futex_wake(&wiped->service_thread, INT32_MAX);
    while (!error && wait_for_job(wiped)) {
        ptreclaim_service_begin_job(&service);
        current_job(current_context, &service);
        __atomic_store_n(&wiped->service_answer, ANSWERED, __ATOMIC_RELEASE);
        ptreclaim_futex_wake(&wiped->service_answer, 1);
    }
    return 0;
}

int ptreclaim_start_thread(void *(*routine)(void *), void *argument, size_t stack_bytes) {
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error) {
        return -error;
    }
    long least = sysconf(_SC_THREAD_STACK_MIN);
    pthread_attr_setstacksize(&attributes, stack_bytes + (least > 0 ? (size_t)least : 0));
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    // It is born with every signal blocked: the application's handlers are not for it.
    uint64_t signals = ptreclaim_set_signal_mask(all_but_glibcs);
    pthread_t thread;
    error = pthread_create(&thread, &attributes, routine, argument);
    ptreclaim_set_signal_mask(signals);
    pthread_attr_destroy(&attributes);
    return -error;
}

int ptreclaim_service_start(void *(*routine)(void *), void *argument) {
    int error = ptreclaim_install_fork_gate();
    return error ? error
                 : ptreclaim_start_thread(
                       routine, argument, NEEDED_STACK_BYTES + SPARE_STACK_BYTES);
}

/// With signals blocked: a handler that forks here would leave a child that takes what we have
/// begun for its own, or meet the lock of pthread_atfork.
static int create_thread(struct ptreclaim_wiped_on_fork *wiped) {
    // Under a filter there is no fence to be had, and a start might be what it kills for.
    if (ptreclaim_has_seccomp_filter()) {
        return -EPERM;
    }
    __atomic_store_n(&wiped->service_thread, STARTING, __ATOMIC_RELEASE);
    int error = ptreclaim_service_start(serve, wiped);
    if (error) {
        __atomic_store_n(&wiped->service_thread, 0, __ATOMIC_RELEASE);
    }
    return error;
}

static int start(struct ptreclaim_wiped_on_fork *wiped) {
    uint64_t signals = ptreclaim_set_signal_mask(all_but_glibcs);
    int error = create_thread(wiped);
    ptreclaim_set_signal_mask(signals);
    if (error) {
        return error;
    }
    uint32_t state;
    while ((state = __atomic_load_n(&wiped->service_thread, __ATOMIC_ACQUIRE)) == STARTING) {
        ptreclaim_futex_wait(&wiped->service_thread, STARTING, -1);
    }
    return state == 0 ? -ECHILD : state == RUNNING ? 0 : -(int)(state - FAILED);
}

static int ensure_running(struct ptreclaim_wiped_on_fork *wiped) {
    uint32_t state = __atomic_load_n(&wiped->service_thread, __ATOMIC_ACQUIRE);
    if (state == RUNNING) {
        return 0;
    }
    return state > FAILED ? -(int)(state - FAILED) : start(wiped);
}

// ---- the call ---------------------------------------------------------------------------------

/// Posts a job to the thread, which is started where there is none.
static int post(struct ptreclaim_wiped_on_fork *wiped) {
    for (;;) {
        int error = ensure_running(wiped);
        if (error) {
            return error;
        }
        __atomic_store_n(&wiped->service_answer, WAITING, __ATOMIC_RELAXED);
        uint32_t request = IDLE;
        if (__atomic_compare_exchange_n(
                &wiped->service_request, &request, POSTED, false, __ATOMIC_RELEASE,
                __ATOMIC_ACQUIRE)) {
            return 0;
        }
        if (request != LEFT) {
            // Zero: a signal handler has forked since the thread was seen running, and we are its
            // child, to whom nobody would answer.
            return -ECHILD;
        }
        __atomic_store_n(&wiped->service_thread, 0, __ATOMIC_RELEASE);
    }
}

int ptreclaim_service_run(
    void (*job)(void *context, struct ptreclaim_service *service), void *context) {
    struct ptreclaim_live_state *state = ptreclaim_live_state();
    int error = ptreclaim_map_wiped_on_fork(state);
    if (error) {
        return error;
    }
    struct ptreclaim_wiped_on_fork *wiped = state->wiped_on_fork;
    lock(&wiped->service_lock);
    current_job = job;
    current_context = context;
    error = post(wiped);
    if (!error) {
        ptreclaim_futex_wake(&wiped->service_request, 1);
        while (__atomic_load_n(&wiped->service_answer, __ATOMIC_ACQUIRE) == WAITING) {
            ptreclaim_futex_wait(&wiped->service_answer, WAITING, -1);
        }
        // Zero in the child of a signal handler that forked since the job was posted.
        if (__atomic_load_n(&wiped->service_answer, __ATOMIC_ACQUIRE) != ANSWERED) {
            return -ECHILD;
        }
    }
    if (error == -ECHILD) {
        return error; // the lock of the child is free already
    }
    unlock(&wiped->service_lock);
    return error;
}

int ptreclaim_service_userfaultfd(struct ptreclaim_service *service) {
    if (service->userfaultfd >= 0) {
        return service->userfaultfd;
    }
    if (service->has_tried_userfaultfd) {
        return -EPERM;
    }
    service->has_tried_userfaultfd = true;
    const bool is_forbidden = !service->is_probed && ptreclaim_has_seccomp_filter();
    service->userfaultfd = is_forbidden ? -EPERM : ptreclaim_open_userfaultfd();
    return service->userfaultfd;
}
