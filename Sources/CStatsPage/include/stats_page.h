// SPDX-License-Identifier: Apache-2.0
//
// The page through which a process that runs with the preload library shows what was done.
//
// The library writes it (memfd `ptreclaim-stats`, mode 0600, one page, MAP_SHARED), other
// processes read it through /proc/PID/fd, /proc/PID/map_files or /proc/PID/mem.
// A reader checks `magic`, then `version`, then `byte_count`, and believes the page only if `pid`
// is the process it asked for: between fork and the child's first event the child still maps its
// parent's page.

#ifndef PTRECLAIM_STATS_PAGE_H
#define PTRECLAIM_STATS_PAGE_H

#include <stddef.h>
#include <stdint.h>

#define PTRECLAIM_STATS_MAGIC 0x7374617473727470ull // "ptrstats", little-endian
#define PTRECLAIM_STATS_VERSION 2u
#define PTRECLAIM_STATS_NAME "ptreclaim-stats"

// Why the library does nothing, or leaves an arena alone. One list for the page, for the line that
// PTRECLAIM_VERBOSE=1 prints and for the tools.
//   X(field, text)
#define PTRECLAIM_REFUSALS(X) \
    X(mode_off, "switched off by PTRECLAIM_MODE=off") \
    X(no_jemalloc, "no jemalloc behind malloc in this process") \
    X(jemalloc_too_old, "this jemalloc has no extent hooks that can be set") \
    X(overcommit, "vm.overcommit_memory is 2 or cannot be read: jemalloc uncommits with PROT_NONE") \
    X(san_guard, "opt.san_guard_small or opt.san_guard_large is set") \
    X(application_hooks, "the application has extent hooks of its own") \
    X(no_backend, "nothing tried frees a page-table page on this kernel") \
    X(unsupported_machine, "not Linux on x86-64 with 4 KiB pages") \
    X(no_userfaultfd, "no fence: userfaultfd needs CAP_SYS_PTRACE, vm.unprivileged_userfaultfd=1 or " \
      "access to /dev/userfaultfd") \
    X(seccomp, "a seccomp filter forbids what it needs") \
    X(no_pagemap_scan, "empty tables are not to be seen: no PAGEMAP_SCAN (Linux 6.7) or no procfs") \
    X(fence_backend, "behind a fence only MADV_DONTNEED frees tables safely, and here it frees none " \
      "(Linux 6.14)") \
    X(no_service_thread, "the service thread could not be started") \
    X(application_userfaultfd, "the application uses userfaultfd itself") \
    X(fence_opened, "the watchdog has opened a fence: fencing is over in this process") \
    X(child, "switched off in children by PTRECLAIM_INHERIT=0") \
    X(first_thread, "the first thread has left: the process ends with its own last one")

// Counters, all monotonic, all since this process got this page; by what counts them.
//   X(field, meaning)
#define PTRECLAIM_HOOK_COUNTERS(X) \
    X(decommits, "extents that jemalloc purged through the decommit hook") \
    X(decommit_failures, "decommits refused because madvise failed (mlocked memory, mostly)") \
    X(commits, "extents that jemalloc took back into use") \
    X(merges, "extents merged, committed or not") \
    X(allocs, "mappings handed to jemalloc") \
    X(aligned_allocs, "of these, mappings aligned and rounded to whole spans") \
    X(destroys, "extents unmapped at arena destruction") \
    X(purges_lazy, "calls of the purge_lazy hook, passed on") \
    X(purges_forced, "calls of the purge_forced hook, passed on") \
    X(spans_zapped, "2 MiB spans zapped while nobody owned them; their tables may be gone") \
    X(spans_skipped, "spans that a backend refused or failed to zap") \
    X(addresses_skipped, "events at or above 2^47, left alone") \
    X(reserves_full, "mappings not rounded up because the reserve table was full") \
    X(hook_nanoseconds, "time inside the decommit, merge and alloc hooks") \
    X(arenas_hooked, "arenas that run with our hooks") \
    X(threads_unseen, "threads started without a look at their arena")
#define PTRECLAIM_PURGE_COUNTERS(X) \
    X(purges_seen, "calls of madvise that gave memory back, in madvise mode") \
    X(candidates, "2 MiB spans at the edges of such purges, to be looked at") \
    X(candidates_lost, "of these, not remembered: the next pass looks at everything")
