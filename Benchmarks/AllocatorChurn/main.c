// SPDX-License-Identifier: Apache-2.0
//
// The churn of any allocator, through malloc and free alone: LD_PRELOAD chooses who is behind them.
//
//   allocator-churn [--threads N] [--small-mib M] [--large-mib M] [--cycles C] [--rounds R]
//                   [--keep N] [--wait-ms MS] [--seed S] [--background-release] [--quiet]
//                   [--max-waste-percent P --max-waste-kib K]
//       plays the whole churn by itself and prints one line of figures after each step. In each
//       cycle: blocks of 16 to 4000 bytes, then some of 64 KiB to 1 MiB; 90 % deleted at random;
//       all deleted but N blocks, which stay to the end. A deletion goes in R rounds, and after
//       each the allocator is asked to give back what it can; after the last, MS are waited.
//   allocator-churn --driven [--threads N] [--seed S] [--background-release]
//       reads one command a line (populate, fill, delete, release, verify, quit), answers each with
//       one line, and lets somebody else measure it from outside.
//
// With --background-release a thread asks ten times a second instead. Which call asks: release.c.
// tcmalloc also gives back while blocks are freed (TCMALLOC_RELEASE_RATE); what asks does not.
// Exit status: 0 done, 1 a byte was wrong or a call failed, 2 usage, 3 more waste than allowed.

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "driver.h"
#include "page_tables.h"
#include "release.h"

enum { PATTERN_BYTES = 4 << 20, MOST_THREADS = 64, BACKGROUND_MS = 100, LAST_TIMES = 5 };
static const size_t most_blocks = (size_t)1 << 25;

/// The blocks that are alive. The index is mapped, not allocated: only the blocks themselves
/// should shape what the allocator maps.
struct block {
    unsigned char *bytes;
    uint32_t byte_count;
    uint32_t pattern_offset;
};

/// What all workers do together, each its share of `first ..< first + count`.
struct job {
    void (*work)(size_t first, size_t count, uint64_t *random_state);
    size_t first, count;
    uint32_t min, max;
};

static struct {
    struct block *blocks; // the first `live_count` are alive
    size_t live_count;
    uint64_t random_state;
    unsigned char *pattern;
    struct job job;
    unsigned thread_count;
    bool releases_in_background;
    atomic_size_t wrong_count;
    atomic_bool is_out_of_memory;
    pthread_barrier_t begin, end;
} churn = {.thread_count = 2};

static void wait_ms(unsigned milliseconds) {
    nanosleep(
        &(struct timespec){.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000},
        NULL);
}

static void *map_anonymous(size_t byte_count) {
    void *memory = mmap(NULL, byte_count, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("allocator-churn: mmap");
        _exit(1);
    }
    return memory;
}

static void seed_churn(uint64_t seed) {
    churn.random_state = seed;
    churn.pattern = map_anonymous(PATTERN_BYTES);
    for (size_t i = 0; i < PATTERN_BYTES; i += sizeof(uint64_t)) {
        uint64_t word = next_random(&churn.random_state);
        memcpy(churn.pattern + i, &word, sizeof(word));
    }
}

// ---- workers -----------------------------------------------------------------------------------

static void *work(void *argument) {
    const size_t index = (size_t)(uintptr_t)argument;
    uint64_t random_state = churn.random_state ^ index << 32;
    for (;;) {
        pthread_barrier_wait(&churn.begin);
        const struct job *job = &churn.job;
        const size_t from = job->count * index / churn.thread_count;
        const size_t to = job->count * (index + 1) / churn.thread_count;
        job->work(job->first + from, to - from, &random_state);
        pthread_barrier_wait(&churn.end);
    }
    return NULL;
}

static void play(struct job job) {
    churn.job = job;
    pthread_barrier_wait(&churn.begin);
    pthread_barrier_wait(&churn.end);
}

static void *release_in_background(void *argument) {
    for (;;) {
        wait_ms(BACKGROUND_MS);
        release_free_memory();
    }
    return argument;
}

static void start_thread(void *(*run)(void *), size_t index) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, (void *)(uintptr_t)index) != 0) {
        perror("allocator-churn: pthread_create");
        _exit(1);
    }
    pthread_detach(thread);
}

