// SPDX-License-Identifier: Apache-2.0

#include "torture.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

void write_and_purge(struct worker *worker);

// ---- whose page is it --------------------------------------------------------------------------

static size_t pages_per_block(void) { return PAGES_PER_SPAN / owner_count; }

static char *start_of_block(const struct worker *worker, unsigned span) {
    return memory + (size_t)span * SPAN_BYTES + worker->owner * pages_per_block() * PAGE_BYTES;
}

struct pages block_of(const struct worker *worker, unsigned span) {
    return (struct pages){start_of_block(worker, span), pages_per_block() - 1};
}

char *page_of_handler(const struct worker *worker, unsigned span) {
    return start_of_block(worker, span) + (pages_per_block() - 1) * PAGE_BYTES;
}

struct pages own_span_of(const struct worker *worker) {
    return (struct pages){memory + (size_t)worker->own_span * SPAN_BYTES, PAGES_PER_SPAN};
}

// ---- values ------------------------------------------------------------------------------------

static uint64_t nanoseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void raise_to(atomic_ulong *longest, unsigned long value) {
    unsigned long before = atomic_load_explicit(longest, memory_order_relaxed);
    while (before < value && !atomic_compare_exchange_weak(longest, &before, value)) {
    }
}

/// read(2) out of a pipe; a descriptor of ours may be closed by the weather.
static const char *write_by_read(uint64_t *address, uint64_t value) {
    static _Thread_local int ends[2] = {-1, -1};
    if (ends[1] < 0 && pipe2(ends, O_CLOEXEC) != 0) {
        return NULL;
    }
    if (write(ends[1], &value, sizeof(value)) != sizeof(value)) {
        ends[0] = ends[1] = -1;
        return NULL;
    }
    if (read(ends[0], address, sizeof(value)) != sizeof(value)) {
        const bool is_closed = errno == EBADF;
        ends[0] = ends[1] = -1;
        return is_closed ? NULL : "";
    }
    return "read";
}

static const char *write_by_other_process(uint64_t *address, uint64_t value) {
    const struct iovec here = {&value, sizeof(value)}, there = {address, sizeof(value)};
    return process_vm_writev(getpid(), &here, 1, &there, 1, 0) == sizeof(value)
        ? "process_vm_writev" : "";
}

struct value write_value(struct worker *worker, char *page) {
    const uint64_t random = next(&worker->random);
    struct value value = {
        .address = (uint64_t *)(void *)(page + (random >> 8) % PAGES_PER_SPAN * 8),
        .expected = next(&worker->random) | 1,
        .way = NULL,
    };
    atomic_store_explicit(&worker->address, (uintptr_t)value.address, memory_order_relaxed);
    const uint64_t start = nanoseconds();
    if (random % 16 == 0 && descriptors_are_safe) {
        value.way = write_by_read(value.address, value.expected);
    } else if (random % 16 == 1) {
        value.way = write_by_other_process(value.address, value.expected);
    }
    if (value.way && !*value.way) {
        fprintf(stderr, "refused at %p: %s\n", (void *)value.address, strerror(errno));
        atomic_fetch_add(&counters->refused, 1);
    } else if (value.way) {
        atomic_fetch_add_explicit(&counters->kernel_writes, 1, memory_order_relaxed);
    }
    if (!value.way || !*value.way) {
        *(volatile uint64_t *)value.address = value.expected;
        value.way = "store";
    }
    raise_to(&counters->longest_wait_ns, nanoseconds() - start);
    atomic_fetch_add_explicit(&counters->writes, 1, memory_order_relaxed);
    return value;
}

bool check_value(const struct worker *worker, const struct value *value, const char *when) {
    const uint64_t found = *(volatile uint64_t *)value->address;
    if (found == value->expected) {
        return true;
    }
    if (atomic_fetch_add(&counters->lost, 1) < 5) {
        fprintf(stderr, "lost: %s %u wrote %#lx at %p by %s and found %#lx %s\n", worker->name,
                worker->owner, value->expected, (void *)value->address, value->way, found, when);
    }
    return false;
}

