// SPDX-License-Identifier: Apache-2.0
//
// The churn inside jemalloc, in C, so that nothing but the allocator is measured.
//
//   jemalloc-churn [--keys N] [--cycles C] [--wait-ms MS] [--seed S] [--quiet]
//                  [--max-waste-percent P --max-waste-kib K]
//       plays the whole churn by itself and prints one line of figures after each step. Runs in a
//       bare guest: it needs /proc and libjemalloc, nothing else.
//   jemalloc-churn --driven
//       reads one command a line (populate, fill, delete, verify), answers each with one line, and
//       lets somebody else measure it from outside.
//   jemalloc-churn --calloc
//       touches and frees 64 blocks of 1 MiB, takes them again with calloc, and waits likewise.
//   jemalloc-churn --idle
//       allocates 1 MiB, says "ready", and waits for the end of its input.
//
// Exit status: 0 done, 1 a byte was wrong or a call failed, 2 usage, 3 more waste than allowed.

#include <inttypes.h>
#include <jemalloc/jemalloc.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "driver.h"
#include "page_tables.h"

enum { PATTERN_BYTES = 1 << 20, TICK_MS = 100 };

/// The blocks that are alive. The index is mapped, not allocated: only the blocks themselves
/// should shape jemalloc's extents.
struct block {
    unsigned char *bytes;
    uint32_t byte_count;
    uint32_t pattern_offset;
};

static struct {
    struct block *blocks; // the first `live_count` are alive
    size_t live_count;
    size_t mapped_byte_count;
    uint64_t random_state;
    unsigned char *pattern;
} churn;

