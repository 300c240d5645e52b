// SPDX-License-Identifier: Apache-2.0
//
// The other side of `struct ptreclaim_control`: what a tool does with the page of a running
// process. The process writes it at the same time, a word at once.
//
// The page is read and written through its file. The mapping is for futexes alone: who owns the file
// may cut it short, and then a load from the mapping would be a SIGBUS, where the kernel says EFAULT.

#ifndef PTRECLAIM_CONTROL_H
#define PTRECLAIM_CONTROL_H

#include "stats_page.h"

#include <stdbool.h>

enum { PTRECLAIM_STATS_PAGE_BYTES = 4096 };

/// An open page. `mapping` is never dereferenced.
struct ptreclaim_control_page {
    int fd;
    struct ptreclaim_stats_page *mapping;
};

/// What a pass that was asked for came to.
struct ptreclaim_pass_report {
    uint32_t pass_errno; // 0: done
    int64_t vm_pte_before, vm_pte_after; // bytes; -1 where it cannot be read
    uint64_t tables_looked_at, tables_freed, duration_ns;
    uint64_t kept[PTRECLAIM_STATS_REASONS]; // by KeptReason
};

// Each returns 0 or an errno, EINVAL where the file is shorter than a page.

/// Opens `path` for writing.
int ptreclaim_control_open(const char *path, struct ptreclaim_control_page *page);
void ptreclaim_control_close(const struct ptreclaim_control_page *page);
/// Copies the page to `bytes`, which has room for PTRECLAIM_STATS_PAGE_BYTES.
int ptreclaim_control_read(const struct ptreclaim_control_page *page, void *bytes);
/// Switches off or on. `was_off`: whether it was off before.
int ptreclaim_control_set_off(
    const struct ptreclaim_control_page *page, bool is_off, bool *was_off);
/// Asks for a pass over everything, now, and wakes the service thread. `request`: its number, or that
/// of somebody who asked at the same moment.
int ptreclaim_control_request(const struct ptreclaim_control_page *page, uint32_t *request);
/// Sleeps until the answer to `request`, or to a later one, is there; at most `milliseconds`, and
/// less for no reason. `is_answered`: whether it is.
int ptreclaim_control_wait(
    const struct ptreclaim_control_page *page, uint32_t request, long milliseconds,
    bool *is_answered);
/// The last answer, whole: no pass has answered while it was read.
int ptreclaim_control_report(
    const struct ptreclaim_control_page *page, struct ptreclaim_pass_report *report);

#endif
