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

#include <stdbool.h>

/// Runs `routine` in a plain copy of the process that ends without a signal to its parent, and without a
/// core. Returns what it returned, at most 255; -1: it was killed, or could not be made.
int ptreclaim_in_child(int (*routine)(void));

/// Whether a file in memory is to be had without a seccomp filter that kills for it. Tries nothing where
/// there is no filter.
bool ptreclaim_probe_memfd(void);

/// Tries what a fence needs. With a seccomp filter on, in a child: the filter may kill. The child
/// raises no SIGCHLD, and is waited for.
enum ptreclaim_fence_probe ptreclaim_probe_fence(void);

#endif
