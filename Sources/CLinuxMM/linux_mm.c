// SPDX-License-Identifier: Apache-2.0

#include "linux_mm.h"

#include <time.h>

/// The beginning of a status file: VmPTE stands about 500 bytes into it, Threads 700, Seccomp 1000,
/// after a Groups: line of some hundreds.
struct status {
    long count; // bytes, or -errno
    char text[4096];
};

static void read_status_of(int fd, struct status *status) {
    status->count = fd < 0 ? fd : ptreclaim_pread(fd, status->text, sizeof(status->text), 0);
}

static void read_status(const char *path, struct status *status) {
    const int fd = ptreclaim_open(path, O_RDONLY);
    read_status_of(fd, status);
    if (fd >= 0) {
        ptreclaim_close(fd);
    }
}

/// The number behind `key`, which begins with a newline; or -errno.
static long status_number(const struct status *status, const char *key) {
    const long count = status->count;
    const char *text = status->text;
    if (count < 0) {
        return count;
    }
    const long key_count = (long)__builtin_strlen(key);
    for (long i = 0; i + key_count < count; i++) {
        long k = 0;
        while (k < key_count && text[i + k] == key[k]) {
            k++;
        }
        if (k < key_count) {
            continue;
        }
        long number = 0;
        for (i += key_count; i < count && (text[i] == ' ' || text[i] == '\t'); i++) {
        }
        for (; i < count && text[i] >= '0' && text[i] <= '9'; i++) {
            number = number * 10 + (text[i] - '0');
        }
        return number;
    }
    return -ENODATA;
}

long ptreclaim_self_vm_pte_and_threads(uint32_t *threads) {
    struct status status;
    read_status("/proc/self/status", &status);
    const long count = status_number(&status, "\nThreads:");
    *threads = count > 0 ? (uint32_t)count : 0;
    const long kib = status_number(&status, "\nVmPTE:");
    return kib < 0 ? kib : kib * 1024;
}

long ptreclaim_self_vm_pte(void) {
    uint32_t threads;
    return ptreclaim_self_vm_pte_and_threads(&threads);
}

bool ptreclaim_is_main_thread_gone(int status_fd, uint32_t *threads) {
    struct status status;
    read_status_of(status_fd, &status);
    const long count = status_number(&status, "\nThreads:");
    *threads = count > 0 ? (uint32_t)count : 0;
    static const char zombie[] = "\nState:\tZ";
    const long length = sizeof(zombie) - 1;
    for (long i = 0; i + length < status.count; i++) {
        if (!__builtin_memcmp(status.text + i, zombie, (size_t)length)) {
            return true;
        }
    }
    return false;
}

bool ptreclaim_has_seccomp_filter(void) {
    // On a thread of the application, whose other threads may close what is opened here, and open
    // something else by its number. Without procfs there is nothing to try again.
    long filter = -EBADF;
    for (int tries = 0; tries < 32 && (filter == -EBADF || filter == -ENODATA); tries++) {
        struct status status;
        read_status("/proc/thread-self/status", &status);
        filter = status_number(&status, "\nSeccomp:");
    }
    return filter != 0;
}

long ptreclaim_seccomp_filter_count(int status_fd) {
    struct status status;
    read_status_of(status_fd, &status);
    const long count = status_number(&status, "\nSeccomp_filters:");
    return count == -ENODATA ? status_number(&status, "\nSeccomp:") : count;
}

uint64_t ptreclaim_monotonic_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void ptreclaim_futex_wait(uint32_t *word, uint32_t expected, long milliseconds) {
    const int wait_private = 0 | 128;
    struct timespec limit = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    ptreclaim_syscall(
        SYS_futex, (long)word, wait_private, expected, milliseconds < 0 ? 0 : (long)&limit, 0, 0);
}

int ptreclaim_open_userfaultfd(void) {
    int fd = (int)ptreclaim_syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK, 0, 0, 0, 0, 0);
    if (fd < 0) {
        // The file's mode decides here, not a capability.
        int device = ptreclaim_open("/dev/userfaultfd", O_RDWR);
        if (device < 0) {
            return fd == -ENOSYS ? device : fd;
        }
        fd = (int)ptreclaim_syscall(
            SYS_ioctl, device, PTRECLAIM_USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK, 0, 0, 0);
        ptreclaim_close(device);
        if (fd < 0) {
            return fd;
        }
    }
    struct ptreclaim_uffd_api api = {.api = PTRECLAIM_UFFD_API};
    int result = (int)ptreclaim_ioctl(fd, PTRECLAIM_UFFDIO_API, &api);
    if (result < 0) {
        ptreclaim_close(fd);
        return result;
    }
    return fd;
}