static void *map_anonymous(size_t byte_count) {
    void *memory =
        mmap(NULL, byte_count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("jemalloc-churn: mmap");
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

/// Allocates `count` blocks of `min` to `max` bytes, each filled from the pattern.
/// Precondition: nothing is alive, 0 < min <= max < PATTERN_BYTES.
static bool fill(size_t count, uint32_t min, uint32_t max) {
    churn.mapped_byte_count = count * sizeof(struct block);
    churn.blocks = map_anonymous(churn.mapped_byte_count);
    for (size_t i = 0; i < count; i++) {
        struct block block = {
            .byte_count = min + (uint32_t)(next_random(&churn.random_state) % (max - min + 1)),
            .pattern_offset = (uint32_t)(next_random(&churn.random_state) % (PATTERN_BYTES - max)),
        };
        block.bytes = malloc(block.byte_count);
        if (!block.bytes) {
            return false;
        }
        memcpy(block.bytes, churn.pattern + block.pattern_offset, block.byte_count);
        churn.blocks[i] = block;
        churn.live_count = i + 1;
    }
    return true;
}

static bool is_intact(const struct block *block) {
    return memcmp(block->bytes, churn.pattern + block->pattern_offset, block->byte_count) == 0;
}

/// Frees `percent` % of what is alive, at random, and looks at each block before it goes.
/// Returns the number of blocks whose bytes were wrong.
static size_t delete_some(unsigned percent, size_t *deleted) {
    size_t wrong = 0;
    *deleted = churn.live_count * percent / 100;
    for (size_t i = 0; i < *deleted; i++) {
        size_t victim = next_random(&churn.random_state) % churn.live_count;
        wrong += !is_intact(&churn.blocks[victim]);
        free(churn.blocks[victim].bytes);
        churn.blocks[victim] = churn.blocks[--churn.live_count];
    }
    if (churn.live_count == 0 && churn.blocks) {
        munmap(churn.blocks, churn.mapped_byte_count);
        churn.blocks = NULL;
    }
    return wrong;
}

static size_t count_wrong(void) {
    size_t wrong = 0;
    for (size_t i = 0; i < churn.live_count; i++) {
        wrong += !is_intact(&churn.blocks[i]);
    }
    return wrong;
}

/// What a server's timer does for jemalloc: its allocations empty the thread cache bit by bit (a
/// block left in there pins its slab, and thousands of them hide every empty table) and let the
/// decay see that time has passed. A program that only sleeps never purges.
static void tick(void) {
    char name[32];
    mallctl("thread.tcache.flush", NULL, NULL, NULL, 0);
    snprintf(name, sizeof(name), "arena.%u.decay", MALLCTL_ARENAS_ALL);
    mallctl(name, NULL, NULL, NULL, 0);
}

static void wait_with_ticks(unsigned milliseconds) {
    for (unsigned waited = 0; waited < milliseconds; waited += TICK_MS) {
        poll(NULL, 0, TICK_MS);
        tick();
    }
}

// ---- the three ways to run --------------------------------------------------------------------

struct limits {
    double percent; // negative: none
    uint64_t byte_count;
};

/// Prints the figures of one step; false: more waste than `limits` allow.
static bool report_step(const char *step, const struct limits *limits) {
    struct page_table_census census;
    int error = take_page_table_census(&census);
    if (error < 0) {
        fprintf(stderr, "jemalloc-churn: census: %s\n", strerror(-error));
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

static int play_alone(size_t keys, unsigned cycles, unsigned wait_ms, struct limits limits) {
    const struct limits none = {.percent = -1};
    size_t wrong = 0, deleted = 0;
    bool within = true;
    if (!fill(keys, 1000, 1000)) {
        goto out_of_memory;
    }
    report_step("populated", &none);
    wrong += delete_some(100, &deleted);
    wait_with_ticks(wait_ms);
    within &= report_step("flushed", &limits);
    for (unsigned cycle = 1; cycle <= cycles; cycle++) {
        char name[48];
        if (!fill(keys / 10 * 6, 16, 4000)) {
            goto out_of_memory;
        }
        wrong += delete_some(90, &deleted);
        wait_with_ticks(wait_ms);
        wrong += count_wrong();
        snprintf(name, sizeof(name), "deleted-90-percent-%u", cycle);
        report_step(name, &none);
        wrong += delete_some(100, &deleted);
        wait_with_ticks(wait_ms);
        snprintf(name, sizeof(name), "all-deleted-%u", cycle);
        within &= report_step(name, &limits);
    }
    if (wrong) {
        printf("wrong_blocks=%zu\n", wrong);
        return 1;
    }
    return within ? 0 : 3;
out_of_memory:
    fprintf(stderr, "jemalloc-churn: out of memory\n");
    return 1;
}

/// One command a line: `populate N BYTES`, `fill N MIN MAX`, `delete PERCENT`, `verify`.
/// One answer a line: `ok OPERATIONS NANOSECONDS`, or `error TEXT`.
static int play_driven(void) {
    const char *version = "unknown";
    size_t version_size = sizeof(version);
    mallctl("version", (void *)&version, &version_size, NULL, 0);
    printf("ready %s\n", version);
    fflush(stdout);
    char line[128];
    size_t used = 0;
    for (;;) {
        struct pollfd input = {.fd = 0, .events = POLLIN};
        if (poll(&input, 1, TICK_MS) == 0) {
            tick();
            continue;
        }
        ssize_t count = read(0, line + used, sizeof(line) - 1 - used);
        if (count <= 0) {
            return 0;
        }
        used += (size_t)count;
        line[used] = '\0';
        if (!strchr(line, '\n')) {
            if (used == sizeof(line) - 1) {
                return 2;
            }
            continue;
        }
        used = 0;
        size_t keys = 0, operations = 0, wrong = 0;
        uint32_t min = 0, max = 0;
        unsigned percent = 0;
        bool failed = false;
        uint64_t start = now_ns();
        if (sscanf(line, "populate %zu %" SCNu32, &keys, &min) == 2) {
            failed = !fill(keys, min, min);
            operations = keys;
        } else if (sscanf(line, "fill %zu %" SCNu32 " %" SCNu32, &keys, &min, &max) == 3) {
            failed = !fill(keys, min, max);
            operations = keys;
        } else if (sscanf(line, "delete %u", &percent) == 1 && percent <= 100) {
            wrong = delete_some(percent, &operations);
        } else if (strncmp(line, "verify", 6) == 0) {
            operations = churn.live_count;
            wrong = count_wrong();
        } else {
            printf("error unknown command\n");
            fflush(stdout);
            continue;
        }
        if (failed) {
            printf("error out of memory\n");
        } else if (wrong) {
            printf("error %zu blocks with wrong bytes\n", wrong);
        } else {
            printf("ok %zu %" PRIu64 "\n", operations, now_ns() - start);
        }
        fflush(stdout);
    }
}

/// Says that the process may be looked at, and waits for the end of its input.
static int wait_to_be_measured(void) {
    static const char ready[] = "ready\n";
    if (write(1, ready, sizeof(ready) - 1) < 0) {
        return 1;
    }
    char byte;
    while (read(0, &byte, 1) > 0) {
    }
    return 0;
}

static int idle(void) {
    enum { IDLE_BYTES = 1 << 20 };
    volatile unsigned char *memory = malloc(IDLE_BYTES);
    if (!memory) {
        return 1;
    }
    for (size_t i = 0; i < IDLE_BYTES; i += 4096) {
        memory[i] = 1;
    }
    return wait_to_be_measured();
}

/// jemalloc zeroes recycled memory with MADV_DONTNEED, or, under custom hooks, with memset.
static int recycle_with_calloc(void) {
    enum { BLOCKS = 64, BLOCK_BYTES = 1 << 20 };
    void *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(BLOCK_BYTES);
        if (!blocks[i]) {
            return 1;
        }
        memset(blocks[i], 1, BLOCK_BYTES);
    }
    for (int i = 0; i < BLOCKS; i++) {
        free(blocks[i]);
    }
    for (int i = 0; i < BLOCKS; i++) {
        void *volatile block = calloc(1, BLOCK_BYTES);
        if (!block) {
            return 1;
        }
    }
    return wait_to_be_measured();
}

static int usage(void) {
    fprintf(stderr,
            "usage: jemalloc-churn [--keys N] [--cycles C] [--wait-ms MS] [--seed S] [--quiet]\n"
            "                      [--max-waste-percent P --max-waste-kib K]\n"
            "       jemalloc-churn --driven [--seed S] | --idle | --calloc\n");
    return 2;
}

int main(int argc, char **argv) {
    size_t keys = 1000000;
    unsigned cycles = 3, wait_ms = 12000;
    uint64_t seed = 1;
    bool quiet = false, driven = false;
    struct limits limits = {.percent = -1};
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--quiet") == 0) {
            quiet = true;
        } else if (strcmp(name, "--driven") == 0) {
            driven = true;
        } else if (strcmp(name, "--idle") == 0) {
            return idle();
        } else if (strcmp(name, "--calloc") == 0) {
            return recycle_with_calloc();
        } else if (i + 1 == argc) {
            return usage();
        } else {
            const char *value = argv[++i];
            char *end = NULL;
            uint64_t number = strtoull(value, &end, 10);
            if (end == value || *end) {
                return usage();
            }
            if (strcmp(name, "--keys") == 0) {
                keys = number;
            } else if (strcmp(name, "--cycles") == 0) {
                cycles = (unsigned)number;
            } else if (strcmp(name, "--wait-ms") == 0) {
                wait_ms = (unsigned)number;
            } else if (strcmp(name, "--seed") == 0) {
                seed = number;
            } else if (strcmp(name, "--max-waste-percent") == 0) {
                limits.percent = (double)number;
            } else if (strcmp(name, "--max-waste-kib") == 0) {
                limits.byte_count = number * 1024;
            } else {
                return usage();
            }
        }
    }
    if (keys < 10) {
        return usage();
    }
    seed_churn(seed);
    if (driven) {
        return play_driven();
    }
    if (!quiet) {
        printf("jemalloc-churn: %zu keys, %u cycles, %u ms wait, seed %" PRIu64 "\n", keys, cycles,
               wait_ms, seed);
    }
    return play_alone(keys, cycles, wait_ms, limits);
}
