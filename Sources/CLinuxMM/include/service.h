// SPDX-License-Identifier: Apache-2.0
//
// The service thread: it opens fences, and has a descriptor table of its own, so that no other
// thread can close a fence's descriptors and no child inherits them.

#ifndef PTRECLAIM_SERVICE_H
#define PTRECLAIM_SERVICE_H

#include <stdbool.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

/// Numbers in the service thread's own table; -1: not to be had. Kept from one job to the next.
struct ptreclaim_service {
    int pagemap;
    int maps;
    int userfaultfd;
    bool has_tried_userfaultfd; // in this job
    bool has_met_forks;         // in this job: it has waited for them once, in vain
};

/// Runs `job(context, service)` on the service thread, and waits for it. The thread is started on
/// need, and leaves when it has had nothing to do for a second. Callers take turns. Not for signal handlers.
///
/// Returns 0, or -errno and the job has not run: -EAGAIN, -ENOMEM no thread is to be had, -EPERM
/// a seccomp filter is on and nothing was tried, -ENOSYS no descriptor table of its own
/// (close_range, Linux 5.9), -ECHILD this process is a child that was forked, in a signal handler,
/// out of the wait.
int ptreclaim_service_run(
    void (*job)(void *context, struct ptreclaim_service *service), void *context);

/// Opens the userfaultfd of the service thread, at most once in a job. Returns it, or -errno.
/// With a seccomp filter on nothing is tried: the filter may kill.
int ptreclaim_service_userfaultfd(struct ptreclaim_service *service);

#pragma clang assume_nonnull end

#endif
