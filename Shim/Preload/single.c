// SPDX-License-Identifier: Apache-2.0
//
// Calls of libc for which it matters that a thread of ours is there, interposed to have it gone before:
//   pthread_exit, thrd_exit   of the first thread: the process ends with its last thread, which runs
//                             exit(3), and must be one of the application's
//   unshare, setns            a process with threads may not enter a user namespace
//   prctl, seccomp            of a filter: it may kill for what we do, on every thread

#include "single.h"

#include "linux_mm.h"
#include "reclaimer.h"
#include "stats.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define EXPORT __attribute__((visibility("default")))

// ---- the first thread ---------------------------------------------------------------------------

static void (*real_pthread_exit)(void *) __attribute__((noreturn));
static void (*real_thrd_exit)(int) __attribute__((noreturn));

__attribute__((constructor)) static void resolve(void) {
    void *symbols[2] = {dlsym(RTLD_NEXT, "pthread_exit"), dlsym(RTLD_NEXT, "thrd_exit")};
    memcpy(&real_pthread_exit, &symbols[0], sizeof(void *));
    memcpy(&real_thrd_exit, &symbols[1], sizeof(void *));
}

void ptreclaim_leave_with_first_thread(void) {
    if (!real_pthread_exit) {
        resolve(); // another library's constructor runs before ours
    }
    if (ptreclaim_gettid() == ptreclaim_getpid()) {
        ptreclaim_reclaimer_end(&ptreclaim_stats()->refused_first_thread);
    }
}

EXPORT _Noreturn void pthread_exit(void *result) {
    ptreclaim_leave_with_first_thread();
    real_pthread_exit(result);
}

EXPORT _Noreturn void thrd_exit(int result) {
    ptreclaim_leave_with_first_thread();
    real_thrd_exit(result);
}

// ---- namespaces ---------------------------------------------------------------------------------

static long as_libc(long result) {
    if (result < 0) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

long ptreclaim_unshare(int flags) {
    if (flags & (CLONE_NEWUSER | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM)) {
        ptreclaim_reclaimer_step_aside();
    }
    return ptreclaim_syscall(SYS_unshare, flags, 0, 0, 0, 0, 0);
}

long ptreclaim_setns(int fd, int kind) {
    const int clone_newtime = 0x80;
    if (kind == 0 || (kind & (CLONE_NEWUSER | CLONE_NEWNS | clone_newtime))) {
        ptreclaim_reclaimer_step_aside();
    }
    return ptreclaim_syscall(SYS_setns, fd, kind, 0, 0, 0, 0);
}

EXPORT int unshare(int flags) { return (int)as_libc(ptreclaim_unshare(flags)); }

EXPORT int setns(int fd, int kind) { return (int)as_libc(ptreclaim_setns(fd, kind)); }

// ---- filters ------------------------------------------------------------------------------------

/// After this the process makes no system call of ours that it may do without. Also in hooks mode: a
/// forked child makes its page before.
static void before_filter(void) {
    ptreclaim_reclaimer_end(&ptreclaim_stats()->refused_seccomp);
    ptreclaim_stats_filtered();
}

long ptreclaim_prctl(long option, long a, long b, long c, long d) {
    // libseccomp asks what there is with a filter that is NULL.
    if (option == PR_SET_SECCOMP && (a == SECCOMP_MODE_STRICT || b)) {
        before_filter();
    }
    return ptreclaim_syscall(SYS_prctl, option, a, b, c, d, 0);
}

long ptreclaim_seccomp(long operation, long flags, long argument) {
    if (operation == SECCOMP_SET_MODE_STRICT
        || (operation == SECCOMP_SET_MODE_FILTER && argument)) {
        before_filter();
    }
    return ptreclaim_syscall(SYS_seccomp, operation, flags, argument, 0, 0, 0);
}

EXPORT int prctl(int option, ...) {
    va_list more;
    va_start(more, option);
    const long a = va_arg(more, long), b = va_arg(more, long), c = va_arg(more, long),
               d = va_arg(more, long);
    va_end(more);
    return (int)as_libc(ptreclaim_prctl(option, a, b, c, d));
}
