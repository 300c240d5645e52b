// SPDX-License-Identifier: Apache-2.0
//
// The fence stops the kernel, too, where it reaches into a span: read(2) waits until the fence is
// down. This finds the paths that do not wait but fail. Each runs in a process of its own.
//
//   fence-paths [--only NAME] [--list] [--hold MICROSECONDS] [--rounds N] [--storm N] [--verbose]
//               [--user-mode-only] [--messages]
//
// A round: empty span; fence up; the access starts on another thread; the userfaultfd says that
// somebody waits, or the call has returned; hold; second look and free; fence down; result. Then a
// storm of N fences, while the access is repeated. A line for each path:
//
//   NAME: waits | fails ERRNO | short | wrong data | hangs | not met | skipped REASON
//
// `not met`: the call was right, and nothing waited. `--user-mode-only` is the control: with such
// a userfaultfd nearly every path must fail. `--messages` asks what the userfaultfd's messages
// cost and tell. Exit status: 0, whatever was found; 2 usage; 77 no userfaultfd.

#include "paths.h"

#include "linux_mm.h"

#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct {
    const char *only;
    unsigned hold_microseconds, round_count, storm_count;
    bool list, verbose, user_mode_only, messages;
} options = {.hold_microseconds = 300, .round_count = 20, .storm_count = 200};

enum { WATCHDOG_SECONDS = 10, MEET_MILLISECONDS = 20 };

/// What the parent reads after the child has ended, however it did.
struct report {
    atomic_uint rounds, met, right, failed, cut_short, wrong;
    atomic_uint storm_calls, storm_failed, storm_cut_short, storm_wrong, freed;
    atomic_int error; // the first
    char reason[128];
};
static struct report *report;

char pattern[BUFFER_BYTES];

_Noreturn void give_up(const char *what) {
    perror(what);
    _exit(1);
}

_Noreturn void skip(const char *reason) {
    snprintf(report->reason, sizeof(report->reason), "%s", reason);
    _exit(0);
}

bool buffer_has_pattern(struct stage *stage) {
    return memcmp(stage->buffer, pattern, BUFFER_BYTES) == 0;
}

bool buffer_is_zero(struct stage *stage) {
    for (size_t index = 0; index < BUFFER_BYTES; ++index) {
        if (stage->buffer[index]) {
            return false;
        }
    }
    return true;
}

bool out_has_zeros(struct stage *stage) {
    static const char zeros[BUFFER_BYTES];
    char bytes[BUFFER_BYTES];
    size_t count = 0;
    while (count < sizeof(bytes)) {
        ssize_t got = read(stage->out, bytes + count, sizeof(bytes) - count);
        if (got <= 0) {
            return false;
        }
        count += (size_t)got;
    }
    return memcmp(bytes, zeros, sizeof(bytes)) == 0;
}

int open_file(int flags) {
    char name[] = "/var/tmp/fence-paths-XXXXXX";
    int fd = mkstemp(name);
    if (fd < 0 || pwrite(fd, pattern, sizeof(pattern), 0) != sizeof(pattern) || fsync(fd) < 0) {
        give_up("file");
    }
    int opened = open(name, O_RDWR | flags);
    int error = errno;
    unlink(name);
    close(fd);
    errno = error;
    return opened;
}

// ---- the fence ---------------------------------------------------------------------------------

static struct stage stage;
static const struct path *path;
static int userfaultfd = -1, pagemap = -1;
static sem_t go, done;
static atomic_bool has_returned, storm_is_over;
static long result;

static int open_userfaultfd(void) {
    if (!options.user_mode_only) {
        return ptreclaim_open_userfaultfd();
    }
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
    struct ptreclaim_uffd_api api = {.api = PTRECLAIM_UFFD_API};
    return fd >= 0 && ptreclaim_ioctl(fd, PTRECLAIM_UFFDIO_API, &api) >= 0 ? fd : -1;
}

static void put_up(void) {
    struct ptreclaim_uffd_register registration = {
        .range = {(uintptr_t)stage.span, SPAN_BYTES}, .mode = PTRECLAIM_UFFD_REGISTER_MISSING};
    long error = ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_REGISTER, &registration);
    if (error < 0) {
        errno = (int)-error;
        give_up("UFFDIO_REGISTER");
    }
}

static void take_down(void) {
    struct ptreclaim_uffd_range range = {(uintptr_t)stage.span, SPAN_BYTES};
    if (ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_UNREGISTER, &range) < 0
        || ptreclaim_ioctl(userfaultfd, PTRECLAIM_UFFDIO_WAKE, &range) < 0) {
        give_up("UFFDIO_UNREGISTER");
    }
}

static void pause_for(unsigned microseconds) {
    uint64_t end = ptreclaim_monotonic_nanoseconds() + microseconds * 1000ull;
    while (ptreclaim_monotonic_nanoseconds() < end) {
        if (path->with_signals) {
            syscall(SYS_tgkill, getpid(), stage.accessor, SIGUSR1);
        }
        struct timespec slice = {0, 50000};
        nanosleep(&slice, NULL);
    }
}

