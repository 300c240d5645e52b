// SPDX-License-Identifier: Apache-2.0
//
// After the start: no lock, no allocation, raw system calls only, so a hook or a signal handler
// may be here on any thread.

#include "trace.h"

#include "core.h"
#include "line.h"
#include "linux_mm.h"
#include "live_state.h"
#include "stats_page.h"

#include <stdbool.h>
#include <time.h>

enum { SAMPLE_EVENTS = 1024, SAMPLE_NANOSECONDS = 100 * 1000 * 1000 };

struct ptreclaim_trace_header *ptreclaim_trace;

static uint64_t start_ns; // CLOCK_MONOTONIC
static uint64_t sampled_at_ns, sampled_at_place;

// ---- making the file ---------------------------------------------------------------------------

/// Whether the file may become so large: beyond RLIMIT_FSIZE the kernel sends SIGXFSZ.
static bool is_within_file_limit(uint64_t byte_count) {
    struct {
        uint64_t current, maximum;
    } limit = {0, 0};
    const int file_size = 1; // RLIMIT_FSIZE
    long result =
        ptreclaim_syscall(SYS_prlimit64, 0, file_size, 0, (long)&limit, 0, 0);
    return result < 0 || byte_count <= limit.current;
}

/// A descriptor of a new file with all its blocks, or -errno. Without blocks, a full disk would
/// be a SIGBUS in the host.
static int make_file(const char *path, uint64_t byte_count) {
    if (!is_within_file_limit(byte_count)) {
        return -EFBIG;
    }
    // Never an existing file: another process may be writing its trace there, and to truncate
    // what it has mapped would kill it.
    int fd = (int)ptreclaim_syscall(
        SYS_openat, AT_FDCWD, (long)path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600, 0, 0);
    if (fd < 0) {
        return fd;
    }
    long result;
    do {
        result = ptreclaim_syscall(SYS_fallocate, fd, 0, 0, (long)byte_count, 0, 0);
    } while (result == -EINTR);
    if (result < 0) {
        ptreclaim_close(fd);
        ptreclaim_syscall(SYS_unlinkat, AT_FDCWD, (long)path, 0, 0, 0, 0);
        return (int)result;
    }
    return fd;
}

static void say_why_not(const char *path, long error) {
    struct line line = line_begin();
    line_text(&line, "no trace: ");
    line_text(&line, path);
    switch (error) {
    case EEXIST: line_text(&line, " exists already"); break;
    case ENOENT: line_text(&line, ": no such directory"); break;
    case EACCES: line_text(&line, ": permission denied"); break;
    case ENOSPC: line_text(&line, ": no space left on the device"); break;
    case EFBIG: line_text(&line, ": larger than a file may be (ulimit -f)"); break;
    case EOPNOTSUPP: line_text(&line, ": this file system cannot reserve space"); break;
    default:
        line_text(&line, ": error ");
        line_number(&line, (uint64_t)error);
    }
    line_end(&line);
}

void ptreclaim_trace_start(
    const char *path, uint32_t mebibytes, uint32_t mode, uint32_t backend) {
    struct ptreclaim_wiped_on_fork *ours = ptreclaim_live_state()->wiped_on_fork;
    const uint64_t byte_count = (uint64_t)mebibytes << 20;
    int fd = ours ? make_file(path, byte_count) : -ENOMEM;
    if (fd < 0) {
        say_why_not(path, -fd);
        return;
    }
    long address = ptreclaim_mmap(0, byte_count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ptreclaim_close(fd);
    if (address < 0) {
        ptreclaim_syscall(SYS_unlinkat, AT_FDCWD, (long)path, 0, 0, 0, 0);
        say_why_not(path, -address);
        return;
    }
    const int no_huge_page = 15; // its tables are counted one by one; not every kernel knows it
    (void)ptreclaim_madvise((uintptr_t)address, byte_count, no_huge_page);
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_BOOTTIME, &now);
    struct ptreclaim_trace_header *header = (struct ptreclaim_trace_header *)address;
    header->version = PTRECLAIM_TRACE_VERSION;
    header->header_byte_count = PTRECLAIM_TRACE_HEADER_BYTES;
    header->record_byte_count = sizeof(struct ptreclaim_trace_record);
    header->page_byte_count = 4096;
    header->pid = ptreclaim_getpid();
    header->mode = mode;
    header->backend = backend;
    header->dontneed_frees_tables = ptreclaim_core_dontneed_frees_tables();
    header->start_time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    header->capacity =
        (byte_count - PTRECLAIM_TRACE_HEADER_BYTES) / sizeof(struct ptreclaim_trace_record);
    header->mapping_address = (uint64_t)address;
    ptreclaim_store_release(&header->magic, PTRECLAIM_TRACE_MAGIC);
    start_ns = ptreclaim_monotonic_nanoseconds();
    ptreclaim_store_release(&ours->is_traced, 1);
    ptreclaim_trace = header;
    ptreclaim_trace_sample(); // the first: what everything after it is compared to
}

