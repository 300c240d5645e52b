// SPDX-License-Identifier: Apache-2.0
//
// Calls of libc for which it matters that a thread of ours is there, interposed to have it gone before:
//   pthread_exit, thrd_exit   of the first thread: the process ends with its last thread, which runs
//                             exit(3), and must be one of the application's. So the others are counted.
//                             (dispatch_main, and with it a Swift server, leaves its first thread so.)
//   unshare, setns            a process with threads may not enter a user namespace
//   prctl, seccomp            of a filter: it may kill for what we do, on every thread

#include "single.h"

#include "linux_mm.h"
#include "live_state.h"
#include "reclaimer.h"
#include "stats.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define EXPORT __attribute__((visibility("default")))

// ---- the first thread ---------------------------------------------------------------------------

static pthread_key_t thread_key;
static void (*real_pthread_exit)(void *) __attribute__((noreturn));
static void (*real_thrd_exit)(int) __attribute__((noreturn));

__attribute__((constructor)) static void resolve(void) {
    void *symbols[2] = {dlsym(RTLD_NEXT, "pthread_exit"), dlsym(RTLD_NEXT, "thrd_exit")};
    memcpy(&real_pthread_exit, &symbols[0], sizeof(void *));
    memcpy(&real_thrd_exit, &symbols[1], sizeof(void *));
}

static struct ptreclaim_wiped_on_fork *wiped(void) {
    return ptreclaim_live_state()->wiped_on_fork;
}

void ptreclaim_leave_with_first_thread(void) {
    if (!real_pthread_exit) {
        resolve(); // another library's constructor runs before ours
    }
    struct ptreclaim_wiped_on_fork *ours = wiped();
    if (!ours || ptreclaim_gettid() != ptreclaim_getpid()) {
        return;
    }
    __atomic_store_n(&ours->first_thread_has_left, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&ours->thread_count, __ATOMIC_SEQ_CST)) {
        ptreclaim_reclaimer_end(&ptreclaim_stats()->refused_first_thread);
    }
}

/// The destructor of what a thread has under `thread_key`: the process it was counted in.
static void thread_ends(void *process) {
    struct ptreclaim_wiped_on_fork *ours = wiped();
    if ((intptr_t)process != ptreclaim_getpid()) {
        ptreclaim_leave_with_first_thread(); // it has forked, and is the first of the child
    } else if (
        !__atomic_sub_fetch(&ours->thread_count, 1, __ATOMIC_SEQ_CST)
        && __atomic_load_n(&ours->first_thread_has_left, __ATOMIC_SEQ_CST)) {
        ptreclaim_reclaimer_end(&ptreclaim_stats()->refused_first_thread);
    }
}

static void make_key(void) { (void)pthread_key_create(&thread_key, thread_ends); }

void ptreclaim_thread_starts(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, make_key);
    __atomic_add_fetch(&wiped()->thread_count, 1, __ATOMIC_SEQ_CST);
}

void ptreclaim_thread_has_started(void) {
    // Without a key it is counted for ever: then the service thread notices itself that it is alone.
    (void)pthread_setspecific(thread_key, (void *)(intptr_t)ptreclaim_getpid());
}

void ptreclaim_thread_has_not_started(void) {
    __atomic_sub_fetch(&wiped()->thread_count, 1, __ATOMIC_SEQ_CST);
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
