// SPDX-License-Identifier: Apache-2.0
//
// The service thread: it opens fences, and has a descriptor table of its own, so that no other
// thread can close a fence's descriptors and no child inherits them.

#ifndef PTRECLAIM_SERVICE_H
#define PTRECLAIM_SERVICE_H

#include "watch.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

enum { PTRECLAIM_FENCE_BUCKETS = 20 };

/// What became of fences, as long as the thread lives.
struct ptreclaim_fences {
    uint64_t count;
    uint64_t met_count;  // of these, fences at which a thread had to wait
    uint64_t met_ns;     // and how long those were together
    uint64_t longest_ns; // from before UFFDIO_REGISTER until after UFFDIO_WAKE
    /// Fences that were met, by their length: below 2^i us, the last one all the rest.
    uint64_t met_by_microseconds[PTRECLAIM_FENCE_BUCKETS];
};

/// Numbers in the service thread's own table; -1: not to be had. Kept from one job to the next.
struct ptreclaim_service {
    int pagemap;
    int maps;
    int userfaultfd;
    int process_status; // /proc/self/status: of the first thread, whether it lives or not
    int thread_status;  // /proc/thread-self/status
    bool has_tried_userfaultfd; // in this job
    bool has_met_forks;         // in this job: it has waited for them once, in vain
    bool is_probed;             // a child has tried what a seccomp filter might kill for
    bool must_not_wait;         // for forks: somebody may be waiting for what is held meanwhile
    /// Of a thread that holds more than its caller knows of; NULL for a call.
    struct ptreclaim_watch *_Nullable watch;
    struct ptreclaim_fences fences;
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

/// Makes the calling thread a service thread: no signals, a descriptor table of its own, a stack that
/// is never fenced. Returns 0, or -ENOSYS without close_range(2).
int ptreclaim_service_enter(struct ptreclaim_service *service);

/// Opens what looks need, as far as it can be had now.
void ptreclaim_service_begin_job(struct ptreclaim_service *service);

/// Starts a detached thread for `ptreclaim_service_enter`. Not for signal handlers, nor for hooks of
/// an allocator: glibc allocates. Returns 0 or -errno.
int ptreclaim_service_start(void *_Nullable (*_Nonnull routine)(void *_Nonnull), void *argument);

/// Any detached thread, with all signals blocked but glibc's own.
int ptreclaim_start_thread(
    void *_Nullable (*_Nonnull routine)(void *_Nonnull), void *argument, size_t stack_bytes);

/// Opens the userfaultfd of the service thread, at most once in a job. Returns it, or -errno.
/// With a seccomp filter on nothing is tried: the filter may kill.
int ptreclaim_service_userfaultfd(struct ptreclaim_service *service);

#pragma clang assume_nonnull end

#endif