// ---- writing it --------------------------------------------------------------------------------

/// False in a forked child: the file is its parent's.
static bool is_ours(void) {
    return ptreclaim_load_acquire(&ptreclaim_live_state()->wiped_on_fork->is_traced) != 0;
}

static void drop(struct ptreclaim_trace_header *header) {
    __atomic_fetch_add(&header->dropped, 1, __ATOMIC_RELAXED);
}

void ptreclaim_trace_write(const struct ptreclaim_trace_record *event) {
    struct ptreclaim_trace_header *header = ptreclaim_trace;
    if (!is_ours()) {
        return;
    }
    const uint64_t first = event->address, pages = event->page_count;
    const bool has_place =
        event->kind == PTRECLAIM_TRACE_VM_PTE
        || (pages > 0 && first + (pages + event->more_page_count) * 4096 <= (uint64_t)1 << 47);
    if (!has_place || __atomic_load_n(&header->taken, __ATOMIC_RELAXED) >= header->capacity) {
        drop(header);
        return;
    }
    const uint64_t place = __atomic_fetch_add(&header->taken, 1, __ATOMIC_ACQ_REL);
    if (place >= header->capacity) {
        drop(header);
        return;
    }
    struct ptreclaim_trace_record *record =
        (struct ptreclaim_trace_record *)((char *)header + PTRECLAIM_TRACE_HEADER_BYTES) + place;
    record->time_ns = ptreclaim_monotonic_nanoseconds() - start_ns;
    record->address = event->address;
    record->page_count = event->page_count;
    record->more_page_count = event->more_page_count;
    record->zapped_count = event->zapped_count;
    record->arena = event->arena;
    record->flags = event->flags;
    __atomic_store_n(&record->kind, event->kind, __ATOMIC_RELEASE);
}

void ptreclaim_trace_sample(void) {
    if (!is_ours()) {
        return;
    }
    uint32_t threads;
    const long bytes = ptreclaim_self_vm_pte_and_threads(&threads);
    if (bytes > 0) {
        const struct ptreclaim_trace_record record = {
            .address = (uint64_t)bytes, .page_count = threads, .kind = PTRECLAIM_TRACE_VM_PTE};
        ptreclaim_trace_write(&record);
    }
}

void ptreclaim_trace_sample_if_due(void) {
    const uint64_t now = ptreclaim_monotonic_nanoseconds();
    const uint64_t place = __atomic_load_n(&ptreclaim_trace->taken, __ATOMIC_RELAXED);
    uint64_t last = __atomic_load_n(&sampled_at_ns, __ATOMIC_RELAXED);
    const bool is_due =
        now - last >= SAMPLE_NANOSECONDS
        || place - __atomic_load_n(&sampled_at_place, __ATOMIC_RELAXED) >= SAMPLE_EVENTS;
    // One of the threads that come here takes it.
    if (is_due && place < ptreclaim_trace->capacity
        && __atomic_compare_exchange_n(
            &sampled_at_ns, &last, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        __atomic_store_n(&sampled_at_place, place, __ATOMIC_RELAXED);
        ptreclaim_trace_sample();
    }
}
