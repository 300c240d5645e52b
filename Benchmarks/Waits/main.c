// SPDX-License-Identifier: Apache-2.0
//
// How long a thread that touches an empty span has to wait.
//
//   fence-waits THREADS SPANS_EACH MILLISECONDS idle|map
//       Each thread has spans of its own whose tables are empty. Again and again it writes to a page
//       of one of them, at random, and gives the page back; each write is timed. `map`: one more
//       thread maps 256 MiB, touches every page, and unmaps them, all the time.
//
// Prints "ready", then two lines of NANOSECONDS:COUNT, with seven significant bits: `touch`, all
// writes; `wait`, those in which the thread slept. An ordinary page fault of empty memory does not
// sleep, unless somebody holds the mmap lock. Then waits for the end of its input.

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "driver.h"

enum { PAGE_BYTES = 4096, SPAN_BYTES = 2 << 20, PAGES_PER_SPAN = 512, THINK_NS = 20000 };
enum { FRACTION_BITS = 6, BUCKETS = 64 << FRACTION_BITS, MOST_THREADS = 64, MAP_BYTES = 256 << 20 };

struct histogram {
    uint64_t counts[BUCKETS];
};

struct toucher {
    pthread_t thread;
    unsigned char *spans;
    uint64_t random_state;
    uint64_t wrong_count;
    struct histogram touches, waits;
};

static struct {
    size_t spans_each;
    atomic_bool is_over;
    atomic_uint_fast64_t mapped_count;
} run;

// ---- histograms: values below 64 are exact, others have seven significant bits ------------------

static size_t bucket_of(uint64_t value) {
    if (value < 1u << FRACTION_BITS) {
        return value;
    }
    const unsigned exponent = 63 - (unsigned)__builtin_clzll(value);
    return ((size_t)(exponent - FRACTION_BITS + 1) << FRACTION_BITS)
        | (value >> (exponent - FRACTION_BITS) & ((1u << FRACTION_BITS) - 1));
}

/// The largest value of the bucket.
static uint64_t value_of(size_t bucket) {
    const unsigned exponent = (unsigned)(bucket >> FRACTION_BITS);
    const uint64_t fraction = bucket & ((1u << FRACTION_BITS) - 1);
    if (exponent == 0) {
        return fraction;
    }
    return (((1u << FRACTION_BITS | fraction) + 1) << (exponent - 1)) - 1;
}

static void print_histogram(const char *name, const struct histogram *histogram) {
    printf("%s", name);
    for (size_t i = 0; i < BUCKETS; i++) {
        if (histogram->counts[i]) {
            printf(" %" PRIu64 ":%" PRIu64, value_of(i), histogram->counts[i]);
        }
    }
    printf("\n");
}

// ---- threads -----------------------------------------------------------------------------------

static long voluntary_switches(void) {
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nvcsw;
}

static void think(uint64_t nanoseconds) {
    const uint64_t end = now_ns() + nanoseconds;
    while (now_ns() < end) {
    }
}

static void *touch(void *argument) {
    struct toucher *us = argument;
    while (!atomic_load_explicit(&run.is_over, memory_order_relaxed)) {
        const uint64_t random = next_random(&us->random_state);
        volatile unsigned char *page = us->spans + random % run.spans_each * SPAN_BYTES
            + (random >> 32) % PAGES_PER_SPAN * PAGE_BYTES;
        const long switches = voluntary_switches();
        const uint64_t start = now_ns();
        page[0] = 0x5a;
        const uint64_t waited = now_ns() - start;
        const bool has_slept = voluntary_switches() != switches;
        us->touches.counts[bucket_of(waited)]++;
        us->waits.counts[bucket_of(waited)] += has_slept;
        us->wrong_count += page[0] != 0x5a;
        if (madvise((void *)page, PAGE_BYTES, MADV_DONTNEED)) {
            perror("fence-waits: madvise");
            _exit(1);
        }
        think((random >> 16) % THINK_NS);
    }
    return NULL;
}

static void *map_and_unmap(void *argument) {
    while (!atomic_load_explicit(&run.is_over, memory_order_relaxed)) {
        volatile unsigned char *memory = mmap(
            NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            perror("fence-waits: mmap");
            _exit(1);
        }
        for (size_t offset = 0; offset < MAP_BYTES; offset += PAGE_BYTES) {
            memory[offset] = 1;
        }
        munmap((void *)memory, MAP_BYTES);
        atomic_fetch_add(&run.mapped_count, 1);
    }
    return argument;
}

/// Spans whose tables exist and are empty.
static unsigned char *map_spans(size_t count) {
    unsigned char *memory = mmap(
        NULL, (count + 1) * SPAN_BYTES, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("fence-waits: mmap");
        _exit(1);
    }
    madvise(memory, (count + 1) * SPAN_BYTES, MADV_NOHUGEPAGE);
    memory += SPAN_BYTES - (uintptr_t)memory % SPAN_BYTES;
    for (size_t i = 0; i < count; i++) {
        memory[i * SPAN_BYTES] = 1;
        madvise(memory + i * SPAN_BYTES, PAGE_BYTES, MADV_DONTNEED);
    }
    return memory;
}

int main(int argc, char **argv) {
    static struct toucher touchers[MOST_THREADS];
    const size_t threads = argc == 5 ? strtoul(argv[1], NULL, 10) : 0;
    run.spans_each = argc == 5 ? strtoul(argv[2], NULL, 10) : 0;
    if (threads < 1 || threads > MOST_THREADS || run.spans_each < 1) {
        fprintf(stderr, "usage: fence-waits THREADS SPANS_EACH MILLISECONDS idle|map\n");
        return 2;
    }
    const unsigned long milliseconds = strtoul(argv[3], NULL, 10);
    for (size_t i = 0; i < threads; i++) {
        touchers[i].spans = map_spans(run.spans_each);
        touchers[i].random_state = i + 1;
    }
    printf("ready\n");
    fflush(stdout);
    pthread_t mapper;
    const bool maps = strcmp(argv[4], "map") == 0;
    if (maps && pthread_create(&mapper, NULL, map_and_unmap, NULL)) {
        return 1;
    }
    for (size_t i = 0; i < threads; i++) {
        if (pthread_create(&touchers[i].thread, NULL, touch, &touchers[i])) {
            return 1;
        }
    }
    nanosleep(
        &(struct timespec){
            .tv_sec = (time_t)(milliseconds / 1000),
            .tv_nsec = (long)(milliseconds % 1000 * 1000000),
        },
        NULL);
    atomic_store(&run.is_over, true);
    static struct histogram all, slept;
    uint64_t wrong = 0;
    for (size_t i = 0; i < threads; i++) {
        pthread_join(touchers[i].thread, NULL);
        for (size_t j = 0; j < BUCKETS; j++) {
            all.counts[j] += touchers[i].touches.counts[j];
            slept.counts[j] += touchers[i].waits.counts[j];
        }
        wrong += touchers[i].wrong_count;
    }
    if (maps) {
        pthread_join(mapper, NULL);
    }
    print_histogram("touch", &all);
    print_histogram("wait", &slept);
    printf("mapped %" PRIuFAST64 "\nwrong %" PRIu64 "\n", atomic_load(&run.mapped_count), wrong);
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0) {
    }
    return wrong != 0;
}
