// SPDX-License-Identifier: Apache-2.0

#include "service_thread.h"

#include "candidates.h"
#include "core.h"
#include "fence.h"
#include "layout.h"
#include "linux_mm.h"
#include "ptreclaim.h"
#include "watch.h"

#include <time.h>

static const uintptr_t top = (uintptr_t)1 << 47;
static const uint64_t span_bytes = 2 << 20, longest_sleep = 1000000000;
enum { MOST_RUNS = 4096, MOST_FENCED = 64 };

// Fences longer than this are made by others who hold the mmap lock: less is fenced at once then.
static const uint64_t long_fence_ns = 1000000, short_fence_ns = 250000;

static struct ptreclaim_wiped_on_fork *wiped(void) {
    return ptreclaim_live_state()->wiped_on_fork;
}

static void max_counter(uint64_t *counter, uint64_t value) {
    if (value > __atomic_load_n(counter, __ATOMIC_RELAXED)) {
        __atomic_store_n(counter, value, __ATOMIC_RELAXED); // the service thread alone writes it
    }
}

// ---- passes -----------------------------------------------------------------------------------

/// What the service thread knows from one pass to the next.
struct reclaimer {
    struct ptreclaim_service service;
    struct ptreclaim_watch watch;
    struct ptreclaim_stats_page *stats;
    long filters_at_start;
    uint32_t longest_fenced_run;
    uint64_t pause_ns;
    uint64_t earliest_ns; // of the next pass: the budget
    // A sweep over the whole address space, in one or more passes.
    uintptr_t sweep_at;
    uint64_t sweep_empty, sweep_freed;
    uint32_t vain_sweeps; // the last ones, that freed nothing
    bool is_above_watermark;
    // Candidates that have been taken and not been looked at yet.
    struct ptreclaim_candidates *runs;
    size_t run_count, next_run;
};

// Of this process where wiped_on_fork->reclaimer says so. Not on the service thread's stack: the watchdog
// still looks at its part when that thread has left.
static struct reclaimer the_reclaimer;

static struct ptreclaim_pass begin_pass(const struct reclaimer *us) {
    return (struct ptreclaim_pass){
        .mark_mask = ptreclaim_terms.mark_mask,
        .mark_wanted = ptreclaim_terms.mark_wanted,
        .most_tables = ptreclaim_terms.most_tables,
        .deadline_ns = ptreclaim_monotonic_nanoseconds() + ptreclaim_terms.budget_ns,
        .longest_fenced_run = us->longest_fenced_run,
        .frees = true,
        .is_immediate = true,
    };
}

static void count_kept(struct ptreclaim_stats_page *stats, const struct ptreclaim_pass *pass) {
    for (int i = 0; i < PTRECLAIM_PASS_REASONS; i++) {
        if (pass->kept[i]) {
            ptreclaim_count(&stats->kept[i], pass->kept[i]);
        }
    }
}

/// What cannot be had now may be to be had at the next pass: procfs, a descriptor.
static bool serve(struct reclaimer *us, struct ptreclaim_pass *pass) {
    const bool is_done = ptreclaim_core_serve(&us->service, pass) == 0;
    ptreclaim_count(&us->stats->tables_looked_at, pass->tables_looked_at);
    ptreclaim_count(&us->stats->tables_freed, pass->tables_freed);
    count_kept(us->stats, pass);
    return is_done;
}

/// Goes on with the sweep. Returns whether it came to its end.
static bool sweep(struct reclaimer *us) {
    struct ptreclaim_pass pass = begin_pass(us);
    pass.start = us->sweep_at;
    pass.end = top;
    pass.frees = us->is_above_watermark;
    pass.is_immediate = false;
    if (!serve(us, &pass)) {
        return false;
    }
    if (!pass.frees) {
        ptreclaim_count(&us->stats->passes_below_watermark, 1);
    }
    us->sweep_empty += pass.tables_empty;
    us->sweep_freed += pass.tables_freed;
    us->sweep_at = pass.resume;
    if (pass.resume) {
        ptreclaim_count(&us->stats->passes_cut_short, 1);
    }
    return pass.resume == 0;
}

