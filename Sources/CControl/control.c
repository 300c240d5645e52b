// SPDX-License-Identifier: Apache-2.0

#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CONTROL(field) offsetof(struct ptreclaim_stats_page, control.field)

static int read_at(int fd, size_t offset, void *bytes, size_t count) {
    const ssize_t done = pread(fd, bytes, count, (off_t)offset);
    return done < 0 ? errno : (size_t)done < count ? EINVAL : 0;
}

int ptreclaim_control_open(const char *path, struct ptreclaim_control_page *page) {
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return errno;
    }
    if (lseek(fd, 0, SEEK_END) < PTRECLAIM_STATS_PAGE_BYTES) {
        close(fd);
        return EINVAL;
    }
    void *address =
        mmap(NULL, PTRECLAIM_STATS_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (address == MAP_FAILED) {
        const int error = errno;
        close(fd);
        return error;
    }
    page->fd = fd;
    page->mapping = address;
    return 0;
}

void ptreclaim_control_close(const struct ptreclaim_control_page *page) {
    munmap(page->mapping, PTRECLAIM_STATS_PAGE_BYTES);
    close(page->fd);
}

int ptreclaim_control_read(const struct ptreclaim_control_page *page, void *bytes) {
    return read_at(page->fd, 0, bytes, PTRECLAIM_STATS_PAGE_BYTES);
}

int ptreclaim_control_set_off(
    const struct ptreclaim_control_page *page, bool is_off, bool *was_off) {
    uint32_t before = 0;
    const int error = read_at(page->fd, CONTROL(is_off), &before, sizeof(before));
    *was_off = before != 0;
    const uint32_t word = is_off ? 1 : 0;
    if (!error && pwrite(page->fd, &word, sizeof(word), CONTROL(is_off)) < 0) {
        return errno;
    }
    return error;
}

/// Adds one, atomically, and wakes a sleeper at `word`. Not FUTEX_PRIVATE_FLAG: it is in another
/// process.
static int count_up(uint32_t *word) {
    const uint32_t add_one = FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_EQ, 0);
    return syscall(SYS_futex, word, FUTEX_WAKE_OP, 1, 0, word, add_one) < 0 ? errno : 0;
}

int ptreclaim_control_request(const struct ptreclaim_control_page *page, uint32_t *request) {
    struct ptreclaim_control *control = &page->mapping->control;
    int error = count_up(&control->requests);
    if (!error) {
        error = read_at(page->fd, CONTROL(requests), request, sizeof(*request));
    }
    return error ? error : count_up(&control->nudges);
}

/// Whether the answer to `request`, or to a later one, is there. `seen`: the last answer.
static int is_there(int fd, uint32_t request, uint32_t *seen, bool *is_answered) {
    const int error = read_at(fd, CONTROL(answers), seen, sizeof(*seen));
    *is_answered = !error && (int32_t)(*seen - request) >= 0;
    return error;
}

int ptreclaim_control_wait(
    const struct ptreclaim_control_page *page, uint32_t request, long milliseconds,
    bool *is_answered) {
    uint32_t seen = 0;
    const int error = is_there(page->fd, request, &seen, is_answered);
    if (error || *is_answered) {
        return error;
    }
    const struct timespec limit = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    syscall(SYS_futex, &page->mapping->control.answers, FUTEX_WAIT, seen, &limit, NULL, 0);
    return is_there(page->fd, request, &seen, is_answered);
}

int ptreclaim_control_report(
    const struct ptreclaim_control_page *page, struct ptreclaim_pass_report *report) {
    for (int tries = 0; tries < 100; tries++) {
        struct ptreclaim_control control;
        uint32_t after = 0;
        int error = read_at(page->fd, CONTROL(is_off), &control, sizeof(control));
        if (!error) {
            error = read_at(page->fd, CONTROL(answers), &after, sizeof(after));
        }
        if (error) {
            return error;
        }
        report->pass_errno = control.pass_errno;
        report->vm_pte_before = control.vm_pte_before;
        report->vm_pte_after = control.vm_pte_after;
        report->tables_looked_at = control.tables_looked_at;
        report->tables_freed = control.tables_freed;
        report->duration_ns = control.duration_ns;
        memcpy(report->kept, control.kept, sizeof(report->kept));
        if (control.answers == after) {
            return 0;
        }
    }
    return 0;
}
