// SPDX-License-Identifier: Apache-2.0
//
// Threads write to memory, check what they wrote and give it back with madvise, while others call
// ptreclaim(PTRECLAIM_SHARED) on all of it: a value that is gone was lost at the fence, a thread
// that does not move was forgotten there.
//
//   fence-torture [--threads N] [--callers N] [--seconds S] [--rounds N] [--spans N] [--seed N]
//                 [--memory anonymous|shared|private] [--weather NAME] [--huge] [--library FILE]
//                 [--until-lost]
//
// The library is found as the loader finds it, so LD_LIBRARY_PATH chooses the build. A round runs
// in a process of its own. Exit status: 0 right; 1 a write was lost, an access refused, a child
// wrong or no table freed; 2 usage; 3 a thread or a child hung; 77 skipped, with a reason.

#include "torture.h"

#include <dlfcn.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct options options = {
    .thread_count = 8, .caller_count = 1, .shared_span_count = 4, .round_count = 1, .seconds = 5,
    .seed = 1, .library = "libptreclaim-c.so",
};
struct counters *counters;
char *memory;
unsigned owner_count;
atomic_bool stop;
reclaim_function *reclaim;
struct worker workers[MOST_WORKERS];
unsigned worker_count;
atomic_uint started_count;
bool descriptors_are_safe = true;
_Thread_local struct worker *self;
static void *library;

double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

void advance(struct worker *worker) {
    atomic_fetch_add_explicit(&worker->progress, 1, memory_order_relaxed);
}

// ---- threads -----------------------------------------------------------------------------------

void write_and_purge(struct worker *worker); // writer.c

static void call(struct worker *worker) {
    (void)call_once();
    leave_if_child(worker);
}

struct start {
    struct worker *worker;
    void (*step)(struct worker *worker);
};

static void *work(void *argument) {
    const struct start *start = argument;
    self = start->worker;
    if (start->step == call) {
        become_caller(self);
    }
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        start->step(self);
        advance(self);
    }
    if (start->step == options.weather->blow && options.weather->calm) {
        options.weather->calm(self);
    }
    atomic_store(&self->has_ended, true);
    return NULL;
}

static void start_worker(const char *name, long own_span, void (*step)(struct worker *worker)) {
    static struct start starts[MOST_WORKERS];
    struct worker *worker = &workers[worker_count];
    *worker = (struct worker){
        .name = name, .owner = worker_count, .own_span = own_span, .seen_at = now(),
        .random = options.seed * 1000 + worker_count,
    };
    starts[worker_count] = (struct start){worker, step};
    if (pthread_create(&worker->thread, NULL, work, &starts[worker_count]) != 0) {
        perror("pthread_create");
        _exit(USAGE);
    }
    worker_count++;
}

/// True while a worker is still at work. Ends the process where one has not moved for too long.
static bool watch(void) {
    bool is_working = false;
    double time = now();
    for (unsigned i = 0; i < worker_count; i++) {
        struct worker *worker = &workers[i];
        if (atomic_load(&worker->has_ended)) {
            continue;
        }
        is_working = true;
        unsigned long progress = atomic_load(&worker->progress);
        if (progress != worker->progress_seen) {
            worker->progress_seen = progress;
            worker->seen_at = time;
        } else if (time - worker->seen_at > HANG_SECONDS) {
            fprintf(stderr, "hang: %s %u has not moved for %d s, after %lu steps, at %#lx\n",
                    worker->name, i, HANG_SECONDS, progress,
                    (unsigned long)atomic_load(&worker->address));
            _exit(HUNG);
        }
    }
    return is_working;
}

// ---- a round -----------------------------------------------------------------------------------

