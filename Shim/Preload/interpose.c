// SPDX-License-Identifier: Apache-2.0
//
// Who calls us: the constructor, the destructor, and the few functions of libc that are
// interposed, none of them to change what it does:
//   pthread_create            a new thread's arena gets the hooks before its first allocation
//   mmap                      tells that jemalloc mapped something outside of the hooks,
//                             so an arena may have appeared
//   epoll_wait, epoll_pwait   a thread that is about to wait puts the hooks on such arenas

#include "core.h"
#include "extent_hooks.h"
#include "jemalloc.h"
#include "line.h"
#include "options.h"
#include "stats.h"
#include "trace.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef int pthread_create_function(
    pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
typedef int epoll_wait_function(int, struct epoll_event *, int, int);
typedef int epoll_pwait_function(int, struct epoll_event *, int, int, const sigset_t *);

static pthread_create_function *real_pthread_create;
static epoll_wait_function *real_epoll_wait;
static epoll_pwait_function *real_epoll_pwait;

static struct ptreclaim_options options;
static bool active;
static long vm_pte_at_start;

static void resolve(void) {
    void *symbols[3] = {
        dlsym(RTLD_NEXT, "pthread_create"), dlsym(RTLD_NEXT, "epoll_wait"),
        dlsym(RTLD_NEXT, "epoll_pwait")};
    memcpy(&real_pthread_create, &symbols[0], sizeof(void *));
    memcpy(&real_epoll_wait, &symbols[1], sizeof(void *));
    memcpy(&real_epoll_pwait, &symbols[2], sizeof(void *));
}

// ---- threads -----------------------------------------------------------------------------------

struct thread_start {
    void *(*routine)(void *);
    void *argument;
    bool taken;
};

// What a new thread needs to know, without an allocation. A slot is free again as soon as its
// thread has read it, so only threads that are being created right now need one.
static struct thread_start starts[64];

static struct thread_start *take_start(void) {
    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
        if (!__atomic_exchange_n(&starts[i].taken, true, __ATOMIC_ACQUIRE)) {
            return &starts[i];
        }
    }
    return NULL;
}

static void *start_thread(void *slot) {
    struct thread_start start = *(struct thread_start *)slot;
    __atomic_store_n(&((struct thread_start *)slot)->taken, false, __ATOMIC_RELEASE);
    ptreclaim_jemalloc_thread_started();
    return start.routine(start.argument);
}

EXPORT int pthread_create(
    pthread_t *thread, const pthread_attr_t *attributes, void *(*routine)(void *),
    void *argument) {
    if (!real_pthread_create) {
        resolve(); // another library's constructor runs before ours
    }
    // jemalloc starts its background threads with its own locks held, and they own no arena.
    if (!active || ptreclaim_jemalloc_contains(__builtin_return_address(0))) {
        return real_pthread_create(thread, attributes, routine, argument);
    }
    ptreclaim_jemalloc_hook_expected_arenas();
    struct thread_start *start = take_start();
    if (!start) {
        PTRECLAIM_COUNT(threads_unseen, 1);
        return real_pthread_create(thread, attributes, routine, argument);
    }
    start->routine = routine;
    start->argument = argument;
    int error = real_pthread_create(thread, attributes, start_thread, start);
    if (error) {
        __atomic_store_n(&start->taken, false, __ATOMIC_RELEASE);
    }
    return error;
}

// ---- arenas that appear ------------------------------------------------------------------------

EXPORT void *
mmap(void *address, size_t byte_count, int protection, int flags, int fd, off_t offset) {
    long result =
        ptreclaim_mmap((uintptr_t)address, byte_count, protection, flags, fd, offset);
    if (active && !ptreclaim_inside_hook()
        && ptreclaim_jemalloc_contains(__builtin_return_address(0))) {
        ptreclaim_jemalloc_expect_arenas();
        if (result > 0) {
            ptreclaim_trace_event(
                PTRECLAIM_TRACE_MAP_OUTSIDE, 0, (void *)result, byte_count, 0, 0, 0);
        }
    }
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return MAP_FAILED;
    }
    return (void *)result;
}

EXPORT void *
mmap64(void *address, size_t byte_count, int protection, int flags, int fd, off_t offset)
    __attribute__((alias("mmap")));

EXPORT int epoll_wait(int epoll, struct epoll_event *events, int capacity, int timeout) {
    ptreclaim_trace_before_event();
    ptreclaim_jemalloc_hook_expected_arenas();
    if (!real_epoll_wait) {
        resolve();
    }
    return real_epoll_wait(epoll, events, capacity, timeout);
}

EXPORT int epoll_pwait(
    int epoll, struct epoll_event *events, int capacity, int timeout, const sigset_t *mask) {
    ptreclaim_trace_before_event();
    ptreclaim_jemalloc_hook_expected_arenas();
    if (!real_epoll_pwait) {
        resolve();
    }
    return real_epoll_pwait(epoll, events, capacity, timeout, mask);
}