static void start_threads(void) {
    pthread_barrier_init(&churn.begin, NULL, churn.thread_count + 1);
    pthread_barrier_init(&churn.end, NULL, churn.thread_count + 1);
    for (unsigned i = 0; i < churn.thread_count; i++) {
        start_thread(work, i);
    }
    if (churn.releases_in_background) {
        start_thread(release_in_background, 0);
    }
}

// ---- steps -------------------------------------------------------------------------------------

static void fill_share(size_t first, size_t count, uint64_t *random_state) {
    const uint32_t min = churn.job.min, max = churn.job.max;
    for (size_t i = first; i < first + count; i++) {
        struct block block = {
            .byte_count = min + (uint32_t)(next_random(random_state) % (max - min + 1)),
            .pattern_offset = (uint32_t)(next_random(random_state) % (PATTERN_BYTES - max)),
        };
        block.bytes = malloc(block.byte_count);
        if (!block.bytes) {
            atomic_store(&churn.is_out_of_memory, true);
            return;
        }
        memcpy(block.bytes, churn.pattern + block.pattern_offset, block.byte_count);
        churn.blocks[i] = block;
    }
}

/// Allocates `count` more blocks of `min` to `max` bytes, each filled from the pattern.
/// Precondition: 0 < min <= max < PATTERN_BYTES.
static bool fill(size_t count, uint32_t min, uint32_t max) {
    if (!churn.blocks) {
        churn.blocks = map_anonymous(most_blocks * sizeof(struct block));
    }
    if (count > most_blocks - churn.live_count) {
        return false;
    }
    play((struct job){fill_share, churn.live_count, count, min, max});
    churn.live_count += count;
    return !atomic_load(&churn.is_out_of_memory);
}

static bool is_intact(const struct block *block) {
    return memcmp(block->bytes, churn.pattern + block->pattern_offset, block->byte_count) == 0;
}

static void free_share(size_t first, size_t count, uint64_t *random_state) {
    (void)random_state;
    for (size_t i = first; i < first + count; i++) {
        if (!is_intact(&churn.blocks[i])) {
            atomic_fetch_add(&churn.wrong_count, 1);
        }
        free(churn.blocks[i].bytes);
    }
}

static void check_share(size_t first, size_t count, uint64_t *random_state) {
    (void)random_state;
    for (size_t i = first; i < first + count; i++) {
        if (!is_intact(&churn.blocks[i])) {
            atomic_fetch_add(&churn.wrong_count, 1);
        }
    }
}

/// Frees `count` of what is alive, at random, by whichever thread, and looks at each block before
/// it goes.
static void delete_some(size_t count) {
    const size_t left = churn.live_count - count;
    for (size_t i = churn.live_count; i > left; i--) {
        const size_t victim = next_random(&churn.random_state) % i;
        const struct block block = churn.blocks[victim];
        churn.blocks[victim] = churn.blocks[i - 1];
        churn.blocks[i - 1] = block;
    }
    play((struct job){.work = free_share, .first = left, .count = count});
    churn.live_count = left;
    if (left == 0 && churn.blocks) {
        munmap(churn.blocks, most_blocks * sizeof(struct block));
        churn.blocks = NULL;
    }
}

static void release_share(size_t first, size_t count, uint64_t *random_state) {
    (void)first, (void)count, (void)random_state;
    release_free_memory();
}

/// Each worker asks, and again: the first may have asked before the last gave its cache back.
static void release_all(void) {
    play((struct job){.work = release_share});
    play((struct job){.work = release_share});
    release_free_memory();
}

// ---- the two ways to run -----------------------------------------------------------------------

struct limits {
    double percent; // negative: none
    uint64_t byte_count;
};

struct plan {
    size_t small_mib, large_mib, keep;
    unsigned cycles, rounds, wait_ms;
    struct limits limits;
};