/// As the fence does it: what is none at the second look stays none, so its table may go.
static void free_if_empty(void) {
    static bool has_scan, is_probed;
    if (!is_probed) {
        has_scan = ptreclaim_probe_pagemap_scan(pagemap);
        is_probed = true;
    }
    uintptr_t page = 0, start = (uintptr_t)stage.span;
    if (ptreclaim_first_populated(pagemap, has_scan, start, start + SPAN_BYTES, &page) == 0) {
        ptreclaim_madvise(start, SPAN_BYTES, PTRECLAIM_MADV_DONTNEED_LOCKED);
        atomic_fetch_add(&report->freed, 1);
    }
}

/// The PTE table stays, with no entry in it.
static void empty_span(void) {
    madvise(stage.span, SPAN_BYTES, MADV_DONTNEED_LOCKED);
    *(volatile char *)(stage.span + SPAN_BYTES - PAGE_BYTES) = 1;
    madvise(stage.span + SPAN_BYTES - PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED_LOCKED);
}

// ---- the access --------------------------------------------------------------------------------

static void count(atomic_uint *failed, atomic_uint *cut_short, atomic_uint *wrong) {
    if (result < 0 && result != path->expected) {
        int none = 0;
        atomic_compare_exchange_strong(&report->error, &none, (int)-result);
        atomic_fetch_add(failed, 1);
    } else if (result != path->expected) {
        atomic_fetch_add(cut_short, 1);
    } else if (path->check && !path->check(&stage)) {
        atomic_fetch_add(wrong, 1);
    } else {
        atomic_fetch_add(&report->right, 1);
    }
}

static void prepare_call(void) {
    if (path->arm) {
        path->arm(&stage);
    }
    empty_span();
}

static void *access_span(void *nothing) {
    (void)nothing;
    stage.accessor = (pid_t)syscall(SYS_gettid);
    if (path->prepare) {
        const char *reason = path->prepare(&stage);
        if (reason) {
            skip(reason);
        }
    }
    // Once without a fence, or a failure would mean nothing.
    prepare_call();
    result = path->call(&stage);
    if (result != path->expected || (path->check && !path->check(&stage))) {
        snprintf(
            report->reason, sizeof(report->reason), "without a fence it is %s",
            result < 0 ? strerrorname_np((int)-result) : "short or wrong");
        _exit(0);
    }
    sem_post(&done);
    for (unsigned round = 0; round < options.round_count; ++round) {
        prepare_call();
        sem_post(&done);
        sem_wait(&go);
        result = path->call(&stage);
        atomic_store(&has_returned, true);
        sem_post(&done);
        sem_wait(&go);
        count(&report->failed, &report->cut_short, &report->wrong);
    }
    sem_post(&done);
    while (!atomic_load(&storm_is_over)) {
        prepare_call();
        result = path->call(&stage);
        atomic_fetch_add(&report->storm_calls, 1);
        count(&report->storm_failed, &report->storm_cut_short, &report->storm_wrong);
    }
    return NULL;
}

static void wait_for(sem_t *semaphore) {
    while (sem_wait(semaphore) < 0 && errno == EINTR) {
    }
}

static void play_round(void) {
    wait_for(&done); // armed
    atomic_store(&has_returned, false);
    put_up();
    sem_post(&go);
    bool is_met = false;
    uint64_t end = ptreclaim_monotonic_nanoseconds() + MEET_MILLISECONDS * 1000000ull;
    while (!is_met && !atomic_load(&has_returned) && ptreclaim_monotonic_nanoseconds() < end) {
        struct pollfd poll_userfaultfd = {.fd = userfaultfd, .events = POLLIN};
        is_met = poll(&poll_userfaultfd, 1, 1) > 0 && (poll_userfaultfd.revents & POLLIN);
    }
    atomic_fetch_add(&report->rounds, 1);
    if (is_met) {
        atomic_fetch_add(&report->met, 1);
    }
    pause_for(options.hold_microseconds);
    free_if_empty();
    take_down();
    wait_for(&done); // returned
    sem_post(&go);
}

static void ignore_signal(int signal) {
    (void)signal;
}

