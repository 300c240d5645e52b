// SPDX-License-Identifier: Apache-2.0
//
// mode-victim [--preload LIBRARY] [--nobody] [--filter WHAT]… [--no-proc] [--as BYTES] ACT [ARGUMENT]
//
// What comes before ACT is done without the library; then the program executes itself with it.

#include "victim.h"

#include "stats_page.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { SPAN_BYTES = 2 << 20, PAGE_BYTES = 4096 };

static const struct ptreclaim_stats_page *page; // NULL: the library shows none
static char output_path[PATH_MAX];
static int status; // /proc/self/status
static char *memory;
static long wrong_bytes;

// ---- saying ------------------------------------------------------------------------------------

void say(const char *name, long number) { printf("%s: %ld\n", name, number); }

void must(bool is_done, const char *call) {
    if (!is_done) {
        fprintf(stderr, "%s: %s\n", call, strerror(errno));
        exit(USAGE);
    }
}

void skip(const char *reason) {
    printf("skipped: %s\n", reason);
    exit(SKIPPED);
}

void nap(long milliseconds) {
    nanosleep(&(struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000}, NULL);
}

void reopen_output(void) {
    const int fd = open(output_path, O_WRONLY | O_APPEND);
    must(fd >= 0 && dup2(fd, 1) == 1 && dup2(fd, 2) == 2, "output");
}

static void find_page(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[PATH_MAX + 128];
    while (maps && fgets(line, sizeof(line), maps)) {
        if (strstr(line, PTRECLAIM_STATS_NAME)) {
            page = (const struct ptreclaim_stats_page *)strtoul(line, NULL, 16);
        }
    }
    if (maps) {
        fclose(maps);
    }
}

