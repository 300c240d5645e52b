// SPDX-License-Identifier: Apache-2.0
//
// The page through which a process that runs with the preload library shows what was done.
//
// The library writes it (memfd `ptreclaim-stats`, mode 0600, one page, MAP_SHARED), other
// processes read it through /proc/PID/fd, /proc/PID/map_files or /proc/PID/mem.
// A reader checks `magic`, then `version`, then `byte_count`, and believes the page only if `pid`
// is the process it asked for, by the number that the process has in its own PID namespace: between
// fork and the child's first event the child still maps its parent's page.
//
// Little-endian, naturally aligned, without padding. Any change of the layout is a new version; there
// is no older one to be compatible with. C17 and C++17.

#ifndef PTRECLAIM_STATS_PAGE_H
#define PTRECLAIM_STATS_PAGE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PTRECLAIM_STATS_MAGIC 0x7374617473727470ull // "ptrstats", little-endian
#define PTRECLAIM_STATS_VERSION 3u
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
    X(fences_met_ns, "the length of all fences at which a thread had to wait, together") \
    X(fence_longest_ns, "the longest fence, from before UFFDIO_REGISTER until after UFFDIO_WAKE") \
    X(layout_waits, "waits of a thread that unmaps, moves or replaces, until a span was let go") \
    X(layout_longest_ns, "the longest of these") \
    X(back_offs, "times the service thread took less at once because fences became long") \
    X(fences_opened, "fences that the watchdog opened") \
    X(service_ns, "CPU time of the service thread")
#define PTRECLAIM_COUNTERS(X) \
    PTRECLAIM_HOOK_COUNTERS(X) PTRECLAIM_PURGE_COUNTERS(X) PTRECLAIM_PASS_COUNTERS(X)

/// Lengths of the arrays below.
enum {
    /// At least KeptReason.count.
    PTRECLAIM_STATS_REASONS = 32,
    /// Powers of two, in microseconds.
    PTRECLAIM_STATS_BUCKETS = 20,
};

/// What PTRECLAIM_MODE came to in this process.
enum ptreclaim_mode {
    /// Nothing is done; the counters of refusals say why.
    PTRECLAIM_MODE_OFF = 0,
    /// jemalloc's extent hooks.
    PTRECLAIM_MODE_HOOKS = 1,
    /// The tables at the edges of purges, behind a fence.
    PTRECLAIM_MODE_MADVISE = 2,
    /// All tables, behind a fence.
    PTRECLAIM_MODE_SCAN = 3,
    /// Both HOOKS and SCAN.
    PTRECLAIM_MODE_HOOKS_AND_SCAN = 4,
};

/// What other processes may write, with the process's permission: the owner of the memfd. By atomics;
/// each word is aligned to its size. `answers` is read before and after the rest, to see it whole.
struct ptreclaim_control {
    /// 1: nothing is freed; 0 again: it goes on.
    uint32_t is_off;
    /// Of a pass now: counted up by who asks, who then nudges.
    uint32_t requests;
    /// A futex, not a private one: counted up, and woken.
    uint32_t nudges;
    /// The request that has been answered; a futex, too, woken when what follows here is whole.
    uint32_t answers;
    /// What ended that pass early: an errno, positive; 0: nothing did.
    uint32_t pass_errno;
    /// 0.
    uint32_t reserved;
    /// VmPTE in bytes; -1 where it cannot be read.
    int64_t vm_pte_before;
    /// The same after the pass.
    int64_t vm_pte_after;
    /// PTE tables that existed and were looked at.
    uint64_t tables_looked_at;
    /// Of these, freed.
    uint64_t tables_freed;
    /// Length of the pass in nanoseconds.
    uint64_t duration_ns;
    /// PTE tables that were to be freed and were not, by KeptReason.
    uint64_t kept[PTRECLAIM_STATS_REASONS];
};

/// All words are written with relaxed atomics; a reader may see counters a few events apart. The page
/// is written by the library only, but for `control`.
struct ptreclaim_stats_page {
    /// PTRECLAIM_STATS_MAGIC, written last: who sees it sees the rest of the head.
    uint64_t magic;
    /// PTRECLAIM_STATS_VERSION.
    uint32_t version;
    /// Length of this struct, in bytes.
    uint32_t byte_count;
    /// Of the process whose page it is, as getpid() says there.
    int32_t pid;
    /// enum ptreclaim_mode, after `auto` was resolved, while it works.
    uint32_t mode;
    /// How tables are freed: PTRECLAIM_BACKEND_* of ptreclaim.h, 0 for none.
    uint32_t backend;
    /// 0.
    uint32_t reserved;
    /// CLOCK_BOOTTIME when the page was made, in nanoseconds.
    uint64_t start_time_ns;
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
    /// What is asked of the process, and the answer.
    struct ptreclaim_control control;
};

static_assert(offsetof(struct ptreclaim_stats_page, version) == 8, "layout is an interface");
static_assert(offsetof(struct ptreclaim_stats_page, pid) == 16, "layout is an interface");
static_assert(offsetof(struct ptreclaim_stats_page, start_time_ns) == 32, "layout is an interface");
static_assert(sizeof(struct ptreclaim_stats_page) <= 4096, "one page");

/// What counts a field.
enum ptreclaim_stats_group {
    /// Whoever refuses, at start mostly.
    PTRECLAIM_STATS_REFUSAL,
    /// jemalloc's hooks.
    PTRECLAIM_STATS_HOOKS,
    /// madvise mode.
    PTRECLAIM_STATS_PURGES,
    /// The service thread, in every mode that has one.
    PTRECLAIM_STATS_PASSES,
};

/// A counter of the page. Swift cannot walk an X-macro: the same list as data.
struct ptreclaim_stats_field {
    /// As in the struct.
    const char *name;
    /// What it counts, in words.
    const char *meaning;
    /// Of its 8 bytes in the page, in bytes.
    uint32_t offset;
    /// enum ptreclaim_stats_group.
    uint32_t group;
};
/// How many counters there are.
extern const size_t ptreclaim_stats_field_count;
/// One counter's description, constant. For any thread, and for signal handlers.
///
/// \param index below `ptreclaim_stats_field_count`, unchecked.
const struct ptreclaim_stats_field *ptreclaim_stats_field_at(size_t index);

#ifdef __cplusplus
}
#endif

#endif