static void scan(struct reclaimer *us) {
    if (!sweep(us)) {
        us->pause_ns = ptreclaim_terms.delay_ns;
        return;
    }
    const uint64_t empty = us->sweep_empty, left = empty - us->sweep_freed;
    __atomic_store_n(&us->stats->tables_empty_now, left, __ATOMIC_RELAXED);
    if (empty >= ptreclaim_terms.watermark_tables && empty > 0) {
        us->is_above_watermark = true;
    } else if (left == 0) {
        us->is_above_watermark = false;
    }
    // Nothing to free, or nothing that can be freed: a longer pause, up to 16 times.
    us->vain_sweeps = us->sweep_freed ? 0 : us->vain_sweeps + 1;
    const bool is_idle =
        us->is_above_watermark ? us->vain_sweeps > 2 : empty < ptreclaim_terms.watermark_tables;
    if (!is_idle) {
        us->pause_ns = ptreclaim_terms.delay_ns;
    } else if (us->pause_ns < 16 * ptreclaim_terms.delay_ns) {
        us->pause_ns *= 2;
    }
    us->sweep_empty = us->sweep_freed = 0;
}

/// At the next pass.
static void look_again_at(const struct ptreclaim_candidates *run) {
    struct ptreclaim_wiped_on_fork *ours = wiped();
    if (!ptreclaim_candidates_add(run->first, run->count)) {
        __atomic_store_n(&ours->has_lost_candidates, 1, __ATOMIC_SEQ_CST);
    }
    __atomic_store_n(&ours->has_candidates, 1, __ATOMIC_SEQ_CST);
}

static void look_at_candidates(struct reclaimer *us) {
    struct ptreclaim_wiped_on_fork *ours = wiped();
    if (us->next_run == us->run_count) {
        // Not where a pass goes on with what an earlier one left: what was put down since still waits.
        __atomic_store_n(&ours->has_candidates, 0, __ATOMIC_SEQ_CST);
        bool has_missed = __atomic_exchange_n(&ours->has_lost_candidates, 0, __ATOMIC_RELAXED);
        us->run_count = ptreclaim_candidates_take(us->runs, MOST_RUNS, &has_missed);
        us->next_run = 0;
        if (has_missed) {
            // Some are not known any more: everywhere, then.
            us->runs[0] = (struct ptreclaim_candidates){0, top / span_bytes};
            us->run_count = 1;
        }
    }
    struct ptreclaim_pass pass = begin_pass(us);
    const uint64_t deadline = pass.deadline_ns;
    uint64_t looked_at = 0;
    while (us->next_run < us->run_count && looked_at < ptreclaim_terms.most_tables
           && ptreclaim_monotonic_nanoseconds() < deadline) {
        struct ptreclaim_candidates *run = &us->runs[us->next_run];
        pass = begin_pass(us);
        pass.deadline_ns = deadline;
        pass.start = run->first * span_bytes;
        pass.end = (run->first + run->count) * span_bytes;
        if (!serve(us, &pass)) {
            break;
        }
        looked_at += pass.tables_looked_at;
        if (pass.kept[PTRECLAIM_KEPT_FORKING]) {
            look_again_at(run); // a fork is soon over, and no other purge may come
        }
        if (pass.resume) {
            const uint64_t done = pass.resume / span_bytes - run->first;
            run->first += done;
            run->count -= done;
            break;
        }
        us->next_run++;
    }
    if (us->next_run < us->run_count) {
        ptreclaim_count(&us->stats->passes_cut_short, 1);
    }
}

