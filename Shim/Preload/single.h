// SPDX-License-Identifier: Apache-2.0
//
// System calls before which the service thread has to be gone: by number, for `syscall`. Each returns
// what the kernel does.

#ifndef PTRECLAIM_SINGLE_H
#define PTRECLAIM_SINGLE_H

/// Before a thread leaves by itself: if it is the first, ours leave before it.
void ptreclaim_leave_with_first_thread(void);

long ptreclaim_unshare(int flags);
long ptreclaim_setns(int fd, int kind);
long ptreclaim_prctl(long option, long a, long b, long c, long d);
long ptreclaim_seccomp(long operation, long flags, long argument);

#endif
