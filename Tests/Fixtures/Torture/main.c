// SPDX-License-Identifier: Apache-2.0
//
// Threads of malloc, calloc, realloc, aligned_alloc and free whose contents are checked: a byte
// that changed while its block was alive was changed by whoever purges behind jemalloc's back.
//
//   jemalloc-torture [--threads N] [--seconds S] [--seed N] [--fork]
//
// Any thread works on any block, so blocks wander between threads. With --fork, threads fork
// children that check, allocate and free while the other threads purge.
// Exit status: 0 right, 1 wrong bytes, 2 usage, 3 a child hung.

#include <getopt.h>
#include <jemalloc/jemalloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    SLOT_COUNT = 768,
    PAGE_BYTES = 4096,
    MEBIBYTE = 1 << 20,
    LINE_BYTES = 64,
    LONGEST_FULLY_CHECKED = 4 * PAGE_BYTES,
    CHILD_SECONDS = 20,
    OPERATIONS_PER_FORK = 100,
    OPERATIONS_OF_CHILD = 60,
};

/// One block of memory, or none. Whoever holds `busy` may look at and change it.
struct slot {
    atomic_flag busy;
    unsigned char *start; // NULL: none
    size_t byte_count;
    uint64_t key;
};

static struct slot slots[SLOT_COUNT];
static atomic_ulong operation_count, wrong_byte_count, fork_count;
static atomic_bool stop;
static pthread_mutex_t one_child_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static unsigned thread_count = 8;
static double seconds = 10;
static uint64_t seed = 1;
static bool forks;