/// Prints the figures of one step; false: more waste than `limits` allow.
static bool report_step(const char *step, const struct limits *limits) {
    struct page_table_census census;
    int error = take_page_table_census(&census);
    if (error < 0) {
        fprintf(stderr, "allocator-churn: census: %s\n", strerror(-error));
        _exit(1);
    }
    int64_t waste = (int64_t)census.vm_pte_byte_count - (int64_t)census.needed_byte_count;
    double percent =
        census.vm_pte_byte_count ? 100.0 * (double)waste / (double)census.vm_pte_byte_count : 0;
    bool allowed = limits->percent < 0 || percent <= limits->percent
        || waste <= (int64_t)limits->byte_count;
    printf("step=%s vm_pte_bytes=%" PRIu64 " needed_bytes=%" PRIu64 " waste_bytes=%" PRId64
           " waste_percent=%.1f vmas=%" PRIu64 " look=%s%s\n",
           step, census.vm_pte_byte_count, census.needed_byte_count, waste, percent,
           census.vma_count, census.used_scan ? "pagemap_scan" : "pagemap",
           allowed ? "" : " OVER_LIMIT");
    fflush(stdout);
    return allowed;
}

static void delete_and_wait(size_t count, const struct plan *plan) {
    for (unsigned round = 0; round < plan->rounds; round++) {
        delete_some(count * (round + 1) / plan->rounds - count * round / plan->rounds);
        if (!churn.releases_in_background) {
            release_all();
        }
        wait_ms(plan->wait_ms / plan->rounds); // purges of old frees wait for the next ones
    }
    wait_ms(plan->wait_ms);
    play((struct job){.work = check_share, .count = churn.live_count});
}

static int play_alone(const struct plan *plan) {
    const struct limits none = {.percent = -1};
    const size_t small = (plan->small_mib << 20) / 2008;          // of 16 to 4000 bytes
    const size_t large = (plan->large_mib << 20) / (544u << 10); // of 64 KiB to 1 MiB
    bool within = true;
    for (unsigned cycle = 1; cycle <= plan->cycles; cycle++) {
        char name[48];
        const size_t kept = churn.live_count;
        if (!fill(small, 16, 4000) || !fill(large, 64 << 10, 1 << 20)) {
            fprintf(stderr, "allocator-churn: out of memory\n");
            return 1;
        }
        snprintf(name, sizeof(name), "filled-%u", cycle);
        report_step(name, &none);
        delete_and_wait((churn.live_count - kept) * 9 / 10, plan);
        snprintf(name, sizeof(name), "deleted-90-percent-%u", cycle);
        report_step(name, &none);
        // The last go slowly: mimalloc purges a segment when something in it is freed, some
        // milliseconds after what it purges.
        delete_and_wait(churn.live_count - LAST_TIMES * plan->keep, plan);
        delete_and_wait(churn.live_count - plan->keep, plan);
        snprintf(name, sizeof(name), "all-deleted-%u", cycle);
        within &= report_step(name, &plan->limits);
    }
    const size_t wrong = atomic_load(&churn.wrong_count);
    if (wrong) {
        printf("wrong_blocks=%zu\n", wrong);
        return 1;
    }
    return within ? 0 : 3;
}

/// One command a line: `populate N BYTES`, `fill N MIN MAX`, `delete PERCENT`, `release`, `verify`,
/// `quit`. One answer a line: `ok OPERATIONS NANOSECONDS`, or `error TEXT`.
static int play_driven(void) {
    printf("ready %s\n", allocator_name());
    fflush(stdout);
    static char line[128]; // of read(2), not stdio: its buffer would come from the allocator
    size_t used = 0;
    for (;;) {
        char *newline = memchr(line, '\n', used);
        if (!newline) {
            const ssize_t count =
                used < sizeof(line) ? read(0, line + used, sizeof(line) - used) : 0;
            if (count <= 0) {
                return used == sizeof(line) ? 2 : 0;
            }
            used += (size_t)count;
            continue;
        }
        *newline = '\0';
        size_t operations = 0, blocks = 0;
        uint32_t min = 0, max = 0;
        unsigned percent = 0;
        bool is_known = true, is_filled = true;
        const uint64_t start = now_ns();
        atomic_store(&churn.wrong_count, 0);
        if (sscanf(line, "fill %zu %" SCNu32 " %" SCNu32, &blocks, &min, &max) == 3
            || (sscanf(line, "populate %zu %" SCNu32, &blocks, &min) == 2 && (max = min))) {
            is_known = min > 0 && min <= max && max < PATTERN_BYTES;
            is_filled = !is_known || fill(blocks, min, max);
            operations = blocks;
        } else if (sscanf(line, "delete %u", &percent) == 1 && percent <= 100) {
            operations = churn.live_count * percent / 100;
            delete_some(operations);
        } else if (strcmp(line, "release") == 0) {
            release_all();
        } else if (strcmp(line, "verify") == 0) {
            operations = churn.live_count;
            play((struct job){.work = check_share, .count = churn.live_count});
        } else if (strcmp(line, "quit") == 0) {
            return 0;
        } else {
            is_known = false;
        }
        const size_t wrong = atomic_load(&churn.wrong_count);
        if (!is_known) {
            printf("error unknown command\n");
        } else if (!is_filled) {
            printf("error out of memory\n");
            fflush(stdout);
            return 1; // some blocks of the index are none
        } else if (wrong) {
            printf("error %zu blocks with wrong bytes\n", wrong);
        } else {
            printf("ok %zu %" PRIu64 "\n", operations, now_ns() - start);
        }
        fflush(stdout);
        used -= (size_t)(newline + 1 - line);
        memmove(line, newline + 1, used);
    }
}