#define PTRECLAIM_PASS_COUNTERS(X) \
    X(passes, "passes of the service thread") \
    X(passes_below_watermark, "of these, passes that only looked: too little waste") \
    X(passes_cut_short, "of these, passes that stopped at a quota and go on there next time") \
    X(tables_looked_at, "PTE tables looked at") \
    X(tables_freed, "PTE tables freed, seen gone by a second look") \
    X(tables_empty_now, "empty PTE tables that the last whole sweep has seen and left (a gauge)") \
    X(fences, "fences") \
    X(fences_met, "of these, fences at which a thread had to wait") \
    X(fence_longest_ns, "the longest fence, from before UFFDIO_REGISTER until after UFFDIO_WAKE") \
    X(layout_waits, "waits of a thread that unmaps, moves or replaces, until a span was let go") \
    X(layout_longest_ns, "the longest of these") \
    X(back_offs, "times the service thread took less at once because fences became long") \
    X(fences_opened, "fences that the watchdog opened") \
    X(service_ns, "CPU time of the service thread")
#define PTRECLAIM_COUNTERS(X) \
    PTRECLAIM_HOOK_COUNTERS(X) PTRECLAIM_PURGE_COUNTERS(X) PTRECLAIM_PASS_COUNTERS(X)

enum {
    PTRECLAIM_STATS_REASONS = 32, // at least KeptReason.count
    PTRECLAIM_STATS_BUCKETS = 20,
};

enum ptreclaim_backend {
    PTRECLAIM_BACKEND_NONE = 0,
    PTRECLAIM_BACKEND_DONTNEED = 1,
    PTRECLAIM_BACKEND_REMAP = 2,
    PTRECLAIM_BACKEND_MAPFIXED = 3,
};

enum ptreclaim_mode {
    PTRECLAIM_MODE_OFF = 0,
    PTRECLAIM_MODE_HOOKS = 1,
    PTRECLAIM_MODE_MADVISE = 2,
    PTRECLAIM_MODE_SCAN = 3,
    PTRECLAIM_MODE_HOOKS_AND_SCAN = 4,
};

/// What other processes may write, with the process's permission: the owner of the memfd.
struct ptreclaim_control {
    uint32_t is_off;    // 1: nothing is freed
    uint32_t requests;  // of a pass now: counted up by who asks, who then nudges
    uint32_t nudges;    // a futex, not a private one: counted up, and woken
    uint32_t answers;   // the request that has been answered; a futex, too
    uint32_t pass_errno; // of that pass
    uint32_t reserved;
    int64_t vm_pte_before, vm_pte_after; // bytes; -1 where it cannot be read
    uint64_t tables_looked_at, tables_freed, duration_ns;
    uint64_t kept[PTRECLAIM_STATS_REASONS]; // by KeptReason
};

// All words are written with relaxed atomics; a reader may see counters a few events apart.
struct ptreclaim_stats_page {
    uint64_t magic;
    uint32_t version;
    uint32_t byte_count; // of this struct
    int32_t pid;
    uint32_t mode;    // enum ptreclaim_mode, after `auto` was resolved, while it works
    uint32_t backend; // enum ptreclaim_backend
    uint32_t reserved;
    uint64_t start_time_ns; // CLOCK_BOOTTIME when the page was made
#define X(field, text) uint64_t refused_##field;
    PTRECLAIM_REFUSALS(X)
#undef X
#define X(field, text) uint64_t field;
    PTRECLAIM_COUNTERS(X)
#undef X
    /// Tables that were to be freed and were not, by KeptReason.
    uint64_t kept[PTRECLAIM_STATS_REASONS];
    /// Fences at which a thread had to wait, by the length of the fence: below 2^i us, the last the rest.
    uint64_t fences_met_by_microseconds[PTRECLAIM_STATS_BUCKETS];
    struct ptreclaim_control control;
};

_Static_assert(offsetof(struct ptreclaim_stats_page, version) == 8, "layout is an interface");
_Static_assert(offsetof(struct ptreclaim_stats_page, pid) == 16, "layout is an interface");
_Static_assert(offsetof(struct ptreclaim_stats_page, start_time_ns) == 32, "layout is an interface");
_Static_assert(sizeof(struct ptreclaim_stats_page) <= 4096, "one page");

/// What counts a field.
enum ptreclaim_stats_group {
    PTRECLAIM_STATS_REFUSAL, // whoever refuses, at start mostly
    PTRECLAIM_STATS_HOOKS,   // jemalloc's hooks
    PTRECLAIM_STATS_PURGES,  // madvise mode
    PTRECLAIM_STATS_PASSES,  // the service thread, in every mode that has one
};

// Swift cannot walk an X-macro: the same list as data.
struct ptreclaim_stats_field {
    const char *name;
    const char *meaning;
    uint32_t offset;
    uint32_t group; // enum ptreclaim_stats_group
};
extern const size_t ptreclaim_stats_field_count;
/// `index` is below `ptreclaim_stats_field_count`.
const struct ptreclaim_stats_field *ptreclaim_stats_field_at(size_t index);

#endif