void purge(struct worker *worker, char *start, size_t page_count) {
    atomic_store_explicit(&worker->address, (uintptr_t)start, memory_order_relaxed);
    if (madvise(start, page_count * PAGE_BYTES, MADV_DONTNEED) != 0) {
        fprintf(stderr, "madvise at %p: %s\n", (void *)start, strerror(errno));
        atomic_fetch_add(&counters->refused, 1);
    }
    atomic_fetch_add_explicit(&counters->purges, 1, memory_order_relaxed);
}

// ---- a writer ----------------------------------------------------------------------------------

/// Drops pages in one of the ways that allocators do; the last of them may free the table itself.
static void purge_somehow(
    struct worker *worker, struct pages pages, const struct value *values, size_t value_count) {
    switch (next(&worker->random) % 4) {
    case 0:
        purge(worker, pages.start, pages.count);
        break;
    case 1:
        purge(worker, pages.start, pages.count / 2);
        purge(worker, pages.start + pages.count / 2 * PAGE_BYTES, pages.count - pages.count / 2);
        break;
    default:
        for (size_t i = 0; i < value_count; i++) {
            const uintptr_t address = (uintptr_t)values[i].address;
            purge(worker, (char *)(address & ~(uintptr_t)(PAGE_BYTES - 1)), 1);
        }
    }
}

/// What a purge leaves is known: zeros in anonymous memory, the value in a shared file.
static void check_after_purge(struct worker *worker, const struct value *value) {
    struct value left = *value;
    if (options.memory != SHARED_MEMFD) {
        left.expected = 0;
    }
    check_value(worker, &left, "after the purge");
    purge(worker, (char *)((uintptr_t)left.address & ~(uintptr_t)(PAGE_BYTES - 1)), 1);
}

void write_and_purge(struct worker *worker) {
    const uint64_t random = next(&worker->random);
    const struct pages pages = random % 2
        ? own_span_of(worker)
        : block_of(worker, (unsigned)(random >> 8) % options.shared_span_count);
    struct value values[VALUES_PER_CYCLE];
    const size_t count = 1 + (random >> 40) % VALUES_PER_CYCLE;
    // Pages of one cycle differ, or one value would stand on the other.
    const size_t stride = pages.count / VALUES_PER_CYCLE;
    for (size_t i = 0; i < count; i++) {
        const size_t page = i * stride + next(&worker->random) % stride;
        values[i] = write_value(worker, pages.start + page * PAGE_BYTES);
        check_value(worker, &values[i], "at once");
    }
    if (random >> 60 == 0) {
        sched_yield();
    }
    for (size_t i = 0; i < count; i++) {
        check_value(worker, &values[i], "before the purge");
    }
    purge_somehow(worker, pages, values, count);
    if ((random >> 48) % 16 == 0) {
        check_after_purge(worker, &values[0]);
    }
}

// ---- a caller ----------------------------------------------------------------------------------

struct ptreclaim_report call_once(void) {
    struct ptreclaim_report report = {.size = sizeof(report)};
    const uint64_t start = nanoseconds();
    is_inside_call = true;
    const int result = reclaim(memory, memory_byte_count(), PTRECLAIM_SHARED, &report);
    is_inside_call = false;
    if (result != 0) {
        if (atomic_fetch_add(&counters->failed_calls, 1) < 5) {
            fprintf(stderr, "ptreclaim: %s\n", strerror(errno));
        }
        return report;
    }
    raise_to(&counters->longest_call_ns, nanoseconds() - start);
    atomic_fetch_add_explicit(&counters->calls, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&counters->freed, report.tables_freed, memory_order_relaxed);
    for (unsigned i = 0; i < PTRECLAIM_KEPT_REASONS; i++) {
        atomic_fetch_add_explicit(&counters->kept[i], report.kept[i], memory_order_relaxed);
    }
    return report;
}
