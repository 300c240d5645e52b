// SPDX-License-Identifier: Apache-2.0
//
// How long threads of a program are held up by who frees its empty tables, and whether a byte is lost.
//
//   fence-stop [--seconds S] [--fork]
//
// A run of 2 MiB spans is empty most of the time, with its tables; each thread has some pages of every
// span. Some write a page now and then, one replaces mappings, one forks; the longest time of each is
// printed.
// Exit status: 0 right, 1 wrong bytes, 2 usage, 3 a thread hung.

#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    SPAN_BYTES = 2 << 20,
    PAGE_BYTES = 4096,
    WRITERS = 4,
    SPANS = 3,
    PAGES = 512 / (WRITERS + 1), // of a thread, in each span
    LONGEST_PAUSE_US = 8000,
    HANG_SECONDS = 20,
    HELD_UP_NS = 50000000,
    // Until who held it up has gone on: what it frees then was written before.
    HELD_UP_PAUSE_US = 1500000,
};

struct worker {
    pthread_t thread;
    void (*step)(struct worker *worker);
    unsigned index;
    uint64_t state;
    atomic_ulong steps;
    uint64_t longest_ns;
};

static unsigned char *area;
static struct worker workers[WRITERS + 2];
static atomic_bool stop;
static atomic_ulong wrong;

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static unsigned next(struct worker *worker, unsigned below) {
    worker->state = worker->state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(worker->state >> 33) % below;
}

/// Returns whether it was held up.
static bool take(struct worker *worker, uint64_t since_ns) {
    const uint64_t taken = now_ns() - since_ns;
    if (taken > worker->longest_ns) {
        worker->longest_ns = taken;
    }
    return taken > HELD_UP_NS;
}

static void pause_for(unsigned microseconds) {
    const struct timespec time = {microseconds / 1000000, (long)(microseconds % 1000000) * 1000};
    nanosleep(&time, NULL);
}

static void expect(const volatile unsigned char *byte, unsigned char value) {
    if (*byte != value) {
        fprintf(stderr, "wrong byte at %p: %u, not %u\n", (const void *)byte, *byte, value);
        atomic_fetch_add(&wrong, 1);
    }
}

static unsigned char *own_pages(const struct worker *worker, unsigned span) {
    return area + (size_t)span * SPAN_BYTES + (size_t)worker->index * PAGES * PAGE_BYTES;
}

/// Never all of a span, so that the kernel leaves the table.
static void drop(unsigned char *pages) {
    madvise(pages, (size_t)PAGES * PAGE_BYTES, MADV_DONTNEED);
}

static void write_page(struct worker *worker) {
    unsigned char *pages = own_pages(worker, next(worker, SPANS));
    volatile unsigned char *byte = pages + (size_t)next(worker, PAGES) * PAGE_BYTES;
    const unsigned char value = (unsigned char)(1 + next(worker, 255));
    const uint64_t start = now_ns();
    *byte = value;
    const bool is_held_up = take(worker, start);
    pause_for(is_held_up ? HELD_UP_PAUSE_US : next(worker, 300));
    expect(byte, value);
    drop(pages);
    expect(byte, 0);
    drop(pages);
}

/// At the same place, and written to at once: who frees a table now, frees what is new.
static void replace_mappings(struct worker *worker) {
    for (unsigned span = 0; span < SPANS; span++) {
        unsigned char *pages = own_pages(worker, span);
        const uint64_t start = now_ns();
        if (mmap(pages, (size_t)PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0)
            == MAP_FAILED) {
            perror("mmap");
            exit(2);
        }
        take(worker, start);
        volatile unsigned char *byte = pages + (size_t)next(worker, PAGES) * PAGE_BYTES;
        *byte = 7;
        pause_for(next(worker, 300));
        expect(byte, 7);
        drop(pages);
    }
}

static void fork_child(struct worker *worker) {
    const uint64_t start = now_ns();
    const pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    take(worker, start);
    waitpid(child, NULL, 0);
}

static void *run(void *argument) {
    struct worker *worker = argument;
    while (!atomic_load(&stop)) {
        worker->step(worker);
        atomic_fetch_add(&worker->steps, 1);
        pause_for(next(worker, LONGEST_PAUSE_US));
    }
    return NULL;
}

static void start_worker(unsigned index, void (*step)(struct worker *worker)) {
    struct worker *worker = &workers[index];
    worker->step = step;
    worker->index = index;
    worker->state = index + 1;
    if (pthread_create(&worker->thread, NULL, run, worker) != 0) {
        perror("pthread_create");
        exit(2);
    }
}

int main(int count, char **arguments) {
    static const struct option options[] = {
        {"seconds", required_argument, NULL, 's'}, {"fork", no_argument, NULL, 'f'},
        {NULL, 0, NULL, 0},
    };
    double seconds = 2;
    bool forks = false;
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        switch (option) {
        case 's': seconds = strtod(optarg, NULL); break;
        case 'f': forks = true; break;
        default: return 2;
        }
    }
    area = mmap(NULL, (SPANS + 1) * (size_t)SPAN_BYTES, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED) {
        perror("mmap");
        return 2;
    }
    area = (unsigned char *)(((uintptr_t)area + SPAN_BYTES - 1) & ~(uintptr_t)(SPAN_BYTES - 1));
    // Not by madvise: what is mapped later must be one mapping with the rest.
    if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0) {
        perror("prctl");
        return 2;
    }
    for (size_t i = 0; i < SPANS; i++) {
        area[i * SPAN_BYTES] = 1;
        drop(area + i * SPAN_BYTES);
    }
    const unsigned worker_count = WRITERS + 1 + forks;
    for (unsigned i = 0; i < WRITERS; i++) {
        start_worker(i, write_page);
    }
    start_worker(WRITERS, replace_mappings);
    if (forks) {
        start_worker(WRITERS + 1, fork_child);
    }
    unsigned long seen[WRITERS + 2] = {0};
    uint64_t seen_at[WRITERS + 2];
    for (unsigned i = 0; i < worker_count; i++) {
        seen_at[i] = now_ns();
    }
    const uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
    while (now_ns() < end) {
        pause_for(20000);
        for (unsigned i = 0; i < worker_count; i++) {
            const unsigned long steps = atomic_load(&workers[i].steps);
            if (steps != seen[i]) {
                seen[i] = steps;
                seen_at[i] = now_ns();
            } else if (now_ns() - seen_at[i] > HANG_SECONDS * 1000000000ull) {
                printf("stuck: thread %u\n", i);
                fflush(stdout);
                _exit(3);
            }
        }
    }
    atomic_store(&stop, true);
    uint64_t longest_write = 0;
    unsigned long steps = 0;
    for (unsigned i = 0; i < worker_count; i++) {
        pthread_join(workers[i].thread, NULL);
        steps += workers[i].steps;
        if (i < WRITERS && workers[i].longest_ns > longest_write) {
            longest_write = workers[i].longest_ns;
        }
    }
    printf("steps: %lu\nwrite ms: %lu\nreplace ms: %lu\n", steps, longest_write / 1000000,
           workers[WRITERS].longest_ns / 1000000);
    if (forks) {
        printf("fork ms: %lu\n", workers[WRITERS + 1].longest_ns / 1000000);
    }
    printf("wrong: %lu\n", atomic_load(&wrong));
    return atomic_load(&wrong) ? 1 : 0;
}
