// SPDX-License-Identifier: Apache-2.0
//
// System calls before which the service thread has to be gone: by number, for `syscall`. Each returns
// what the kernel does.

#ifndef PTRECLAIM_SINGLE_H
#define PTRECLAIM_SINGLE_H

/// Before a thread leaves by itself: if it is the first, and the application has no other, ours leave
/// before it.
void ptreclaim_leave_with_first_thread(void);

/// A thread of the application's is about to be created; it has begun; or there is none after all.
void ptreclaim_thread_starts(void);
void ptreclaim_thread_has_started(void);
void ptreclaim_thread_has_not_started(void);

long ptreclaim_unshare(int flags);
long ptreclaim_setns(int fd, int kind);
long ptreclaim_prctl(long option, long a, long b, long c, long d);
long ptreclaim_seccomp(long operation, long flags, long argument);

#endif
