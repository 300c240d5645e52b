// SPDX-License-Identifier: Apache-2.0
//
// jemalloc's extent hooks. They return true for FAILURE.
//
// On these paths: no allocation, no lock, no dlsym, no mallctl, errno untouched (every system
// call is raw). jemalloc may hold its own mutexes (merge: the ecache's; commit: grow_mtx).

#include "extent_hooks.h"

#include "core.h"
#include "linux_mm.h"
#include "trace.h"

#include <errno.h>
#include <time.h>

static _Thread_local bool inside;
static bool sampling;
static uint64_t peak;

bool ptreclaim_inside_hook(void) { return inside; }

void ptreclaim_hooks_sample_peak(void) { sampling = true; }

uint64_t ptreclaim_hooks_peak(void) { return __atomic_load_n(&peak, __ATOMIC_RELAXED); }

static uint64_t now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); // vDSO; cannot fail, does not touch errno
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void note_peak(uint64_t event) {
    if (!sampling || event % 256 != 0) {
        return;
    }
    long bytes = ptreclaim_self_vm_pte();
    uint64_t seen = __atomic_load_n(&peak, __ATOMIC_RELAXED);
    while (bytes > 0 && (uint64_t)bytes > seen
           && !__atomic_compare_exchange_n(
               &peak, &seen, (uint64_t)bytes, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

static void count_zaps(struct ptreclaim_stats_page *stats, uint64_t zapped, uint64_t skipped) {
    if (zapped) {
        ptreclaim_count(&stats->spans_zapped, zapped);
    }
    if (skipped) {
        ptreclaim_count(&stats->spans_skipped, skipped);
    }
}

/// Switched off from outside, by `ptreclaim ctl PID off`: nothing is zapped until it is on again.
static bool is_off(const struct ptreclaim_stats_page *stats) {
    return __atomic_load_n(&stats->control.is_off, __ATOMIC_RELAXED) != 0;
}

static bool in_scope(const void *address, size_t byte_count) {
    return (uintptr_t)address + byte_count <= (uintptr_t)1 << 47;
}

/// Address space, asked for uncommitted: mapped as whole spans, so that no table is shared with
/// another mapping. Memory asked for committed is passed on as it is.
static void *hook_alloc(
    extent_hooks_t *hooks, void *new_address, size_t byte_count, size_t alignment, bool *zero,
    bool *commit, unsigned arena) {
    (void)hooks;
    ptreclaim_trace_before_event();
    struct ptreclaim_stats_page *stats = ptreclaim_stats();
    const uint64_t start = now_ns();
    ptreclaim_count(&stats->allocs, 1);
    extent_hooks_t *original = ptreclaim_default_hooks;
    size_t planned_bytes = byte_count, planned_alignment = alignment;
    void *address = NULL;
    uint8_t trace_flags = 0;
    inside = true;
    if (!*commit && !new_address
        && ptreclaim_core_plan_mapping(&planned_bytes, &planned_alignment)) {
        // jemalloc's own alloc maps PROT_NONE when told `false`; ours must be usable after a
        // `commit` that does nothing.
        bool committed = true;
        address = original->alloc(
            original, NULL, planned_bytes, planned_alignment, zero, &committed, arena);
        if (address && in_scope(address, planned_bytes)) {
            // *commit stays false: the extent belongs to nobody until jemalloc commits it.
            ptreclaim_count(&stats->aligned_allocs, 1);
            if (!ptreclaim_core_add_reserve((uintptr_t)address, byte_count)) {
                ptreclaim_count(&stats->reserves_full, 1);
                trace_flags |= PTRECLAIM_TRACE_RESERVE_UNKNOWN;
            }
        } else if (address) {
            *commit = true;
            ptreclaim_count(&stats->addresses_skipped, 1);
        }
    }
    if (!address) {
        planned_bytes = byte_count;
        bool committed = true;
        address = original->alloc(
            original, new_address, byte_count, alignment, zero, *commit ? commit : &committed,
            arena);
    }
    inside = false;
    ptreclaim_count(&stats->hook_nanoseconds, now_ns() - start);
    if (address) {
        trace_flags |= *commit ? PTRECLAIM_TRACE_COMMITTED : 0;
        ptreclaim_trace_event(
            PTRECLAIM_TRACE_MAP, trace_flags, address, byte_count, planned_bytes - byte_count, 0,
            arena);
    }
    return address;
}

static bool hook_dalloc(
    extent_hooks_t *hooks, void *address, size_t byte_count, bool committed, unsigned arena) {
    (void)hooks;
    extent_hooks_t *original = ptreclaim_default_hooks;
    if (!original->dalloc) {
        return true;
    }
    // Written down before another thread can have the addresses; but jemalloc's own hook refuses
    // every time with retain:true, before each decommit, and that is not worth a record.
    static bool refuses;
    const bool is_recorded =
        ptreclaim_tracing() && !__atomic_load_n(&refuses, __ATOMIC_RELAXED);
    if (is_recorded) {
        ptreclaim_trace_before_event();
        ptreclaim_trace_event(PTRECLAIM_TRACE_UNMAP, 0, address, byte_count, 0, 0, arena);
    }
    const bool has_failed = original->dalloc(original, address, byte_count, committed, arena);
    if (ptreclaim_tracing() && is_recorded == has_failed) {
        ptreclaim_trace_event(
            PTRECLAIM_TRACE_UNMAP, has_failed ? PTRECLAIM_TRACE_FAILED : 0, address, byte_count, 0,
            0, arena);
        __atomic_store_n(&refuses, has_failed, __ATOMIC_RELAXED);
    }
    return has_failed;
}

static void hook_destroy(
    extent_hooks_t *hooks, void *address, size_t byte_count, bool committed, unsigned arena) {
    (void)hooks;
    extent_hooks_t *original = ptreclaim_default_hooks;
    PTRECLAIM_COUNT(destroys, 1);
    ptreclaim_jemalloc_arena_destroyed(arena);
    if (original->destroy) {
        ptreclaim_trace_before_event();
        ptreclaim_trace_event(PTRECLAIM_TRACE_DESTROY, 0, address, byte_count, 0, 0, arena);
        ptreclaim_core_drop_reserve((uintptr_t)address, byte_count);
        original->destroy(original, address, byte_count, committed, arena);
    }
}

static bool hook_commit(
    extent_hooks_t *hooks, void *address, size_t byte_count, size_t offset, size_t length,
    unsigned arena) {
    (void)hooks, (void)byte_count;
    PTRECLAIM_COUNT(commits, 1);
    ptreclaim_trace_before_event();
    ptreclaim_trace_event(
        PTRECLAIM_TRACE_COMMIT, 0, (char *)address + offset, length, 0, 0, arena);
    return false; // the mapping is readable and writable all the time
}

/// Purges the extent and reports it uncommitted: from now on it belongs to nobody, until jemalloc
/// calls `commit` for it. The zap comes first; after the return the memory may be handed out.
static bool hook_decommit(
    extent_hooks_t *hooks, void *address, size_t byte_count, size_t offset, size_t length,
    unsigned arena) {
    (void)hooks, (void)byte_count;
    ptreclaim_trace_before_event();
    struct ptreclaim_stats_page *stats = ptreclaim_stats();
    if (!in_scope((char *)address + offset, length)) {
        ptreclaim_count(&stats->addresses_skipped, 1);
        return true;
    }
    if (is_off(stats)) {
        return true; // jemalloc goes on with purge_forced, as it does without the library
    }
    const uint64_t start = now_ns();
    uint64_t zapped = 0, skipped = 0;
    const int32_t error =
        ptreclaim_core_decommit((uintptr_t)address + offset, length, &zapped, &skipped);
    ptreclaim_count(&stats->hook_nanoseconds, now_ns() - start);
    if (error) {
        // jemalloc trusts a success to mean zeros. It goes on with purge_forced.
        ptreclaim_count(&stats->decommit_failures, 1);
        return true;
    }
    count_zaps(stats, zapped, skipped);
    ptreclaim_trace_event(
        PTRECLAIM_TRACE_DECOMMIT, 0, (char *)address + offset, length, 0, zapped, arena);
    note_peak(__atomic_fetch_add(&stats->decommits, 1, __ATOMIC_RELAXED));
    return false;
}

static bool hook_purge_lazy(
    extent_hooks_t *hooks, void *address, size_t byte_count, size_t offset, size_t length,
    unsigned arena) {
    (void)hooks;
    extent_hooks_t *original = ptreclaim_default_hooks;
    PTRECLAIM_COUNT(purges_lazy, 1);
    if (!original->purge_lazy
        || original->purge_lazy(original, address, byte_count, offset, length, arena)) {
        return true;
    }
    ptreclaim_trace_event(
        PTRECLAIM_TRACE_PURGE_LAZY, 0, (char *)address + offset, length, 0, 0, arena);
    return false;
}

static bool hook_purge_forced(
    extent_hooks_t *hooks, void *address, size_t byte_count, size_t offset, size_t length,
    unsigned arena) {
    (void)hooks;
    extent_hooks_t *original = ptreclaim_default_hooks;
    PTRECLAIM_COUNT(purges_forced, 1);
    ptreclaim_trace_before_event();
    if (!original->purge_forced
        || original->purge_forced(original, address, byte_count, offset, length, arena)) {
        return true;
    }
    ptreclaim_trace_event(
        PTRECLAIM_TRACE_PURGE_FORCED, 0, (char *)address + offset, length, 0, 0, arena);
    return false;
}

static bool hook_split(
    extent_hooks_t *hooks, void *address, size_t byte_count, size_t first, size_t second,
    bool committed, unsigned arena) {
    (void)hooks;
    extent_hooks_t *original = ptreclaim_default_hooks;
    return !original->split
        || original->split(original, address, byte_count, first, second, committed, arena);
}

/// Two extents become one. Uncommitted, they belong to nobody at this moment: jemalloc has
/// acquired both and holds the mutex through which they could be handed out.
static bool hook_merge(
    extent_hooks_t *hooks, void *first, size_t first_count, void *second, size_t second_count,
    bool committed, unsigned arena) {
    (void)hooks;
    extent_hooks_t *original = ptreclaim_default_hooks;
    ptreclaim_trace_before_event();
    if (!original->merge
        || original->merge(
            original, first, first_count, second, second_count, committed, arena)) {
        return true;
    }
    struct ptreclaim_stats_page *stats = ptreclaim_stats();
    ptreclaim_count(&stats->merges, 1);
    if (!in_scope(second, second_count)) {
        ptreclaim_count(&stats->addresses_skipped, 1);
        return false;
    }
    if (is_off(stats)) {
        return false; // they are one extent all the same
    }
    // Merges of committed extents are many and do nothing: not worth two looks at the clock.
    const uint64_t start = committed ? 0 : now_ns();
    uint64_t zapped = 0, skipped = 0;
    ptreclaim_core_merge(
        (uintptr_t)first, first_count, (uintptr_t)second, second_count, committed, &zapped,
        &skipped);
    if (!committed) {
        ptreclaim_count(&stats->hook_nanoseconds, now_ns() - start);
    }
    count_zaps(stats, zapped, skipped);
    // Of committed extents nothing follows.
    if (!committed) {
        ptreclaim_trace_event(
            PTRECLAIM_TRACE_MERGE, 0, first, first_count, second_count, zapped, arena);
    }
    return false;
}

extent_hooks_t ptreclaim_hooks = {
    .alloc = hook_alloc,
    .dalloc = hook_dalloc,
    .destroy = hook_destroy,
    .commit = hook_commit,
    .decommit = hook_decommit,
    .purge_lazy = hook_purge_lazy,
    .purge_forced = hook_purge_forced,
    .split = hook_split,
    .merge = hook_merge,
};