static uint64_t mix(uint64_t value) { // splitmix64
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

static uint64_t next(uint64_t *state) { return mix((*state)++); }

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// ---- contents ----------------------------------------------------------------------------------

/// Never zero, so that a page that was dropped is seen in each of its bytes.
static unsigned char pattern(uint64_t key, size_t offset) {
    return (unsigned char)(mix(key ^ (offset & ~(size_t)7)) >> (offset & 7) * 8) | 1;
}

static void fill_part(unsigned char *start, uint64_t key, size_t from, size_t to) {
    for (size_t offset = from; offset < to; offset++) {
        start[offset] = pattern(key, offset);
    }
}

static size_t check_part(const unsigned char *start, uint64_t key, size_t from, size_t to) {
    size_t wrong = 0;
    for (size_t offset = from; offset < to; offset++) {
        wrong += start[offset] != pattern(key, offset);
    }
    return wrong;
}

/// Memory is lost by whole pages: of a long block one line in each page, at a place that differs
/// from page to page, and the last line say as much as all of it.
static size_t line_offset(uint64_t key, const unsigned char *start, size_t page, size_t count) {
    // The pages of the kernel, not of the block: a short first one, then aligned ones.
    const size_t first = (size_t)(-(uintptr_t)start & (PAGE_BYTES - 1));
    const size_t begin = page == 0 ? 0 : first + (page - 1) * PAGE_BYTES;
    const size_t line = page == 0 ? 0 : mix(key + page) % (PAGE_BYTES / LINE_BYTES);
    const size_t offset = begin + line * LINE_BYTES;
    return offset + LINE_BYTES <= count ? offset : count - LINE_BYTES;
}

static size_t page_count_of(const unsigned char *start, size_t byte_count) {
    const size_t first = (size_t)(-(uintptr_t)start & (PAGE_BYTES - 1));
    return 1 + (byte_count - first + PAGE_BYTES - 1) / PAGE_BYTES;
}

static void fill(unsigned char *start, size_t byte_count, uint64_t key) {
    if (byte_count <= LONGEST_FULLY_CHECKED) {
        fill_part(start, key, 0, byte_count);
        return;
    }
    const size_t pages = page_count_of(start, byte_count);
    for (size_t page = 0; page < pages; page++) {
        const size_t offset = line_offset(key, start, page, byte_count);
        fill_part(start, key, offset, offset + LINE_BYTES);
    }
    fill_part(start, key, byte_count - LINE_BYTES, byte_count);
}

/// Checks the first `limit` bytes of a block that was filled as one of `byte_count` bytes at
/// `origin`; realloc moves blocks and cuts them short.
static size_t check(
    const unsigned char *start, uintptr_t origin, size_t byte_count, uint64_t key, size_t limit) {
    if (byte_count <= LONGEST_FULLY_CHECKED) {
        return check_part(start, key, 0, limit);
    }
    const unsigned char *filled = (const unsigned char *)origin;
    const size_t pages = page_count_of(filled, byte_count);
    size_t wrong = 0;
    for (size_t page = 0; page < pages; page++) {
        const size_t offset = line_offset(key, filled, page, byte_count);
        if (offset + LINE_BYTES > limit) {
            break;
        }
        wrong += check_part(start, key, offset, offset + LINE_BYTES);
    }
    if (limit == byte_count) {
        wrong += check_part(start, key, byte_count - LINE_BYTES, byte_count);
    }
    return wrong;
}

static size_t count_nonzero(const unsigned char *start, size_t byte_count) {
    size_t wrong = 0, offset = 0;
    for (; offset + 8 <= byte_count; offset += 8) {
        uint64_t word;
        memcpy(&word, start + offset, 8);
        if (word) {
            wrong += 8;
        }
    }
    for (; offset < byte_count; offset++) {
        wrong += start[offset] != 0;
    }
    return wrong;
}

static void report_wrong(
    const char *what, const unsigned char *start, size_t byte_count, size_t wrong) {
    if (atomic_fetch_add(&wrong_byte_count, wrong) < 4096) {
        fprintf(stderr, "%s: %zu wrong bytes in the %zu at %p\n", what, wrong, byte_count,
                (const void *)start);
    }
}

// ---- blocks ------------------------------------------------------------------------------------

/// 16 B to 8 MiB, evenly over the powers of two but for the middle ones, whose extents begin and
/// end in the middle of spans, and which come three times as often.
static size_t random_byte_count(uint64_t *state) {
    const uint64_t choice = next(state);
    const unsigned low = choice % 4 == 0 ? 4 : 15;
    const unsigned high = choice % 4 == 0 ? 23 : 21;
    const unsigned power = low + (unsigned)((choice >> 8) % (high - low));
    return ((size_t)1 << power) + (size_t)(next(state) & (((size_t)1 << power) - 1));
}

static void forget(struct slot *slot) {
    const size_t wrong =
        check(slot->start, (uintptr_t)slot->start, slot->byte_count, slot->key, slot->byte_count);
    if (wrong) {
        report_wrong("free", slot->start, slot->byte_count, wrong);
    }
    free(slot->start);
    slot->start = NULL;
}

static void keep(struct slot *slot, void *start, size_t byte_count, uint64_t salt) {
    slot->start = start;
    slot->byte_count = byte_count;
    slot->key = mix((uintptr_t)start ^ seed) ^ mix(byte_count) ^ salt;
    fill(slot->start, byte_count, slot->key);
}

static void allocate(struct slot *slot, uint64_t *state) {
    const size_t byte_count = random_byte_count(state);
    void *start = NULL;
    switch (next(state) % 4) {
    case 0:
        start = calloc(1, byte_count);
        if (start) {
            const size_t wrong = count_nonzero(start, byte_count);
            if (wrong) {
                report_wrong("calloc", start, byte_count, wrong);
            }
        }
        break;
    case 1: {
        const size_t alignment = (size_t)64 << next(state) % 16; // up to a span
        start = aligned_alloc(alignment, (byte_count + alignment - 1) & ~(alignment - 1));
        break;
    }
    default:
        start = malloc(byte_count);
    }
    if (start) {
        keep(slot, start, byte_count, next(state));
    }
}

/// Half of the long blocks grow a little, which jemalloc does in place where it can: the only merge
/// of extents that hold somebody's bytes.
static size_t next_byte_count(const struct slot *slot, uint64_t *state) {
    if (slot->byte_count < MEBIBYTE || slot->byte_count > 8 * MEBIBYTE || next(state) % 2 == 0) {
        return random_byte_count(state);
    }
    return slot->byte_count + slot->byte_count / 8 * (1 + next(state) % 4);
}

static void reallocate(struct slot *slot, uint64_t *state) {
    const size_t byte_count = next_byte_count(slot, state);
    const uintptr_t origin = (uintptr_t)slot->start;
    unsigned char *start = realloc(slot->start, byte_count);
    if (!start) {
        return;
    }
    const size_t kept = byte_count < slot->byte_count ? byte_count : slot->byte_count;
    const size_t wrong = check(start, origin, slot->byte_count, slot->key, kept);
    if (wrong) {
        report_wrong("realloc", start, byte_count, wrong);
    }
    keep(slot, start, byte_count, next(state));
}

static void work_on(struct slot *slot, uint64_t *state) {
    if (atomic_flag_test_and_set_explicit(&slot->busy, memory_order_acquire)) {
        return;
    }
    if (!slot->start) {
        allocate(slot, state);
    } else if (next(state) % (slot->byte_count < MEBIBYTE ? 4 : 2) == 0) {
        reallocate(slot, state);
    } else {
        forget(slot);
    }
    atomic_flag_clear_explicit(&slot->busy, memory_order_release);
    atomic_fetch_add_explicit(&operation_count, 1, memory_order_relaxed);
}

/// Frees a run of neighbours in the table, so that whole spans become empty now and then.
static void sweep(uint64_t *state) {
    const size_t first = next(state) % SLOT_COUNT;
    for (size_t i = 0; i < SLOT_COUNT / 8; i++) {
        struct slot *slot = &slots[(first + i) % SLOT_COUNT];
        if (atomic_flag_test_and_set_explicit(&slot->busy, memory_order_acquire)) {
            continue;
        }
        if (slot->start) {
            forget(slot);
        }
        atomic_flag_clear_explicit(&slot->busy, memory_order_release);
    }
}

// ---- children ----------------------------------------------------------------------------------

static _Noreturn void live_as_child(uint64_t state) {
    atomic_store(&wrong_byte_count, 0);
    for (int i = 0; i < OPERATIONS_OF_CHILD; i++) {
        work_on(&slots[next(&state) % SLOT_COUNT], &state);
    }
    _exit(atomic_load(&wrong_byte_count) ? 1 : 0);
}

static void fork_child(uint64_t *state) {
    if (pthread_mutex_trylock(&one_child_at_a_time) != 0) {
        return;
    }
    const uint64_t child_state = next(state);
    const pid_t child = fork();
    if (child == 0) {
        live_as_child(child_state);
    }
    if (child > 0) {
        atomic_fetch_add(&fork_count, 1);
        const double limit = now() + CHILD_SECONDS;
        int status = 0;
        while (waitpid(child, &status, WNOHANG) == 0) {
            if (now() > limit) {
                printf("a child hung: %d\n", (int)child);
                fflush(stdout);
                kill(child, SIGKILL);
                _exit(3);
            }
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            fprintf(stderr, "child %d ended with status %#x\n", (int)child, (unsigned)status);
            atomic_fetch_add(&wrong_byte_count, 1);
        }
    }
    pthread_mutex_unlock(&one_child_at_a_time);
}

// ---- threads -----------------------------------------------------------------------------------

static void *torment(void *argument) {
    uint64_t state = mix(seed ^ mix((uintptr_t)argument));
    for (unsigned long i = 1; !atomic_load_explicit(&stop, memory_order_relaxed); i++) {
        work_on(&slots[next(&state) % SLOT_COUNT], &state);
        if (next(&state) % 512 == 0) {
            sweep(&state);
        }
        if (forks && i % OPERATIONS_PER_FORK == 0) {
            fork_child(&state);
        }
    }
    return NULL;
}

static _Noreturn void print_usage(void) {
    fprintf(
        stderr, "usage: jemalloc-torture [--threads N] [--seconds S] [--seed N] [--fork]\n");
    exit(2);
}

static void read_arguments(int count, char **arguments) {
    static const struct option options[] = {
        {"threads", required_argument, NULL, 't'}, {"seconds", required_argument, NULL, 's'},
        {"seed", required_argument, NULL, 'r'},    {"fork", no_argument, NULL, 'f'},
        {NULL, 0, NULL, 0},
    };
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        switch (option) {
        case 't': thread_count = (unsigned)strtoul(optarg, NULL, 10); break;
        case 's': seconds = strtod(optarg, NULL); break;
        case 'r': seed = strtoull(optarg, NULL, 10); break;
        case 'f': forks = true; break;
        default: print_usage();
        }
    }
    if (optind != count || thread_count < 1 || thread_count > 256 || !(seconds > 0)) {
        print_usage();
    }
}

int main(int count, char **arguments) {
    read_arguments(count, arguments);
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        atomic_flag_clear(&slots[i].busy);
    }
    static pthread_t threads[256];
    for (unsigned i = 0; i < thread_count; i++) {
        if (pthread_create(&threads[i], NULL, torment, (void *)(uintptr_t)(i + 1)) != 0) {
            perror("pthread_create");
            return 2;
        }
    }
    const double end = now() + seconds;
    while (now() < end) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < thread_count; i++) {
        pthread_join(threads[i], NULL);
    }
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        if (slots[i].start) {
            forget(&slots[i]);
        }
    }
    const unsigned long wrong = atomic_load(&wrong_byte_count);
    printf("operations: %lu\nforks: %lu\nwrong bytes: %lu\n", atomic_load(&operation_count),
           atomic_load(&fork_count), wrong);
    return wrong ? 1 : 0;
}