static int usage(void) {
    fprintf(stderr,
            "usage: allocator-churn [--threads N] [--small-mib M] [--large-mib M] [--cycles C]\n"
            "                       [--rounds R] [--keep N] [--wait-ms MS] [--seed S]\n"
            "                       [--background-release] [--quiet]\n"
            "                       [--max-waste-percent P --max-waste-kib K]\n"
            "       allocator-churn --driven [--threads N] [--seed S] [--background-release]\n");
    return 2;
}

int main(int argc, char **argv) {
    struct plan plan = {
        .small_mib = 300, .large_mib = 300, .keep = 20, .cycles = 3, .rounds = 8, .wait_ms = 2000,
        .limits = {.percent = -1},
    };
    uint64_t seed = 1;
    bool quiet = false, driven = false;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--quiet") == 0) {
            quiet = true;
        } else if (strcmp(name, "--driven") == 0) {
            driven = true;
        } else if (strcmp(name, "--background-release") == 0) {
            churn.releases_in_background = true;
        } else if (i + 1 == argc) {
            return usage();
        } else {
            const char *value = argv[++i];
            char *end = NULL;
            uint64_t number = strtoull(value, &end, 10);
            if (end == value || *end) {
                return usage();
            }
            if (strcmp(name, "--threads") == 0) {
                churn.thread_count = (unsigned)number;
            } else if (strcmp(name, "--small-mib") == 0) {
                plan.small_mib = number;
            } else if (strcmp(name, "--large-mib") == 0) {
                plan.large_mib = number;
            } else if (strcmp(name, "--cycles") == 0) {
                plan.cycles = (unsigned)number;
            } else if (strcmp(name, "--rounds") == 0) {
                plan.rounds = (unsigned)number;
            } else if (strcmp(name, "--keep") == 0) {
                plan.keep = number;
            } else if (strcmp(name, "--wait-ms") == 0) {
                plan.wait_ms = (unsigned)number;
            } else if (strcmp(name, "--seed") == 0) {
                seed = number;
            } else if (strcmp(name, "--max-waste-percent") == 0) {
                plan.limits.percent = (double)number;
            } else if (strcmp(name, "--max-waste-kib") == 0) {
                plan.limits.byte_count = number * 1024;
            } else {
                return usage();
            }
        }
    }
    // Of 1 MiB of small blocks 52 are left after the first deletion: more than the last to go.
    if (churn.thread_count < 1 || churn.thread_count > MOST_THREADS || plan.small_mib < 10
        || plan.keep > plan.small_mib * 10 || plan.rounds < 1) {
        return usage();
    }
    seed_churn(seed);
    start_threads();
    if (driven) {
        return play_driven();
    }
    if (!quiet) {
        printf("allocator-churn: %s, %u threads, %zu + %zu MiB, %u cycles of %u rounds, %zu kept, "
               "%u ms wait, seed %" PRIu64 "%s\n",
               allocator_name(), churn.thread_count, plan.small_mib, plan.large_mib, plan.cycles,
               plan.rounds, plan.keep, plan.wait_ms, seed,
               churn.releases_in_background ? ", releasing in the background" : "");
    }
    return play_alone(&plan);
}
