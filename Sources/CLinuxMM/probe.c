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
    // The range is never right, so nothing happens; a filter sees the numbers only.
    static const unsigned long requests[] = {
        PTRECLAIM_UFFDIO_REGISTER, PTRECLAIM_UFFDIO_UNREGISTER, PTRECLAIM_UFFDIO_WAKE};
    bool is_forbidden = false;
    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        struct ptreclaim_uffd_register nothing = {.mode = PTRECLAIM_UFFD_REGISTER_MISSING};
        const long result = ptreclaim_ioctl(userfaultfd, requests[i], &nothing);
        is_forbidden |= result == -EPERM || result == -EACCES || result == -ENOSYS;
    }
    ptreclaim_close(userfaultfd);
    return is_forbidden ? PTRECLAIM_FENCE_NO_USERFAULTFD : PTRECLAIM_FENCE_POSSIBLE;
}

static long try_to_start_a_thread(void) {
    // As pthread_create does it, but for CLONE_VM, without which it is EINVAL.
    const long flags = 0x3d0e00; // FS FILES SIGHAND THREAD SYSVSEM SETTLS PARENT_SETTID CHILD_CLEARTID
    uint64_t arguments[11] = {(uint64_t)flags};
    long result = ptreclaim_syscall(
        435, (long)arguments, sizeof(arguments), 0, 0, 0, 0); // clone3, or ENOSYS
    if (result == -ENOSYS) {
        result = ptreclaim_syscall(SYS_clone, flags, 0, 0, 0, 0, 0);
    }
    return result == -EINVAL ? 0 : -EPERM;
}

/// The rest of what starting the thread takes, and what it does. None of it does anything here.
static long try_calls_of_a_thread(void) {
    uint32_t word = 0;
    uint64_t time[2] = {0, 0};
    long page = ptreclaim_mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page < 0) {
        return page;
    }
    const long results[] = {
        ptreclaim_syscall(SYS_mprotect, page, 4096, PROT_READ | PROT_WRITE, 0, 0, 0),
        ptreclaim_madvise((uintptr_t)page, 4096, PTRECLAIM_MADV_DONTNEED_LOCKED),
        ptreclaim_munmap((uintptr_t)page, 4096),
        ptreclaim_syscall(SYS_set_robust_list, 0, 24, 0, 0, 0, 0),
        ptreclaim_syscall(SYS_prctl, 16, (long)time, 0, 0, 0, 0), // PR_GET_NAME
        ptreclaim_syscall(SYS_futex, (long)&word, 1 | 128, 1, 0, 0, 0),
        ptreclaim_syscall(SYS_futex, (long)&word, 1, 1, 0, 0, 0),
        ptreclaim_syscall(SYS_clock_gettime, 3, (long)time, 0, 0, 0, 0),
        ptreclaim_syscall(SYS_tgkill, ptreclaim_getpid(), ptreclaim_gettid(), 0, 0, 0, 0),
        try_to_start_a_thread(),
    };
    (void)ptreclaim_syscall(334, 0, 0, 0, 0, 0, 0); // rseq: glibc can do without
    for (size_t i = 0; i < sizeof(results) / sizeof(results[0]); i++) {
        if (results[i] < 0) {
            return results[i];
        }
    }
    return 0;
}

/// A filter and a missing permission say the same, EPERM. But a userfaultfd that stops user space only
/// is for everybody (Linux 5.11): who gets that one is kept from the other by no filter.
static bool lacks_permission(void) {
    const int user_mode_only = 1; // UFFD_USER_MODE_ONLY
    int for_all = (int)ptreclaim_syscall(SYS_userfaultfd, O_CLOEXEC, 0, 0, 0, 0, 0);
    int for_user = (int)ptreclaim_syscall(SYS_userfaultfd, O_CLOEXEC | user_mode_only, 0, 0, 0, 0, 0);
    if (for_all >= 0) {
        ptreclaim_close(for_all);
    }
    if (for_user >= 0) {
        ptreclaim_close(for_user);
    }
    return for_all == -EPERM && for_user >= 0;
}

/// What a filter might kill for.
static int probe_in_child(void) {
    enum ptreclaim_fence_probe result = probe_here();
    if (result != PTRECLAIM_FENCE_POSSIBLE
        && !(result == PTRECLAIM_FENCE_NO_USERFAULTFD && lacks_permission())) {
        result = PTRECLAIM_FENCE_SECCOMP;
    }
    (void)ptreclaim_probe_procmap_query(); // without it the text of maps is read
    const long unshare = 2; // CLOSE_RANGE_UNSHARE
    if (ptreclaim_syscall(SYS_close_range, ~0u, ~0u, unshare, 0, 0, 0) < 0
        || try_calls_of_a_thread() < 0) {
        return PTRECLAIM_FENCE_SECCOMP;
    }
    return (int)result;
}

// A filter that kills for clone has killed every program that forks; one that forbids it says so.
int ptreclaim_in_child(int (*routine)(void)) {
    const uint64_t signals = ptreclaim_set_signal_mask(~0ull);
    long child = ptreclaim_syscall(SYS_clone, 0, 0, 0, 0, 0, 0);
    if (child == 0) {
        // SIGSYS would run a handler of the application.
        struct {
            void *handler;
            unsigned long flags;
            void *restorer;
            uint64_t mask;
        } by_default = {0, 0, 0, 0};
        ptreclaim_syscall(SYS_rt_sigaction, SIGSYS, (long)&by_default, 0, sizeof(uint64_t), 0, 0);
        // No core, neither a file nor through a pipe.
        const uint64_t core_bytes[2] = {1, 1};
        ptreclaim_syscall(SYS_prlimit64, 0, 4, (long)core_bytes, 0, 0, 0);
        ptreclaim_syscall(SYS_exit_group, routine(), 0, 0, 0, 0, 0);
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
    return has_exited ? status >> 8 & 0xff : -1;
}

enum ptreclaim_fence_probe ptreclaim_probe_fence(void) {
    const int pagemap = ptreclaim_open_self_pagemap();
    if (pagemap == -ENOENT || pagemap == -EMFILE) {
        return PTRECLAIM_FENCE_NO_PAGEMAP_SCAN; // no procfs, or no descriptor to look with
    }
    if (pagemap >= 0) {
        ptreclaim_close(pagemap);
    }
    if (!ptreclaim_has_seccomp_filter()) {
        return probe_here();
    }
    // What may not be done under a filter may be what it forbids.
    const int result = ptreclaim_in_child(probe_in_child);
    return result < 0 ? PTRECLAIM_FENCE_SECCOMP : (enum ptreclaim_fence_probe)result;
}

static int make_memfd_in_child(void) {
    const int fd = ptreclaim_memfd(4096);
    ptreclaim_syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0, 0, 0, 0);
    ptreclaim_syscall(SYS_fchmod, fd, 0600, 0, 0, 0, 0);
    return fd < 0;
}

bool ptreclaim_probe_memfd(void) {
    return !ptreclaim_has_seccomp_filter() || ptreclaim_in_child(make_memfd_in_child) == 0;
}
