// SPDX-License-Identifier: Apache-2.0
//
// Who calls us: the constructor, the destructor, and the functions of libc in which a thread holds no
// lock of an allocator, interposed to do there what may allocate (mappings.c has the others):
//   pthread_create            a new thread's arena gets the hooks before its first allocation
//   epoll_wait, epoll_pwait   a thread that is about to wait puts the hooks on arenas that have
//                             appeared
//   all of them               start the service thread where a mode needs one, in a forked child

#include "core.h"
#include "extent_hooks.h"
#include "interpose.h"
#include "jemalloc.h"
#include "layout.h"
#include "line.h"
#include "linux_mm.h"
#include "options.h"
#include "probe.h"
#include "reclaimer.h"
#include "single.h"
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
static bool hooks_active;
static bool is_reported;
static long vm_pte_at_start;

bool ptreclaim_hooks_active(void) { return hooks_active; }

extern const char ours_start[] __asm__("__ehdr_start") __attribute__((visibility("hidden")));
extern const char ours_end[] __asm__("_end") __attribute__((visibility("hidden")));

bool ptreclaim_is_ours(const void *address) {
    return (const char *)address >= ours_start && (const char *)address < ours_end;
}

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
    bool is_counted;
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
    if (start.is_counted) {
        ptreclaim_thread_has_started();
    }
    ptreclaim_jemalloc_thread_started();
    return start.routine(start.argument);
}

