// SPDX-License-Identifier: Apache-2.0

#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PTRECLAIM_STATS_PAGE_BYTES = 4096 };

int ptreclaim_control_map(const char *path, struct ptreclaim_stats_page **page) {
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    // A file that is shorter, or can become so, would end this process with SIGBUS.
    const int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK)
        || lseek(fd, 0, SEEK_END) < PTRECLAIM_STATS_PAGE_BYTES) {
        close(fd);
        return EINVAL;
    }
    void *address =
        mmap(NULL, PTRECLAIM_STATS_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    const int error = address == MAP_FAILED ? errno : 0;
    close(fd);
    *page = error ? NULL : address;
    return error;
}

void ptreclaim_control_unmap(struct ptreclaim_stats_page *page) {
    munmap(page, PTRECLAIM_STATS_PAGE_BYTES);
}

bool ptreclaim_control_set_off(struct ptreclaim_stats_page *page, bool is_off) {
    return __atomic_exchange_n(&page->control.is_off, is_off ? 1u : 0u, __ATOMIC_SEQ_CST) != 0;
}

uint32_t ptreclaim_control_request(struct ptreclaim_stats_page *page) {
    struct ptreclaim_control *control = &page->control;
    const uint32_t request = __atomic_add_fetch(&control->requests, 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&control->nudges, 1, __ATOMIC_SEQ_CST);
    // Not FUTEX_PRIVATE_FLAG: the sleeper is in another process.
    syscall(SYS_futex, &control->nudges, FUTEX_WAKE, 1, NULL, NULL, 0);
    return request;
}

bool ptreclaim_control_wait(
    struct ptreclaim_stats_page *page, uint32_t request, long milliseconds) {
    uint32_t *answers = &page->control.answers;
    uint32_t seen = __atomic_load_n(answers, __ATOMIC_ACQUIRE);
    if ((int32_t)(seen - request) < 0) {
        const struct timespec limit = {milliseconds / 1000, milliseconds % 1000 * 1000000};
        syscall(SYS_futex, answers, FUTEX_WAIT, seen, &limit, NULL, 0);
        seen = __atomic_load_n(answers, __ATOMIC_ACQUIRE);
    }
    return (int32_t)(seen - request) >= 0;
}

void ptreclaim_control_report(
    const struct ptreclaim_stats_page *page, struct ptreclaim_pass_report *report) {
    const struct ptreclaim_control *control = &page->control;
    for (int tries = 0; tries < 100; tries++) {
        const uint32_t before = __atomic_load_n(&control->answers, __ATOMIC_ACQUIRE);
#define TAKE(field) report->field = __atomic_load_n(&control->field, __ATOMIC_RELAXED)
        TAKE(pass_errno);
        TAKE(vm_pte_before);
        TAKE(vm_pte_after);
        TAKE(tables_looked_at);
        TAKE(tables_freed);
        TAKE(duration_ns);
        for (int i = 0; i < PTRECLAIM_STATS_REASONS; i++) {
            TAKE(kept[i]);
        }
#undef TAKE
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(&control->answers, __ATOMIC_RELAXED) == before) {
            return;
        }
    }
}
