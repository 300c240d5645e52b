// SPDX-License-Identifier: Apache-2.0

#include "probe.h"

#include "linux_mm.h"

#include <signal.h>
#include <time.h>

static enum ptreclaim_fence_probe probe_here(void) {
    int pagemap = ptreclaim_open_self_pagemap();
    if (pagemap < 0) {
        return PTRECLAIM_FENCE_NO_PAGEMAP_SCAN;
    }
    const bool has_scan = ptreclaim_probe_pagemap_scan(pagemap);
    ptreclaim_close(pagemap);
    if (!has_scan) {
        return PTRECLAIM_FENCE_NO_PAGEMAP_SCAN;
    }
    int userfaultfd = ptreclaim_open_userfaultfd();
    if (userfaultfd < 0) {
        return PTRECLAIM_FENCE_NO_USERFAULTFD;
    }
    // The range is never right, so nothing happens; a filter sees the number only.
    struct ptreclaim_uffd_range nothing = {0, 0};
    long result = ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_WAKE, &nothing);
    ptreclaim_close(userfaultfd);
    return result == -EPERM || result == -ENOSYS ? PTRECLAIM_FENCE_NO_USERFAULTFD
                                                 : PTRECLAIM_FENCE_POSSIBLE;
}

/// The rest of what the service thread does, which a filter might kill for: its own descriptor table.
static int probe_in_child(void) {
    // SIGSYS would run a handler of the application.
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } by_default = {0, 0, 0, 0};
    ptreclaim_syscall(SYS_rt_sigaction, SIGSYS, (long)&by_default, 0, sizeof(uint64_t), 0, 0);
    enum ptreclaim_fence_probe result = probe_here();
    const long unshare = 2; // CLOSE_RANGE_UNSHARE
    if (ptreclaim_syscall(SYS_close_range, ~0u, ~0u, unshare, 0, 0, 0) < 0) {
        return PTRECLAIM_FENCE_SECCOMP;
    }
    return (int)result;
}

enum ptreclaim_fence_probe ptreclaim_probe_fence(void) {
    if (!ptreclaim_has_seccomp_filter()) {
        return probe_here();
    }
    // A plain copy that ends without a signal to its parent. A filter that kills for clone has killed
    // every program that forks; one that forbids it says so.
    const uint64_t signals = ptreclaim_set_signal_mask(~0ull);
    long child = ptreclaim_syscall(SYS_clone, 0, 0, 0, 0, 0, 0);
    if (child == 0) {
        ptreclaim_syscall(SYS_exit_group, probe_in_child(), 0, 0, 0, 0, 0);
    }
    int status = -1;
    long result = child;
    while (result > 0) {
        const int clone_children_too = 0x80000000; // __WCLONE
        result = ptreclaim_syscall(SYS_wait4, child, (long)&status, clone_children_too, 0, 0, 0);
        if (result != -EINTR) {
            break;
        }
        result = child;
    }
    ptreclaim_set_signal_mask(signals);
    const bool has_exited = result == child && child > 0 && (status & 0x7f) == 0;
    const int answer = status >> 8 & 0xff;
    // What may not be done under a filter may be what it forbids.
    return has_exited && answer == PTRECLAIM_FENCE_POSSIBLE ? PTRECLAIM_FENCE_POSSIBLE
                                                            : PTRECLAIM_FENCE_SECCOMP;
}
