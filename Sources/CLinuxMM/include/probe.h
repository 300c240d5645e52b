// SPDX-License-Identifier: Apache-2.0
//
// What this process may do about page tables that it does not own.

#ifndef PTRECLAIM_PROBE_H
#define PTRECLAIM_PROBE_H

enum ptreclaim_fence_probe {
    PTRECLAIM_FENCE_POSSIBLE,
    PTRECLAIM_FENCE_NO_USERFAULTFD,   // no permission for one that stops the kernel's own accesses
    PTRECLAIM_FENCE_NO_PAGEMAP_SCAN,  // no ioctl (Linux 6.7), no procfs, or it is closed to us
    PTRECLAIM_FENCE_SECCOMP,          // a filter answers, or kills
};

/// Tries what a fence needs. With a seccomp filter on, in a child: the filter may kill. The child
/// raises no SIGCHLD, and is waited for.
enum ptreclaim_fence_probe ptreclaim_probe_fence(void);

#endif
