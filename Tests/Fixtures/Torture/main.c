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

#include "blocks.h"
#include "contents.h"

#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    CHILD_SECONDS = 20,
    OPERATIONS_PER_FORK = 100,
    OPERATIONS_OF_CHILD = 60,
};

static atomic_ulong fork_count;
static atomic_bool stop;
static pthread_mutex_t one_child_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static unsigned thread_count = 8;
static double seconds = 10;
static uint64_t seed = 1;
static bool forks;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// ---- children ----------------------------------------------------------------------------------

static _Noreturn void live_as_child(uint64_t state) {
    atomic_store(&wrong_byte_count, 0);
    for (int i = 0; i < OPERATIONS_OF_CHILD; i++) {
        work_on_a_block(&state);
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
        work_on_a_block(&state);
        if (next(&state) % 512 == 0) {
            sweep_blocks(&state);
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
    free_blocks();
    const unsigned long wrong = atomic_load(&wrong_byte_count);
    printf("operations: %lu\nforks: %lu\nwrong bytes: %lu\n", atomic_load(&operation_count),
           atomic_load(&fork_count), wrong);
    return wrong ? 1 : 0;
}
