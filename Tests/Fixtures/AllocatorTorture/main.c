// SPDX-License-Identifier: Apache-2.0
//
// jemalloc-torture for any allocator, and for a program's own mappings: it links only libc, so
// LD_PRELOAD chooses who is behind malloc.
//
//   allocator-torture [--threads N] [--seconds S] [--seed N] [--fork] [--mappings] [--hold BYTES]
//
// N threads allocate, check and free, and ask the allocator now and then to give back all it can,
// so that it purges while others write. With --mappings, as many threads again: one half changes
// mappings of its own, the other writes to empty spans, whose tables are still there. With --fork,
// children look at all they can, and change their copy.
// --hold limits the bytes that are allocated at a time.
// Exit status: 0 right, 1 wrong bytes or a call refused, 2 usage, 3 a thread or a child hung.

#include "blocks.h"
#include "contents.h"
#include "mappings.h"
#include "release.h"

#include <fcntl.h>
#include <getopt.h>
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
    MOST_THREADS = MOST_MAPPERS,
    HANG_SECONDS = 20,
    END_SECONDS = 60,
    STEPS_PER_RELEASE = 50,
    STEPS_PER_FORK = 100,
    STEPS_OF_CHILD = 60,
};

/// A thread. Only `progress` is read by others while it works.
struct worker {
    pthread_t thread;
    void (*work)(struct worker *worker);
    const char *name;
    unsigned index;
    uint64_t state;
    atomic_ulong progress;
    atomic_bool has_ended;
    atomic_int thread_id;
    unsigned long seen_progress;
    double seen_at;
};

static struct worker workers[2 * MOST_THREADS + 1];
static unsigned worker_count;
static atomic_ulong purge_count, fork_count;
static atomic_bool stop;
static pthread_mutex_t one_child_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static unsigned thread_count = 4;
static double seconds = 10;
static uint64_t seed = 1;
static bool forks, maps;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// ---- children ----------------------------------------------------------------------------------

/// mimalloc has no fork handlers: a child may wait for ever for a heap that another thread was
/// changing. It can look at blocks, but must not allocate.
static bool child_may_allocate(void) { return strcmp(allocator_name(), "mimalloc") != 0; }

static _Noreturn void live_as_child(uint64_t state) {
    atomic_store(&wrong_byte_count, 0);
    check_blocks();
    use_mappings_as_child(&state);
    for (int i = 0; child_may_allocate() && i < STEPS_OF_CHILD; i++) {
        work_on_a_block(&state);
    }
    if (child_may_allocate()) {
        release_free_memory();
        check_blocks();
    }
    _exit(atomic_load(&wrong_byte_count) ? 1 : 0);
}

