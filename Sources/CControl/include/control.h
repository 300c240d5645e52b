// SPDX-License-Identifier: Apache-2.0
//
// The other side of `struct ptreclaim_control`: what a tool does with the page of a running
// process. `page` is a shared mapping of that process's page. That process writes it at the same
// time, so every word that both sides touch is an atomic.

#ifndef PTRECLAIM_CONTROL_H
#define PTRECLAIM_CONTROL_H

#include "stats_page.h"

#include <stdbool.h>

/// What a pass that was asked for came to.
struct ptreclaim_pass_report {
    uint32_t pass_errno; // 0: done
    int64_t vm_pte_before, vm_pte_after; // bytes; -1 where it cannot be read
    uint64_t tables_looked_at, tables_freed, duration_ns;
    uint64_t kept[PTRECLAIM_STATS_REASONS]; // by KeptReason
};

/// Opens `path` for writing and maps its first page, shared. Returns 0, or the errno: EINVAL where
/// the file is shorter, or no seal keeps it from becoming so.
int ptreclaim_control_map(const char *path, struct ptreclaim_stats_page **page);
void ptreclaim_control_unmap(struct ptreclaim_stats_page *page);
/// Switches off or on. Returns whether it was off before.
bool ptreclaim_control_set_off(struct ptreclaim_stats_page *page, bool is_off);
/// Asks for a pass over everything, now, and wakes the service thread. Returns the number of the
/// request.
uint32_t ptreclaim_control_request(struct ptreclaim_stats_page *page);
/// Sleeps until the answer to `request`, or to a later one, is there; at most `milliseconds`, and
/// less for no reason. Returns whether it is.
bool ptreclaim_control_wait(
    struct ptreclaim_stats_page *page, uint32_t request, long milliseconds);
/// The last answer, whole: no pass has answered while it was read.
void ptreclaim_control_report(
    const struct ptreclaim_stats_page *page, struct ptreclaim_pass_report *report);

#endif
