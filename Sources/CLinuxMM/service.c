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

/// Without the signals of glibc itself: setuid waits for every thread to take number 33.
static const uint64_t all_but_glibcs = ~(3ull << 31);

enum { IDLE = 1, POSTED = 2 };               // service_request
enum { WAITING = 1, ANSWERED = 2 };          // service_answer
enum { STARTING = 1, RUNNING = 2, FAILED = 3 }; // service_thread; FAILED + errno

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

static void *serve(void *argument) {
    struct ptreclaim_wiped_on_fork *wiped = argument;
    ptreclaim_set_signal_mask(all_but_glibcs);
    ptreclaim_syscall(SYS_prctl, PR_SET_NAME, (long)"ptreclaim", 0, 0, 0, 0);
    int error = take_own_descriptor_table();
    struct ptreclaim_service service = {.pagemap = -1, .maps = -1, .userfaultfd = -1};
    __atomic_store_n(&wiped->service_request, IDLE, __ATOMIC_RELAXED);
    __atomic_store_n(
        &wiped->service_thread, error ? FAILED + (uint32_t)-error : RUNNING, __ATOMIC_RELEASE);
    ptreclaim_futex_wake(&wiped->service_thread, INT32_MAX);
    while (!error) {
        while (__atomic_load_n(&wiped->service_request, __ATOMIC_ACQUIRE) != POSTED) {
            ptreclaim_futex_wait(&wiped->service_request, IDLE, -1);
        }
        __atomic_store_n(&wiped->service_request, IDLE, __ATOMIC_RELAXED);
        // What a job could not open may be to be had now.
        if (service.pagemap < 0) {
            service.pagemap = ptreclaim_open_self_pagemap();
        }
        if (service.maps < 0) {
            service.maps = ptreclaim_open_self_maps();
        }
        service.has_tried_userfaultfd = false;
        current_job(current_context, &service);
        __atomic_store_n(&wiped->service_answer, ANSWERED, __ATOMIC_RELEASE);
        ptreclaim_futex_wake(&wiped->service_answer, 1);
    }
    return 0;
}

/// A stack between guards, so that it is a VMA of its own, smaller than a span. Its first and its
/// last page are touched: the spans that it lies in are never all none, and so never fenced.
static void *map_stack(size_t byte_count) {
    static void *stack; // a child of fork uses the place again
    if (stack) {
        return stack;
    }
    const size_t guard = 4096;
    long address = ptreclaim_mmap(
        0, byte_count + 2 * guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address < 0) {
        return 0;
    }
    char *lowest = (char *)address + guard;
    if (ptreclaim_syscall(
            SYS_mprotect, (long)lowest, (long)byte_count, PROT_READ | PROT_WRITE, 0, 0, 0)
        < 0) {
        ptreclaim_munmap((uintptr_t)address, byte_count + 2 * guard);
        return 0;
    }
    *(volatile char *)lowest = 0;
    *(volatile char *)(lowest + byte_count - 1) = 0;
    stack = lowest;
    return stack;
}

static size_t stack_byte_count(void) {
    long least = sysconf(_SC_THREAD_STACK_MIN);
    size_t count = (256 << 10) + (least > 0 ? (size_t)least : 0);
    return (count + 4095) & ~(size_t)4095;
}

/// With signals blocked: a handler that forks here would leave a child that takes what we have
/// begun for its own, or meet the lock of pthread_atfork.
static int create_thread(struct ptreclaim_wiped_on_fork *wiped) {
    // Under a filter there is no fence to be had, and a start might be what it kills for.
    if (ptreclaim_has_seccomp_filter()) {
        return -EPERM;
    }
    size_t byte_count = stack_byte_count();
    void *stack = map_stack(byte_count);
    if (!stack) {
        return -ENOMEM;
    }
    int error = ptreclaim_install_fork_gate();
    if (error) {
        return error;
    }
    pthread_attr_t attributes;
    error = pthread_attr_init(&attributes);
    if (error) {
        return -error;
    }
    pthread_attr_setstack(&attributes, stack, byte_count);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    __atomic_store_n(&wiped->service_thread, STARTING, __ATOMIC_RELEASE);
    pthread_t thread;
    error = pthread_create(&thread, &attributes, serve, wiped);
    pthread_attr_destroy(&attributes);
    if (error) {
        __atomic_store_n(&wiped->service_thread, 0, __ATOMIC_RELEASE);
    }
    return -error;
}

static int start(struct ptreclaim_wiped_on_fork *wiped) {
    // The thread is born with every signal blocked: the application's handlers are not for it.
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

int ptreclaim_service_run(
    void (*job)(void *context, struct ptreclaim_service *service), void *context) {
    struct ptreclaim_live_state *state = ptreclaim_live_state();
    int error = ptreclaim_map_wiped_on_fork(state);
    if (error) {
        return error;
    }
    struct ptreclaim_wiped_on_fork *wiped = state->wiped_on_fork;
    lock(&wiped->service_lock);
    error = ensure_running(wiped);
    if (!error) {
        current_job = job;
        current_context = context;
        __atomic_store_n(&wiped->service_answer, WAITING, __ATOMIC_SEQ_CST);
        __atomic_store_n(&wiped->service_request, POSTED, __ATOMIC_RELEASE);
        // A signal handler may have forked since the thread was seen running: in its child nobody
        // will answer. Had it forked after WAITING was stored, that would be gone, too.
        if (__atomic_load_n(&wiped->service_thread, __ATOMIC_SEQ_CST) != RUNNING) {
            return -ECHILD;
        }
        ptreclaim_futex_wake(&wiped->service_request, 1);
        while (__atomic_load_n(&wiped->service_answer, __ATOMIC_ACQUIRE) == WAITING) {
            ptreclaim_futex_wait(&wiped->service_answer, WAITING, -1);
        }
        // Zero in the child of a signal handler that forked while we waited.
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
    service->userfaultfd = ptreclaim_has_seccomp_filter() ? -EPERM : ptreclaim_open_userfaultfd();
    return service->userfaultfd;
}