static void fork_child(struct worker *worker) {
    if (pthread_mutex_trylock(&one_child_at_a_time) != 0) {
        return;
    }
    const uint64_t child_state = next(&worker->state);
    const pid_t child = fork();
    if (child == 0) {
        live_as_child(child_state);
    }
    if (child > 0) {
        atomic_fetch_add(&fork_count, 1);
        const double limit = now() + HANG_SECONDS;
        int status = 0;
        while (waitpid(child, &status, WNOHANG) == 0) {
            if (now() > limit) {
                printf("stuck: child %d\n", (int)child);
                fflush(stdout);
                kill(child, SIGKILL);
                _exit(3);
            }
            atomic_fetch_add_explicit(&worker->progress, 1, memory_order_relaxed);
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

static void allocate_and_free(struct worker *worker) {
    work_on_a_block(&worker->state);
    if (next(&worker->state) % 512 == 0) {
        sweep_blocks(&worker->state);
    }
    if (next(&worker->state) % STEPS_PER_RELEASE == 0) {
        release_free_memory();
        atomic_fetch_add_explicit(&purge_count, 1, memory_order_relaxed);
    }
    if (forks && next(&worker->state) % STEPS_PER_FORK == 0) {
        fork_child(worker);
    }
}

static void change(struct worker *worker) { change_mappings(worker->index, &worker->state); }

static void write_to_empty(struct worker *worker) {
    use_empty_spans(worker->index, &worker->state);
}

static void *run(void *argument) {
    struct worker *worker = argument;
    atomic_store(&worker->thread_id, (int)gettid());
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        worker->work(worker);
        atomic_fetch_add_explicit(&worker->progress, 1, memory_order_relaxed);
    }
    atomic_store(&worker->has_ended, true);
    return NULL;
}

static void start(const char *name, unsigned index, void (*work)(struct worker *worker)) {
    struct worker *worker = &workers[worker_count];
    worker->name = name;
    worker->index = index;
    worker->work = work;
    worker->state = mix(seed ^ mix(++worker_count));
    worker->seen_at = now();
    if (pthread_create(&worker->thread, NULL, run, worker) != 0) {
        perror("pthread_create");
        _exit(2);
    }
}

/// Where a thread is in the kernel, as far as one may know.
static void print_place(const struct worker *worker) {
    static const char *const files[] = {"wchan", "syscall", "stack"};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        char path[64], text[2048];
        snprintf(
            path, sizeof(path), "/proc/self/task/%d/%s", atomic_load(&worker->thread_id), files[i]);
        const int file = open(path, O_RDONLY | O_CLOEXEC);
        const ssize_t count = file < 0 ? 0 : read(file, text, sizeof(text));
        printf("%s: %.*s\n", files[i], count < 0 ? 0 : (int)count, text);
        close(file);
    }
}

/// True while a thread is at work. Ends the process when one has not moved for too long.
static bool watch(void) {
    bool is_working = false;
    const double time = now();
    for (unsigned i = 0; i < worker_count; i++) {
        struct worker *worker = &workers[i];
        if (atomic_load(&worker->has_ended)) {
            continue;
        }
        is_working = true;
        const unsigned long progress = atomic_load(&worker->progress);
        if (progress != worker->seen_progress) {
            worker->seen_progress = progress;
            worker->seen_at = time;
        } else if (time - worker->seen_at > HANG_SECONDS) {
            printf("stuck: %s thread %u, after %lu steps\n", worker->name, worker->index, progress);
            print_place(worker);
            fflush(stdout);
            _exit(3);
        }
    }
    return is_working;
}

/// The main thread itself is stuck, in the checks at the end.
static void end_stuck(int signal) {
    (void)signal;
    static const char text[] = "stuck: at the end\n";
    _exit(write(1, text, sizeof(text) - 1) < 0 ? 3 : 3);
}

// ---- arguments ---------------------------------------------------------------------------------

static _Noreturn void print_usage(void) {
    fprintf(stderr, "usage: allocator-torture [--threads N] [--seconds S] [--seed N] [--fork]\n"
                    "                         [--mappings] [--hold BYTES]\n");
    exit(2);
}

static uint64_t read_number(const char *text) {
    char *end = NULL;
    const uint64_t number = strtoull(text, &end, 10);
    if (end == text || *end) {
        print_usage();
    }
    return number;
}

static void read_arguments(int count, char **arguments) {
    static const struct option options[] = {
        {"threads", required_argument, NULL, 't'}, {"seconds", required_argument, NULL, 's'},
        {"seed", required_argument, NULL, 'r'},    {"fork", no_argument, NULL, 'f'},
        {"mappings", no_argument, NULL, 'm'},      {"hold", required_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        switch (option) {
        case 't': thread_count = (unsigned)read_number(optarg); break;
        case 's': seconds = strtod(optarg, NULL); break;
        case 'r': seed = read_number(optarg); break;
        case 'f': forks = true; break;
        case 'm': maps = true; break;
        case 'h': live_byte_limit = read_number(optarg); break;
        default: print_usage();
        }
    }
    if (optind != count || thread_count < 1 || thread_count > MOST_THREADS || !(seconds > 0)) {
        print_usage();
    }
}

int main(int count, char **arguments) {
    read_arguments(count, arguments);
    const char *allocator = allocator_name();
    const unsigned mapper_count = (thread_count + 1) / 2;
    if (maps && !prepare_mappings(mapper_count)) {
        perror("allocator-torture: mmap");
        return 2;
    }
    for (unsigned i = 0; i < thread_count; i++) {
        start("allocating", i, allocate_and_free);
    }
    for (unsigned i = 0; maps && i < mapper_count; i++) {
        start("mapping", i, change);
        start("writing", i, write_to_empty);
    }
    const double end = now() + seconds;
    while (now() < end) {
        watch();
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    atomic_store(&stop, true);
    while (watch()) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    signal(SIGALRM, end_stuck);
    alarm(END_SECONDS);
    for (unsigned i = 0; i < worker_count; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    check_mappings();
    free_blocks();
    const unsigned long wrong = atomic_load(&wrong_byte_count);
    printf("allocator: %s\noperations: %lu\npurges: %lu\nforks: %lu\n", allocator,
           atomic_load(&operation_count), atomic_load(&purge_count), atomic_load(&fork_count));
    if (maps) {
        print_mapping_counts();
    }
    printf("wrong: %lu\n", wrong);
    return wrong ? 1 : 0;
}
