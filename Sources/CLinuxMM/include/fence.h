// SPDX-License-Identifier: Apache-2.0
//
// The fence: nobody fills an entry of a run of PTE tables while they are looked at and freed.

#ifndef PTRECLAIM_FENCE_H
#define PTRECLAIM_FENCE_H

#include "service.h"

#include <stdbool.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

enum ptreclaim_fenced_free {
    PTRECLAIM_FENCED_DONTNEED, // MADV_DONTNEED_LOCKED, kernels with PT_RECLAIM
    PTRECLAIM_FENCED_MAPFIXED, // mmap(MAP_FIXED), where the VMA has no attributes to lose
};

struct ptreclaim_fence {
    int userfaultfd;     // -1 on return: an error was met behind the fence, and it is closed
    int pagemap;
    bool has_pagemap_scan;
    bool may_wait_for_forks; // 20 ms; a call does it once
    uint32_t how;        // a ptreclaim_fenced_free
    int protection;      // of the VMA; what a MAP_FIXED maps again
    bool is_noreserve;   // the same
    struct ptreclaim_watch *_Nullable watch;   // NULL: nobody else opens it
    struct ptreclaim_fences *_Nullable fences; // where it is counted
    bool was_up;         // out: the range was fenced; an error is of the look or of the free
};

/// A fence with what the service thread has: its userfaultfd, its watchdog, its counters.
static inline struct ptreclaim_fence ptreclaim_service_fence(struct ptreclaim_service *service) {
    struct ptreclaim_fence fence = {
        .userfaultfd = service->userfaultfd,
        .watch = service->watch,
        .fences = service->watch ? &service->fences : 0,
    };
    return fence;
}

/// Frees the PTE tables of the spans in `start ..< end` whose 512 entries are all none, with every
/// other thread kept out meanwhile. Span-aligned; inside one private anonymous VMA.
///
/// Returns 0, or -errno, with everything as it was but for tables that were freed before:
/// -EBUSY another userfaultfd holds the range, -ENOMEM `vm.max_map_count`, -EINVAL memory that
/// cannot be registered, -EAGAIN the process is forking, where the fence was not up; what the look
/// or the free said, where it was. No thread is left waiting, ever.
///
/// -ECANCELED: the watchdog had opened it, where there is one, before anything was freed.
///
/// The caller's stack must be populated in each span that it touches. Runs on any thread; nothing
/// in it allocates.
long ptreclaim_fenced_free(struct ptreclaim_fence *fence, uintptr_t start, uintptr_t end);

/// Frees the tables of spans that need no fence, and that the watchdog may open all the same.
/// Returns 0 or -errno, -ECANCELED as above.
long ptreclaim_watched_free(struct ptreclaim_fence *fence, uintptr_t start, uintptr_t end);

/// Ends what `userfaultfd` has registered in `start ..< end`, page-aligned, and lets go on who waits
/// there. All that is registered there must be its own, or an older kernel ends that, too.
void ptreclaim_fence_open(int userfaultfd, uintptr_t start, uintptr_t end);

/// The same for a VMA of which nobody knows who has registered it, if anybody.
void ptreclaim_let_go_of(int userfaultfd, uintptr_t start, uintptr_t end);

/// Keeps fences and forks apart from now on. Returns 0 or -errno.
int ptreclaim_install_fork_gate(void);

/// Lets forks through beside the fence of a thread that does not get on. What they copy of it is of no
/// use to it: a child is not fenced.
void ptreclaim_open_fork_gate(void);

#pragma clang assume_nonnull end

#endif