void say_page(const char *prefix) {
    printf("%swrong_bytes: %ld\n", prefix, wrong_bytes);
    if (!page) {
        printf("%spage: none\n", prefix);
        return;
    }
    printf("%sown_page: %d\n", prefix, page->pid == getpid());
    printf("%smode: %u\n%spasses: %lu\n", prefix, page->mode, prefix, (unsigned long)page->passes);
    printf("%sfences: %lu\n", prefix, (unsigned long)page->fences);
#define X(field, text) \
    if (page->refused_##field) { \
        printf("%srefused_" #field ": %lu\n", prefix, (unsigned long)page->refused_##field); \
    }
    PTRECLAIM_REFUSALS(X)
#undef X
    for (int i = 0; i < PTRECLAIM_STATS_REASONS; i++) {
        if (page->kept[i]) {
            printf("%skept %d: %lu\n", prefix, i, (unsigned long)page->kept[i]);
        }
    }
}

// ---- the memory --------------------------------------------------------------------------------

static bool is_kept(int span) { return span % KEPT_EVERY == KEPT_EVERY - 1; }

static char *page_of(int span) { return memory + (size_t)span * SPAN_BYTES + 3 * PAGE_BYTES; }

static char *map_spans(int spans) {
    const size_t count = (size_t)(spans + 1) * SPAN_BYTES;
    char *mapped = mmap(NULL, count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(mapped != MAP_FAILED, "mmap");
    madvise(mapped, count, MADV_NOHUGEPAGE);
    return (char *)(((uintptr_t)mapped + SPAN_BYTES - 1) & ~(uintptr_t)(SPAN_BYTES - 1));
}

/// Leaves an empty table.
static void purge(char *span) {
    *span = 1;
    madvise(span, PAGE_BYTES, MADV_DONTNEED);
}

static void check(void) {
    for (int span = 0; span < SPANS; span++) {
        const char wanted = is_kept(span) ? (char)(span + 1) : 0;
        for (size_t i = 0; i < PAGE_BYTES; i++) {
            wrong_bytes += page_of(span)[i] != wanted;
        }
    }
}

/// VmPTE in kB; 0 where it cannot be read.
static long page_tables_kib(void) {
    char text[4096];
    const long count = status >= 0 ? pread(status, text, sizeof(text) - 1, 0) : 0;
    text[count > 0 ? count : 0] = '\0';
    const char *line = strstr(text, "VmPTE:");
    return line ? strtol(line + strlen("VmPTE:"), NULL, 10) : 0;
}

/// What the library counts; where it shows nothing, what VmPTE has lost.
static long freed_since(long before) {
    return page ? (long)__atomic_load_n(&page->tables_freed, __ATOMIC_RELAXED) - before
                : (before - page_tables_kib()) / 4;
}

unsigned long fences(void) { return page ? __atomic_load_n(&page->fences, __ATOMIC_RELAXED) : 0; }

double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

long serve(long milliseconds) {
    if (!memory) {
        memory = map_spans(SPANS);
    }
    // A child has a page of its own when its service thread runs, or something was counted.
    for (int i = 0; i < 50 && page && page->pid != getpid(); i++) {
        nap(4);
    }
    for (int span = 0; span < SPANS; span++) {
        memset(page_of(span), span + 1, PAGE_BYTES);
    }
    const long before = page ? freed_since(0) : page_tables_kib();
    for (int span = 0; span < SPANS; span++) {
        if (!is_kept(span)) {
            madvise(page_of(span), PAGE_BYTES, MADV_DONTNEED);
        }
    }
    const double end = now() + (double)milliseconds * 1e-3;
    while (freed_since(before) < EMPTY && now() < end) {
        nap(2);
    }
    const long freed = freed_since(before);
    check(); // which makes the tables again
    return freed;
}

void serve_and_say(const char *name, bool wanted) { say(name, serve(wanted ? 8000 : 250)); }

static void *do_nothing(void *argument) { return argument; }

void start_a_thread(void) {
    pthread_t thread;
    must(pthread_create(&thread, NULL, do_nothing, NULL) == 0, "pthread_create");
    pthread_join(thread, NULL);
}

// ---- before the library ------------------------------------------------------------------------

static void become_nobody(void) {
    must(!setgroups(0, NULL) && !setgid(65534) && !setuid(65534), "setuid");
}

static void leave_procfs(void) {
    must(!unshare(CLONE_NEWNS), "unshare");
    must(!mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "mount");
    must(!umount2("/proc", MNT_DETACH), "umount");
}

static void limit(int resource, const char *number) {
    const rlim_t count = strtoul(number, NULL, 0);
    must(!setrlimit((__rlimit_resource_t)resource, &(struct rlimit){count, count}), "setrlimit");
}

/// Returns where ACT is. Executes the program again where there was anything to be done.
static int prepare(int count, char *arguments[]) {
    const char *library = NULL;
    int at = 1;
    for (; at < count && strncmp(arguments[at], "--", 2) == 0; at++) {
        const char *option = arguments[at];
        const char *value = at + 1 < count ? arguments[at + 1] : "";
        if (strcmp(option, "--nobody") == 0) {
            become_nobody();
        } else if (strcmp(option, "--no-proc") == 0) {
            leave_procfs();
        } else if (strcmp(option, "--preload") == 0) {
            library = value;
            at++;
        } else if (strcmp(option, "--filter") == 0) {
            filter_from_now_on(value, 0, false);
            at++;
        } else if (strcmp(option, "--as") == 0) {
            limit(RLIMIT_AS, value);
            at++;
        } else if (strcmp(option, "--files") == 0) {
            limit(RLIMIT_NOFILE, value);
            at++;
        } else {
            exit(USAGE);
        }
    }
    if (at > 1) {
        char self[PATH_MAX] = "";
        strncpy(self, arguments[0], sizeof(self) - 1);
        if (library) {
            setenv("LD_PRELOAD", library, 1);
        }
        arguments[at - 1] = self;
        execv(self, arguments + at - 1);
        must(false, "execv");
    }
    return at;
}

// ---- acts --------------------------------------------------------------------------------------

static void plain(const char *argument) {
    serve_and_say("freed", strcmp(argument, "off") != 0);
}

/// More empty tables than a pass may look at, and one more when the first pass has been cut short.
static void purges_behind_a_cut_pass(const char *argument) {
    (void)argument;
    enum { MANY = 300 };
    char *many = map_spans(MANY);
    for (int span = 0; span < MANY; span++) {
        purge(many + (size_t)span * SPAN_BYTES);
    }
    while (page && !__atomic_load_n(&page->passes_cut_short, __ATOMIC_RELAXED)) {
        nap(2);
    }
    purge(many);
    const double end = now() + 8;
    while (freed_since(0) <= MANY && now() < end) {
        nap(2);
    }
    say("freed", freed_since(0));
}

/// There is more of the mapping behind what is to grow, and it may not move.
static void cannot_grow(const char *argument) {
    (void)argument;
    const size_t count = (size_t)SPANS * SPAN_BYTES;
    serve_and_say("before", true);
    must(mremap(memory, count, 2 * count, 0) == MAP_FAILED && errno == ENOMEM, "mremap");
    serve_and_say("after", true);
}

static const struct act simple_acts[] = {
    {"plain", plain},
    {"cannot-grow", cannot_grow},
    {"purges-behind-a-cut-pass", purges_behind_a_cut_pass},
    {NULL, NULL}};

int main(int count, char *arguments[]) {
    const int at = prepare(count, arguments);
    alarm(100);
    if (readlink("/proc/self/fd/1", output_path, sizeof(output_path) - 1) < 0) {
        output_path[0] = '\0';
    }
    status = open("/proc/self/status", O_RDONLY);
    find_page();
    const struct act *const lists[] = {simple_acts, process_acts, filter_acts};
    for (size_t i = 0; at < count && i < sizeof(lists) / sizeof(lists[0]); i++) {
        for (const struct act *act = lists[i]; act->name; act++) {
            if (strcmp(act->name, arguments[at]) == 0) {
                act->run(at + 1 < count ? arguments[at + 1] : "");
                say_page("");
                return wrong_bytes ? WRONG : 0;
            }
        }
    }
    fprintf(stderr, "no such act\n");
    return USAGE;
}