static bool map_memory(void) {
    const size_t count = memory_byte_count();
    const bool is_file = options.memory != ANONYMOUS;
    int file = -1;
    if (is_file) {
        file = memfd_create("fence-torture", MFD_CLOEXEC);
        if (file < 0 || ftruncate(file, (off_t)count) != 0) {
            return false;
        }
        // Pages in the page cache: a private mapping copies them, and no fence stops that.
        for (size_t offset = 0; offset < count; offset += PAGE_BYTES) {
            if (pwrite(file, "", 1, (off_t)offset) != 1) {
                return false;
            }
        }
    }
    // Address space that begins on a span, with neighbours that do not merge.
    char *space = mmap(NULL, count + 2 * SPAN_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (space == MAP_FAILED) {
        return false;
    }
    space += SPAN_BYTES - (uintptr_t)space % SPAN_BYTES;
    int flags = options.memory == SHARED_MEMFD ? MAP_SHARED : MAP_PRIVATE;
    memory = mmap(space, count, PROT_READ | PROT_WRITE,
                  flags | MAP_FIXED | (is_file ? 0 : MAP_ANONYMOUS), file, 0);
    if (is_file) {
        close(file);
    }
    return memory != MAP_FAILED;
}

static bool load_library(void) {
    library = dlopen(options.library, RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return false;
    }
    // POSIX wants the cast through a pointer to data.
    *(void **)&reclaim = dlsym(library, "ptreclaim");
    return reclaim != NULL;
}

/// Tables that hold nothing, in all of the memory.
static void make_empty_tables(void) {
    for (size_t offset = 0; offset < memory_byte_count(); offset += SPAN_BYTES) {
        *(volatile char *)(memory + offset) = 1;
        madvise(memory + offset, PAGE_BYTES, MADV_DONTNEED);
    }
}

/// In a process of its own, so that the one that is tortured begins without any state.
static enum status try_a_fence(void) {
    make_empty_tables();
    struct ptreclaim_report report = {.size = sizeof(report)};
    if (reclaim(memory, memory_byte_count(), PTRECLAIM_SHARED, &report) != 0) {
        printf("skipped: ptreclaim: %s\n", strerror(errno));
        return SKIPPED;
    }
    if (report.kept[PTRECLAIM_KEPT_FENCE_UNAVAILABLE]) {
        printf("skipped: no fence is to be had here (userfaultfd)\n");
        return SKIPPED;
    }
    return RIGHT;
}

static enum status run_round(void) {
    const struct weather *weather = options.weather;
    owner_count = options.thread_count + options.caller_count + weather->thread_count;
    if (weather->prepare) {
        weather->prepare();
    }
    const double end = now() + options.seconds;
    for (unsigned i = 0; i < weather->thread_count; i++) {
        start_worker(weather->name, -1, weather->blow);
    }
    for (unsigned i = 0; i < options.caller_count; i++) {
        start_worker("caller", -1, call);
    }
    for (unsigned i = 0; i < options.thread_count; i++) {
        start_worker("writer", options.shared_span_count + i, write_and_purge);
    }
    atomic_store(&started_count, worker_count);
    while (watch()) {
        if (now() > end || (options.ends_when_lost && counters->lost)) {
            if (weather->ends_abruptly) {
                end_abruptly();
            }
            atomic_store(&stop, true);
        }
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    for (unsigned i = 0; i < worker_count; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    if (weather->was_felt && !weather->was_felt()) {
        return LOST;
    }
    // The library's thread is still there, and setuid makes it run its code once more.
    dlclose(library);
    if (setuid(getuid()) != 0) {
        perror("setuid");
        return LOST;
    }
    return RIGHT;
}

// ---- the supervisor ----------------------------------------------------------------------------

static enum status in_a_process(enum status (*act)(void), double limit) {
    fflush(stdout);
    const pid_t child = fork();
    if (child < 0) {
        perror("fork");
        return USAGE;
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        const enum status status = act();
        fflush(stdout);
        _exit((int)status);
    }
    const double end = now() + limit;
    int status = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (now() > end) {
            fprintf(stderr, "hang: the process has not ended\n");
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
            return HUNG;
        }
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    if (WIFSIGNALED(status)) {
        fprintf(stderr, "the process ended by signal %d\n", WTERMSIG(status));
        return LOST;
    }
    return (enum status)WEXITSTATUS(status);
}

static void print_counters(enum status status) {
    const char *(*kept_name)(unsigned) = NULL;
    *(void **)&kept_name = dlsym(library, "ptreclaim_kept_name");
    const struct {
        const char *name;
        unsigned long value;
    } lines[] = {
        {"writes", counters->writes},
        {"writes by the kernel", counters->kernel_writes},
        {"lost writes", counters->lost},
        {"refused accesses", counters->refused},
        {"purges", counters->purges},
        {"calls", counters->calls},
        {"failed calls", counters->failed_calls},
        {"tables freed", counters->freed},
        {"longest wait us", counters->longest_wait_ns / 1000},
        {"longest call us", counters->longest_call_ns / 1000},
        {"weather", counters->weather},
        {"children", counters->children},
        {"wrong children", counters->wrong_children},
        {"forks inside calls", counters->forks_inside_calls},
        {"writes of handlers", counters->writes_of_handlers},
        {"hangs", status == HUNG},
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        printf("%s: %lu\n", lines[i].name, lines[i].value);
    }
    for (unsigned i = 0; kept_name && i < PTRECLAIM_KEPT_REASONS; i++) {
        if (counters->kept[i]) {
            printf("kept %s: %lu\n", kept_name(i), (unsigned long)counters->kept[i]);
        }
    }
}

static enum status verdict(void) {
    if (counters->lost || counters->refused || counters->wrong_children || counters->failed_calls) {
        return LOST;
    }
    if (options.weather->ends_abruptly) {
        return counters->calls ? RIGHT : LOST;
    }
    if (options.memory == PRIVATE_MEMFD) {
        // Nothing of it can be fenced, so nothing may be freed.
        return counters->freed == 0 && counters->kept[PTRECLAIM_KEPT_PRIVATE_FILE] ? RIGHT : LOST;
    }
    return counters->freed ? RIGHT : LOST;
}

// ---- options -----------------------------------------------------------------------------------

static _Noreturn void print_usage(void) {
    fprintf(stderr,
            "usage: fence-torture [--threads N] [--callers N] [--seconds S] [--rounds N]\n"
            "       [--spans N] [--seed N] [--memory anonymous|shared|private] [--huge]\n"
            "       [--weather NAME] [--library FILE] [--until-lost]\nweathers:");
    print_weathers();
    exit(USAGE);
}

static enum memory_kind memory_named(const char *name) {
    static const char *const names[] = {"anonymous", "shared", "private"};
    for (unsigned i = 0; i < 3; i++) {
        if (strcmp(name, names[i]) == 0) {
            return (enum memory_kind)i;
        }
    }
    print_usage();
}

static unsigned number(const char *text, unsigned least, unsigned most) {
    char *end = NULL;
    const unsigned long value = strtoul(text, &end, 10);
    if (*end || value < least || value > most) {
        print_usage();
    }
    return (unsigned)value;
}

static void read_arguments(int count, char **arguments) {
    static const struct option known[] = {
        {"threads", required_argument, NULL, 't'}, {"callers", required_argument, NULL, 'c'},
        {"seconds", required_argument, NULL, 's'}, {"rounds", required_argument, NULL, 'r'},
        {"spans", required_argument, NULL, 'n'},   {"seed", required_argument, NULL, 'e'},
        {"memory", required_argument, NULL, 'm'},  {"weather", required_argument, NULL, 'w'},
        {"library", required_argument, NULL, 'l'}, {"huge", no_argument, NULL, 'h'},
        {"until-lost", no_argument, NULL, 'u'},
        {NULL, 0, NULL, 0},
    };
    options.weather = find_weather("none");
    for (int option; (option = getopt_long(count, arguments, "", known, NULL)) != -1;) {
        switch (option) {
        case 't': options.thread_count = number(optarg, 1, 64); break;
        case 'c': options.caller_count = number(optarg, 0, 8); break;
        case 's': options.seconds = strtod(optarg, NULL); break;
        case 'r': options.round_count = number(optarg, 1, 1000000); break;
        case 'n': options.shared_span_count = number(optarg, 1, 4096); break;
        case 'e': options.seed = strtoull(optarg, NULL, 10); break;
        case 'm': options.memory = memory_named(optarg); break;
        case 'w': options.weather = find_weather(optarg); break;
        case 'l': options.library = optarg; break;
        case 'u': options.ends_when_lost = true; break;
        case 'h': options.has_huge_pages = true; break;
        default: print_usage();
        }
    }
    if (optind != count || !(options.seconds > 0) || !options.weather) {
        print_usage();
    }
}

int main(int count, char **arguments) {
    if (getenv("FENCE_TORTURE_ENDS")) {
        return RIGHT; // what end_abruptly executes
    }
    read_arguments(count, arguments);
    // Not by madvise, which would leave an attribute that mmap(MAP_FIXED) would lose.
    if (!options.has_huge_pages && prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0) {
        perror("PR_SET_THP_DISABLE");
        return USAGE;
    }
    counters = mmap(NULL, sizeof(*counters), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                    -1, 0);
    if (counters == MAP_FAILED || !map_memory() || !load_library()) {
        perror("fence-torture");
        return USAGE;
    }
    enum status status = RIGHT;
    if (options.memory == ANONYMOUS) {
        status = in_a_process(try_a_fence, 30);
        if (status != RIGHT) {
            return (int)status;
        }
    }
    for (unsigned round = 0; round < options.round_count && status == RIGHT; round++) {
        options.seed += 1;
        status = in_a_process(run_round, options.seconds + 60);
    }
    print_counters(status);
    return (int)(status != RIGHT ? status : verdict());
}