/// What a thread waits for: ptreclaim_advise(NOW).
static bool answer_waiting(struct reclaimer *us) {
    struct ptreclaim_wiped_on_fork *ours = wiped();
    if (__atomic_load_n(&ours->now, __ATOMIC_ACQUIRE) != ASKED) {
        return false;
    }
    struct ptreclaim_pass pass = begin_pass(us);
    pass.start = ptreclaim_now.start;
    pass.end = ptreclaim_now.end;
    pass.most_tables = UINT64_MAX;
    pass.deadline_ns = UINT64_MAX;
    (void)serve(us, &pass);
    uint32_t asked = ASKED;
    if (__atomic_compare_exchange_n(
            &ours->now, &asked, ANSWERED, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        ptreclaim_futex_wake(&ours->now, INT32_MAX);
    }
    return true;
}

/// Less at once where fences have become long: somebody else holds the mmap lock.
static void adapt(struct reclaimer *us) {
    struct ptreclaim_fences *fences = &us->service.fences;
    if (fences->longest_ns > long_fence_ns) {
        ptreclaim_count(&us->stats->back_offs, 1);
        us->longest_fenced_run = us->longest_fenced_run > 1 ? us->longest_fenced_run / 2 : 1;
        us->pause_ns = us->pause_ns < 16 * ptreclaim_terms.delay_ns ? 2 * us->pause_ns : us->pause_ns;
    } else if (fences->count && fences->longest_ns < short_fence_ns) {
        us->longest_fenced_run =
            us->longest_fenced_run < MOST_FENCED ? us->longest_fenced_run * 2 : MOST_FENCED;
        if (ptreclaim_terms.follows_purges) {
            us->pause_ns = us->pause_ns / 2 > ptreclaim_terms.delay_ns ? us->pause_ns / 2 : ptreclaim_terms.delay_ns;
        }
    }
}

static void count_fences(struct reclaimer *us) {
    struct ptreclaim_fences *fences = &us->service.fences;
    struct ptreclaim_stats_page *stats = us->stats;
    ptreclaim_count(&stats->fences, fences->count);
    ptreclaim_count(&stats->fences_met, fences->met_count);
    ptreclaim_count(&stats->fences_met_ns, fences->met_ns);
    max_counter(&stats->fence_longest_ns, fences->longest_ns);
    for (int i = 0; i < PTRECLAIM_FENCE_BUCKETS; i++) {
        if (fences->met_by_microseconds[i]) {
            ptreclaim_count(&stats->fences_met_by_microseconds[i], fences->met_by_microseconds[i]);
        }
    }
    *fences = (struct ptreclaim_fences){0};
    const struct ptreclaim_layout_waits waits = ptreclaim_layout_waits();
    __atomic_store_n(&stats->layout_waits, waits.count, __ATOMIC_RELAXED);
    __atomic_store_n(&stats->layout_longest_ns, waits.longest_ns, __ATOMIC_RELAXED);
}

static void count_time(struct ptreclaim_stats_page *stats) {
    struct timespec used = {0};
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    __atomic_store_n(
        &stats->service_ns, (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec,
        __ATOMIC_RELAXED);
}

/// One pass over everything, for whoever asks through the stats page.
static void answer(struct reclaimer *us, uint32_t request) {
    struct ptreclaim_control *control = &us->stats->control;
    struct ptreclaim_pass pass = begin_pass(us);
    const uint64_t began = ptreclaim_monotonic_nanoseconds();
    pass.end = top;
    control->vm_pte_before = ptreclaim_self_vm_pte();
    control->pass_errno = (uint32_t)ptreclaim_core_reclaim_whole(&us->service, &pass);
    control->vm_pte_after = ptreclaim_self_vm_pte();
    control->tables_looked_at = pass.tables_looked_at;
    control->tables_freed = pass.tables_freed;
    for (int i = 0; i < PTRECLAIM_PASS_REASONS; i++) {
        control->kept[i] = pass.kept[i];
    }
    control->duration_ns = ptreclaim_monotonic_nanoseconds() - began;
    ptreclaim_count(&us->stats->tables_looked_at, pass.tables_looked_at);
    ptreclaim_count(&us->stats->tables_freed, pass.tables_freed);
    count_kept(us->stats, &pass);
    __atomic_store_n(&control->answers, request, __ATOMIC_RELEASE);
    const int wake = 1;
    ptreclaim_syscall(SYS_futex, (long)&control->answers, wake, INT32_MAX, 0, 0, 0);
}

// ---- the thread -------------------------------------------------------------------------------

/// Sleeps until the nudges are others than `seen`, at most `nanoseconds`.
static void sleep_until_nudged(
    struct ptreclaim_stats_page *stats, uint32_t seen, uint64_t nanoseconds) {
    const int wait = 0; // not private
    struct timespec limit = {
        (time_t)(nanoseconds / 1000000000), (long)(nanoseconds % 1000000000)};
    ptreclaim_syscall(
        SYS_futex, (long)&stats->control.nudges, wait, seen, (long)&limit, 0, 0);
}

/// Whether no thread but ours lives. A process whose own threads have all gone ends with its last
/// thread, and must not be kept alive by ours.
static bool is_alone(const struct reclaimer *us) {
    uint32_t threads = 0;
    // Ours are two; the first of all stays as a zombie when it leaves.
    return ptreclaim_is_main_thread_gone(us->service.process_status, &threads) && threads <= 3;
}

static bool must_leave(void) {
    return !ptreclaim_terms.is_enabled || __atomic_load_n(&wiped()->must_leave, __ATOMIC_ACQUIRE);
}

/// Whether there is a filter that was not there, and was not tried, at start: one that came with
/// SECCOMP_FILTER_FLAG_TSYNC by a system call that was not seen. From here on nothing is tried.
static bool is_filtered(struct reclaimer *us) {
    const long now = ptreclaim_seccomp_filter_count(us->service.thread_status);
    if (now == us->filters_at_start) {
        return false;
    }
    ptreclaim_refuse(&us->stats->refused_seccomp);
    return true;
}

/// Opens what stays open; after chroot, or without procfs, it could not be opened any more. What a
/// process had at start it may have lost: a child that is nobody's has no fence to be had.
static uint64_t *prepare(struct reclaimer *us) {
    struct ptreclaim_service *service = &us->service;
    service->process_status = ptreclaim_open("/proc/self/status", O_RDONLY);
    service->thread_status = ptreclaim_open("/proc/thread-self/status", O_RDONLY);
    us->filters_at_start = ptreclaim_seccomp_filter_count(service->thread_status);
    ptreclaim_service_begin_job(service);
    const int userfaultfd = ptreclaim_service_userfaultfd(service);
    if (userfaultfd == -EPERM || userfaultfd == -EACCES || userfaultfd == -ENOSYS) {
        return &us->stats->refused_no_userfaultfd;
    }
    if (service->pagemap == -EACCES || service->pagemap == -ENOENT) {
        return &us->stats->refused_no_pagemap_scan;
    }
    return ptreclaim_watch_start(&us->watch) ? &us->stats->refused_no_service_thread : NULL;
}

static void pass_once(struct reclaimer *us) {
    struct ptreclaim_control *control = &us->stats->control;
    const uint32_t request = __atomic_load_n(&control->requests, __ATOMIC_ACQUIRE);
    const bool is_asked = request != __atomic_load_n(&control->answers, __ATOMIC_RELAXED);
    ptreclaim_service_begin_job(&us->service);
    (void)ptreclaim_service_userfaultfd(&us->service);
    ptreclaim_watch_wake(&us->watch);
    if (is_asked) {
        answer(us, request);
    } else if (answer_waiting(us)) {
        // Done: the next pass comes when it would have come.
    } else if (!__atomic_load_n(&control->is_off, __ATOMIC_RELAXED)) {
        ptreclaim_count(&us->stats->passes, 1);
        if (ptreclaim_terms.follows_purges) {
            look_at_candidates(us);
        } else {
            scan(us);
        }
    }
    ptreclaim_watch_rest(&us->watch);
    adapt(us);
    count_fences(us);
    count_time(us->stats);
    const uint64_t opened = __atomic_load_n(&us->watch.opened_count, __ATOMIC_RELAXED);
    if (opened > us->stats->fences_opened) {
        us->stats->fences_opened = opened;
        ptreclaim_refuse(&us->stats->refused_fence_opened);
    }
}

/// Sleeps until there is something to do. What is asked for is done at once, the rest after a while.
static void wait_for_work(struct reclaimer *us) {
    const uint64_t start = ptreclaim_monotonic_nanoseconds();
    uint64_t since = start; // when there came to be something to do
    bool has_work = !ptreclaim_terms.follows_purges || us->next_run < us->run_count;
    for (;;) {
        // Once more: in a child another thread may have been making the page.
        us->stats = ptreclaim_stats();
        struct ptreclaim_control *control = &us->stats->control;
        const uint32_t seen = __atomic_load_n(&control->nudges, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&control->requests, __ATOMIC_ACQUIRE)
                != __atomic_load_n(&control->answers, __ATOMIC_RELAXED)
            || __atomic_load_n(&wiped()->now, __ATOMIC_ACQUIRE) == ASKED || must_leave()) {
            return;
        }
        const uint64_t now = ptreclaim_monotonic_nanoseconds();
        if (!has_work && __atomic_load_n(&wiped()->has_candidates, __ATOMIC_SEQ_CST)) {
            has_work = true;
            since = now;
        }
        const uint64_t waited = now - since;
        uint64_t rest = waited < us->pause_ns ? us->pause_ns - waited : 0;
        if (now < us->earliest_ns && rest < us->earliest_ns - now) {
            rest = us->earliest_ns - now;
        }
        if (has_work && !rest) {
            return;
        }
        // Every second it looks whether it is the last thread, however long a pause is.
        const bool is_long = !has_work || rest > longest_sleep;
        sleep_until_nudged(us->stats, seen, is_long ? longest_sleep : rest);
        if (is_long && is_alone(us)) {
            return;
        }
    }
}

void *ptreclaim_service_thread(void *argument) {
    struct ptreclaim_wiped_on_fork *ours = argument;
    struct reclaimer *us = &the_reclaimer;
    *us = (struct reclaimer){
        .longest_fenced_run = MOST_FENCED,
        .pause_ns = ptreclaim_terms.delay_ns,
        .watch = {.thread_id = &ours->watch_thread_id}};
    __atomic_store_n(&ours->thread_id, ptreclaim_gettid(), __ATOMIC_RELEASE);
    us->stats = ptreclaim_stats();
    const int error = ptreclaim_service_enter(&us->service);
    static struct ptreclaim_candidates runs[MOST_RUNS];
    us->runs = runs;
    us->service.is_probed = true;
    us->service.must_not_wait = true;
    us->service.watch = &us->watch;
    us->is_above_watermark = ptreclaim_terms.watermark_tables == 0;
    uint64_t *refusal = error ? &us->stats->refused_no_service_thread : prepare(us);
    if (refusal) {
        ptreclaim_refuse(refusal);
        __atomic_store_n(&ours->reclaimer, FAILED, __ATOMIC_RELEASE);
        return NULL;
    }
    __atomic_store_n(&ours->reclaimer, RUNNING, __ATOMIC_RELEASE);
    while (!must_leave() && !us->stats->fences_opened) {
        wait_for_work(us);
        if (must_leave() || is_alone(us) || is_filtered(us)) {
            break;
        }
        const uint64_t start = ptreclaim_monotonic_nanoseconds();
        pass_once(us);
        const uint64_t end = ptreclaim_monotonic_nanoseconds();
        us->earliest_ns = end + (end - start) * (100 - ptreclaim_terms.budget_percent) / ptreclaim_terms.budget_percent;
    }
    ptreclaim_watch_end(&us->watch);
    __atomic_store_n(&ours->reclaimer, FAILED, __ATOMIC_RELEASE);
    return NULL;
}