// ---- start and end -----------------------------------------------------------------------------

static enum ptreclaim_refusal start(uint32_t *backend) {
    if (options.mode == PTRECLAIM_OPTION_MODE_OFF) {
        return PTRECLAIM_REFUSED_mode_off;
    }
    if (sysconf(_SC_PAGESIZE) != 4096) {
        return PTRECLAIM_REFUSED_unsupported_machine;
    }
    enum ptreclaim_refusal refusal = ptreclaim_jemalloc_find(options.mallctl);
    if (refusal == PTRECLAIM_ACCEPTED) {
        refusal = ptreclaim_jemalloc_check();
    }
    if (refusal != PTRECLAIM_ACCEPTED) {
        return refusal;
    }
    *backend = ptreclaim_core_probe(options.backend);
    return *backend ? PTRECLAIM_ACCEPTED : PTRECLAIM_REFUSED_no_backend;
}

static void count_refusal(enum ptreclaim_refusal refusal) {
    struct ptreclaim_stats_page *stats = ptreclaim_stats();
    uint64_t *const counters[] = {
#define X(field, text) &stats->refused_##field,
        PTRECLAIM_REFUSALS(X)
#undef X
    };
    // The application's hooks are counted where they are met, once for each arena.
    if (refusal != PTRECLAIM_ACCEPTED && refusal != PTRECLAIM_REFUSED_application_hooks) {
        ptreclaim_count(counters[refusal], 1);
    }
}

static void say_what_was_done(enum ptreclaim_refusal refusal, uint32_t backend) {
    static const char *const reasons[] = {
#define X(field, text) text,
        PTRECLAIM_REFUSALS(X)
#undef X
    };
    static const char *const backends[] = {"none", "dontneed", "remap", "mapfixed"};
    struct line line = line_begin();
    if (refusal == PTRECLAIM_ACCEPTED) {
        line_text(&line, "hooks on jemalloc ");
        line_text(&line, ptreclaim_jemalloc_version());
        line_text(&line, ", tables freed by ");
        line_text(&line, backends[backend]);
    } else {
        line_text(&line, "does nothing: ");
        line_text(&line, reasons[refusal]);
    }
    line_end(&line);
}

__attribute__((constructor)) static void enter(void) {
    const int saved_errno = errno;
    if (!real_pthread_create) {
        resolve();
    }
    options = ptreclaim_options_read();
    uint32_t backend = 0;
    enum ptreclaim_refusal refusal = start(&backend);
    // A process that was switched off, or has no jemalloc, pays for nothing.
    if (refusal != PTRECLAIM_REFUSED_mode_off && refusal != PTRECLAIM_REFUSED_no_jemalloc) {
        ptreclaim_stats_start(
            refusal == PTRECLAIM_ACCEPTED ? PTRECLAIM_MODE_HOOKS : PTRECLAIM_MODE_OFF, backend);
    }
    if (refusal == PTRECLAIM_ACCEPTED && options.trace) {
        ptreclaim_trace_start(options.trace, options.trace_mb, PTRECLAIM_MODE_HOOKS, backend);
    }
    if (refusal == PTRECLAIM_ACCEPTED) {
        refusal = ptreclaim_jemalloc_install(&ptreclaim_hooks);
        active = refusal == PTRECLAIM_ACCEPTED;
        if (!active) {
            ptreclaim_stats()->mode = PTRECLAIM_MODE_OFF;
        }
    }
    count_refusal(refusal);
    if (options.verbose) {
        say_what_was_done(refusal, backend);
    }
    if (options.report && active) {
        vm_pte_at_start = ptreclaim_self_vm_pte();
        ptreclaim_hooks_sample_peak();
    }
    errno = saved_errno;
}

static void line_kib(struct line *line, const char *label, long bytes) {
    line_text(line, label);
    if (bytes < 0) {
        line_text(line, "unknown");
        return;
    }
    line_number(line, (uint64_t)bytes / 1024);
    line_text(line, " kB");
}

// Hooks stay in place: threads of jemalloc's own may still purge.
__attribute__((destructor)) static void leave(void) {
    if (ptreclaim_tracing()) {
        ptreclaim_trace_sample();
    }
    if (!options.report || !active) {
        return;
    }
    const long now = ptreclaim_self_vm_pte();
    long peak = (long)ptreclaim_hooks_peak();
    peak = peak < now ? now : peak;
    peak = peak < vm_pte_at_start ? vm_pte_at_start : peak;
    struct line line = line_begin();
    line_kib(&line, "VmPTE at start ", vm_pte_at_start);
    line_kib(&line, ", peak seen ", peak);
    line_kib(&line, ", now ", now);
    line_text(&line, "; ");
    line_number(&line, ptreclaim_stats()->spans_zapped);
    line_text(&line, " spans zapped in ");
    line_number(&line, ptreclaim_stats()->decommits);
    line_text(&line, " decommits");
    line_end(&line);
}