static _Noreturn void play(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    unsigned fence_count = options.round_count + options.storm_count;
    alarm(WATCHDOG_SECONDS + (unsigned)(1ull * fence_count * options.hold_microseconds / 1000000));
    struct sigaction action = {.sa_handler = ignore_signal}; // no SA_RESTART
    sigaction(SIGUSR1, &action, NULL);
    char *memory = mmap(
        NULL, 3 * SPAN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        give_up("mmap");
    }
    madvise(memory, 3 * SPAN_BYTES, MADV_NOHUGEPAGE);
    stage.span = (char *)(((uintptr_t)memory + SPAN_BYTES - 1) & ~(uintptr_t)(SPAN_BYTES - 1));
    stage.buffer = stage.span + 16 * PAGE_BYTES;
    stage.in = stage.out = stage.ask = stage.answer = -1;
    sem_init(&go, 0, 0);
    sem_init(&done, 0, 0);
    pthread_t accessor;
    pagemap = ptreclaim_open_self_pagemap();
    userfaultfd = open_userfaultfd();
    if (userfaultfd < 0 || pthread_create(&accessor, NULL, access_span, NULL)) {
        give_up("userfaultfd or thread");
    }
    wait_for(&done); // the call without a fence
    for (unsigned round = 0; round < options.round_count; ++round) {
        play_round();
    }
    wait_for(&done);
    for (unsigned fence = 0; fence < options.storm_count; ++fence) {
        put_up();
        pause_for(options.hold_microseconds);
        free_if_empty();
        take_down();
        struct timespec gap = {0, 50000};
        nanosleep(&gap, NULL);
    }
    atomic_store(&storm_is_over, true);
    pthread_join(accessor, NULL);
    _exit(0);
}

// ---- the report --------------------------------------------------------------------------------

static void print_line(int status) {
    printf("%s: ", path->name);
    if (path->not_here || report->reason[0]) {
        printf("skipped %s\n", path->not_here ? path->not_here : report->reason);
        return;
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
        printf("hangs");
    } else if (WIFSIGNALED(status)) {
        printf("fails SIG%s", sigabbrev_np(WTERMSIG(status)));
    } else if (WEXITSTATUS(status)) {
        printf("skipped something else went wrong");
    } else if (report->failed || report->storm_failed) {
        const char *name = strerrorname_np(report->error);
        printf("fails %s", name ? name : "of another kind");
    } else if (report->cut_short || report->storm_cut_short) {
        printf("short");
    } else if (report->wrong || report->storm_wrong) {
        printf("wrong data");
    } else {
        printf(report->met ? "waits" : "not met");
    }
    if (options.verbose) {
        printf(
            " (met %u of %u, failed %u, short %u, wrong %u; storm %u: failed %u, short %u, wrong "
            "%u; freed %u)",
            report->met, report->rounds, report->failed, report->cut_short, report->wrong,
            report->storm_calls, report->storm_failed, report->storm_cut_short,
            report->storm_wrong, report->freed);
    }
    putchar('\n');
    fflush(stdout);
}

static unsigned run(const struct path *paths) {
    unsigned found = 0;
    for (path = paths; path->name; ++path) {
        if (options.only && strcmp(options.only, path->name) != 0) {
            continue;
        }
        found += 1;
        if (options.list) {
            puts(path->name);
            continue;
        }
        memset(report, 0, sizeof(*report));
        int status = 0;
        fflush(stdout);
        if (!path->not_here) {
            pid_t child = fork();
            if (child == 0) {
                play();
            }
            waitpid(child, &status, 0);
        }
        print_line(status);
    }
    return found;
}

static _Noreturn void usage(void) {
    fprintf(
        stderr, "usage: fence-paths [--only NAME] [--list] [--hold MICROSECONDS] [--rounds N]\n"
                "                   [--storm N] [--verbose] [--user-mode-only] [--messages]\n");
    exit(2);
}

static unsigned number(const char *text) {
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end || value > 1000000) {
        usage();
    }
    return (unsigned)value;
}

int main(int argument_count, char **arguments) {
    static const struct option known[] = {
        {"only", 1, 0, 'o'},    {"list", 0, 0, 'l'},    {"hold", 1, 0, 'h'},
        {"rounds", 1, 0, 'r'},  {"storm", 1, 0, 's'},   {"verbose", 0, 0, 'v'},
        {"user-mode-only", 0, 0, 'u'}, {"messages", 0, 0, 'm'}, {0},
    };
    for (int option; (option = getopt_long(argument_count, arguments, "", known, NULL)) != -1;) {
        switch (option) {
        case 'o': options.only = optarg; break;
        case 'l': options.list = true; break;
        case 'h': options.hold_microseconds = number(optarg); break;
        case 'r': options.round_count = number(optarg); break;
        case 's': options.storm_count = number(optarg); break;
        case 'v': options.verbose = true; break;
        case 'u': options.user_mode_only = true; break;
        case 'm': options.messages = true; break;
        default: usage();
        }
    }
    if (optind != argument_count) {
        usage();
    }
    for (size_t index = 0; index < sizeof(pattern); ++index) {
        pattern[index] = (char)(1 + index % 251);
    }
    report = mmap(
        NULL, sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (report == MAP_FAILED) {
        give_up("mmap");
    }
    if (!options.list) {
        int probe = open_userfaultfd();
        if (probe < 0) {
            puts("skipped: no userfaultfd that stops the kernel");
            return 77;
        }
        close(probe);
    }
    if (options.messages) {
        print_messages();
        return 0;
    }
    unsigned found =
        run(file_paths) + run(socket_paths) + run(uring_paths) + run(process_paths);
    if (!found) {
        usage();
    }
    return 0;
}