EXPORT int pthread_create(
    pthread_t *thread, const pthread_attr_t *attributes, void *(*routine)(void *),
    void *argument) {
    if (!real_pthread_create) {
        resolve(); // another library's constructor runs before ours
    }
    const void *caller = __builtin_return_address(0);
    if (ptreclaim_is_ours(caller)) {
        return real_pthread_create(thread, attributes, routine, argument);
    }
    // jemalloc starts its background threads with its own locks held, and they own no arena.
    if (ptreclaim_jemalloc_contains(caller)) {
        return real_pthread_create(thread, attributes, routine, argument);
    }
    ptreclaim_reclaimer_start_if_needed();
    const bool is_counted = ptreclaim_reclaimer_is_enabled();
    if (!hooks_active && !is_counted) {
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
    start->is_counted = is_counted;
    if (is_counted) {
        ptreclaim_thread_starts();
    }
    int error = real_pthread_create(thread, attributes, start_thread, start);
    if (error) {
        if (is_counted) {
            ptreclaim_thread_has_not_started();
        }
        __atomic_store_n(&start->taken, false, __ATOMIC_RELEASE);
    }
    return error;
}

// ---- threads that are about to wait ------------------------------------------------------------

static void before_waiting(void) {
    ptreclaim_trace_before_event();
    ptreclaim_jemalloc_hook_expected_arenas();
    ptreclaim_reclaimer_start_if_needed();
}

EXPORT int epoll_wait(int epoll, struct epoll_event *events, int capacity, int timeout) {
    before_waiting();
    if (!real_epoll_wait) {
        resolve();
    }
    return real_epoll_wait(epoll, events, capacity, timeout);
}

EXPORT int epoll_pwait(
    int epoll, struct epoll_event *events, int capacity, int timeout, const sigset_t *mask) {
    before_waiting();
    if (!real_epoll_pwait) {
        resolve();
    }
    return real_epoll_pwait(epoll, events, capacity, timeout, mask);
}

// ---- start and end -----------------------------------------------------------------------------

/// What the mode comes to in this process.
struct plan {
    enum ptreclaim_refusal hooks, fence; // PTRECLAIM_ACCEPTED, or why not; mode_off: not asked for
    uint32_t backend;                    // of the hooks
};

static int probe_backend(void) { return (int)ptreclaim_core_probe(options.backend); }

static enum ptreclaim_refusal plan_hooks(uint32_t *backend) {
    enum ptreclaim_refusal refusal = ptreclaim_jemalloc_find(options.mallctl);
    if (refusal == PTRECLAIM_ACCEPTED) {
        refusal = ptreclaim_jemalloc_check();
    }
    if (refusal != PTRECLAIM_ACCEPTED) {
        return refusal;
    }
    // A filter might kill for a look at tables.
    if (ptreclaim_has_seccomp_filter() && ptreclaim_in_child(probe_backend) < 0) {
        return PTRECLAIM_REFUSED_seccomp;
    }
    *backend = ptreclaim_core_probe(options.backend);
    return *backend ? PTRECLAIM_ACCEPTED : PTRECLAIM_REFUSED_no_backend;
}

static enum ptreclaim_refusal plan_fence(void) {
    if (ptreclaim_reclaimer_has_given_way()) {
        return PTRECLAIM_REFUSED_application_userfaultfd;
    }
    switch (ptreclaim_probe_fence()) {
    case PTRECLAIM_FENCE_POSSIBLE:
        // What is mapped over would lose what mprotect, mlock or madvise say meanwhile.
        return ptreclaim_core_dontneed_frees_tables() ? PTRECLAIM_ACCEPTED
                                                      : PTRECLAIM_REFUSED_fence_backend;
    case PTRECLAIM_FENCE_NO_USERFAULTFD: return PTRECLAIM_REFUSED_no_userfaultfd;
    case PTRECLAIM_FENCE_NO_PAGEMAP_SCAN: return PTRECLAIM_REFUSED_no_pagemap_scan;
    case PTRECLAIM_FENCE_SECCOMP: break;
    }
    return PTRECLAIM_REFUSED_seccomp;
}

static struct plan make_plan(void) {
    struct plan plan = {PTRECLAIM_REFUSED_mode_off, PTRECLAIM_REFUSED_mode_off, 0};
    if (options.mode == PTRECLAIM_OPTION_MODE_OFF) {
        return plan;
    }
    if (sysconf(_SC_PAGESIZE) != 4096) {
        plan.hooks = PTRECLAIM_REFUSED_unsupported_machine;
        return plan;
    }
    switch (options.mode) {
    case PTRECLAIM_OPTION_MODE_MADVISE:
    case PTRECLAIM_OPTION_MODE_SCAN: plan.fence = plan_fence(); break;
    case PTRECLAIM_OPTION_MODE_HOOKS_AND_SCAN: plan.fence = plan_fence(); // fall through
    default: plan.hooks = plan_hooks(&plan.backend);
    }
    return plan;
}

static uint32_t mode_of(const struct plan *plan) {
    const bool has_hooks = plan->hooks == PTRECLAIM_ACCEPTED;
    if (plan->fence != PTRECLAIM_ACCEPTED) {
        return has_hooks ? PTRECLAIM_MODE_HOOKS : PTRECLAIM_MODE_OFF;
    }
    return has_hooks                                        ? PTRECLAIM_MODE_HOOKS_AND_SCAN
           : options.mode == PTRECLAIM_OPTION_MODE_MADVISE ? PTRECLAIM_MODE_MADVISE
                                                            : PTRECLAIM_MODE_SCAN;
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

static void line_reason(struct line *line, enum ptreclaim_refusal refusal) {
    static const char *const reasons[] = {
#define X(field, text) text,
        PTRECLAIM_REFUSALS(X)
#undef X
    };
    line_text(line, reasons[refusal]);
}

static void line_hooks(struct line *line, const struct plan *plan) {
    static const char *const backends[] = {"none", "dontneed", "remap", "mapfixed"};
    line_text(line, "hooks on jemalloc ");
    line_text(line, ptreclaim_jemalloc_version());
    line_text(line, ", tables freed by ");
    line_text(line, backends[plan->backend]);
}

static void line_fence(struct line *line) {
    if (options.mode == PTRECLAIM_OPTION_MODE_MADVISE) {
        line_text(line, "looks ");
        line_number(line, options.delay_ms);
        line_text(line, " ms after each purge by madvise");
    } else {
        line_text(line, "scans every ");
        line_number(line, options.delay_ms);
        line_text(line, " ms or less often");
    }
    line_text(line, ", frees behind a fence");
}

static void say_what_was_done(const struct plan *plan) {
    struct line line = line_begin();
    const bool has_hooks = plan->hooks == PTRECLAIM_ACCEPTED;
    const bool has_fence = plan->fence == PTRECLAIM_ACCEPTED;
    if (has_hooks) {
        line_hooks(&line, plan);
    }
    if (has_fence) {
        line_text(&line, has_hooks ? "; " : "");
        line_fence(&line);
    }
    if (!has_hooks && !has_fence) {
        line_text(&line, "does nothing");
    }
    // What was asked for and is not to be had.
    const bool is_off = options.mode == PTRECLAIM_OPTION_MODE_OFF;
    if (!has_hooks && (is_off || plan->hooks != PTRECLAIM_REFUSED_mode_off)) {
        line_text(&line, has_fence ? "; no hooks: " : ": ");
        line_reason(&line, plan->hooks);
    }
    if (!has_fence && plan->fence != PTRECLAIM_REFUSED_mode_off) {
        line_text(&line, has_hooks ? "; no scan: " : ": ");
        line_reason(&line, plan->fence);
    }
    line_end(&line);
}

/// Nobody whom this process executes gets the library.
static void take_from_environment(void) {
    extern char **environ;
    static const char variable[] = "LD_PRELOAD=";
    Dl_info us;
    if (!dladdr(ours_start, &us) || !us.dli_fname) {
        return;
    }
    const size_t length = strlen(us.dli_fname);
    for (char **entry = environ; entry && *entry; entry++) {
        if (strncmp(*entry, variable, sizeof(variable) - 1) != 0) {
            continue;
        }
        char *found = strstr(*entry + sizeof(variable) - 1, us.dli_fname);
        if (found) {
            const char *rest = found + length;
            rest += strspn(rest, ": ");
            memmove(found, rest, strlen(rest) + 1);
        }
    }
}

static void start_hooks(struct plan *plan) {
    if (options.trace) {
        ptreclaim_trace_start(
            options.trace, options.trace_mb, PTRECLAIM_MODE_HOOKS, plan->backend);
    }
    plan->hooks = ptreclaim_jemalloc_install(&ptreclaim_hooks);
    hooks_active = plan->hooks == PTRECLAIM_ACCEPTED;
}

__attribute__((constructor)) static void enter(void) {
    const int saved_errno = errno;
    if (!real_pthread_create) {
        resolve();
    }
    options = ptreclaim_options_read();
    struct plan plan = make_plan();
    if (plan.fence != PTRECLAIM_ACCEPTED) {
        ptreclaim_layout_stop();
    }
    const uint32_t mode = mode_of(&plan);
    // A process that was switched off, or has no jemalloc, pays for nothing.
    const bool is_shown = mode != PTRECLAIM_MODE_OFF || plan.fence != PTRECLAIM_REFUSED_mode_off
                          || (plan.hooks != PTRECLAIM_REFUSED_mode_off
                              && plan.hooks != PTRECLAIM_REFUSED_no_jemalloc);
    if (is_shown) {
        ptreclaim_stats_start(mode, plan.backend);
    }
    if (plan.hooks == PTRECLAIM_ACCEPTED) {
        start_hooks(&plan);
    }
    if (plan.fence == PTRECLAIM_ACCEPTED) {
        ptreclaim_reclaimer_enable(&options, mode == PTRECLAIM_MODE_MADVISE);
        ptreclaim_reclaimer_start_if_needed();
    }
    if (is_shown) {
        ptreclaim_stats()->mode = mode_of(&plan);
        if (plan.hooks != PTRECLAIM_REFUSED_mode_off) {
            count_refusal(plan.hooks);
        }
        if (plan.fence != PTRECLAIM_REFUSED_mode_off) {
            count_refusal(plan.fence);
        }
    }
    if (options.verbose) {
        say_what_was_done(&plan);
    }
    if (options.report && is_shown && mode != PTRECLAIM_MODE_OFF) {
        is_reported = true;
        vm_pte_at_start = ptreclaim_self_vm_pte();
        ptreclaim_hooks_sample_peak();
    }
    if (!options.inherit) {
        take_from_environment();
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
    if (!is_reported) {
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
    const struct ptreclaim_stats_page *stats = ptreclaim_stats();
    if (hooks_active) {
        line_number(&line, stats->spans_zapped);
        line_text(&line, " spans zapped in ");
        line_number(&line, stats->decommits);
        line_text(&line, " decommits");
    }
    if (stats->mode > PTRECLAIM_MODE_HOOKS || stats->passes > 0) {
        line_text(&line, hooks_active ? "; " : "");
        line_number(&line, stats->tables_freed);
        line_text(&line, " tables freed in ");
        line_number(&line, stats->passes);
        line_text(&line, " passes");
    }
    line_end(&line);
}
