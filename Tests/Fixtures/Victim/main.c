// SPDX-License-Identifier: Apache-2.0
//
// A program on jemalloc that does one thing in which a preload library could go wrong, and then
// prints the counters of its stats page, one `name: value` a line. Exit status: 0 right, 1 wrong
// (said on stderr), 2 usage, 77 not possible here.
//
//   jemalloc-victim churn | arenas | hooks-at-create | hooks-wrapped | hooks-replaced
//                   | arena-destroyed | mlockall | errno | fork | fork-threads | closefrom | setuid
//                   | off
//   jemalloc-victim serve | wait | wait-child | wait-closed | wait-numbers
//                   | wait-filtered
//                                    until it is killed
//   jemalloc-victim counters PID     the counters of another process

#include "stats_page.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jemalloc/jemalloc.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCK_COUNT = 4000, BLOCK_BYTES = 20 * 1024, NOT_POSSIBLE = 77 };

static int failures;

static void expect(bool fact, const char *text) {
    if (!fact) {
        fprintf(stderr, "wrong: %s\n", text);
        failures++;
    }
}

static void require(int error, const char *what) {
    if (error) {
        fprintf(stderr, "%s: %s\n", what, strerror(error));
        exit(1);
    }
}

// ---- the stats page ----------------------------------------------------------------------------

static void print_page(const char *prefix, const struct ptreclaim_stats_page *page) {
    printf("%spage_pid: %d\n%sbackend: %u\n%smode: %u\n", prefix, page->pid, prefix, page->backend,
           prefix, page->mode);
#define X(field, text) printf("%srefused_" #field ": %lu\n", prefix, page->refused_##field);
    PTRECLAIM_REFUSALS(X)
#undef X
#define X(field, text) printf("%s" #field ": %lu\n", prefix, page->field);
    PTRECLAIM_COUNTERS(X)
#undef X
}

static unsigned long vm_pte_kib(void) {
    FILE *file = fopen("/proc/self/status", "r");
    char text[256];
    unsigned long value = 0;
    while (file && fgets(text, sizeof(text), file)) {
        (void)sscanf(text, "VmPTE: %lu", &value);
    }
    if (file) {
        fclose(file);
    }
    return value;
}

/// The page as this process maps it, found by name: the descriptor may be closed.
static const struct ptreclaim_stats_page *own_page(void) {
    FILE *file = fopen("/proc/self/maps", "r");
    char text[512];
    const struct ptreclaim_stats_page *page = NULL;
    while (file && fgets(text, sizeof(text), file)) {
        if (strstr(text, "memfd:" PTRECLAIM_STATS_NAME)) {
            page = (const void *)strtoul(text, NULL, 16);
        }
    }
    if (file) {
        fclose(file);
    }
    return page;
}

static void print_own(const char *prefix) {
    const struct ptreclaim_stats_page *page = own_page();
    printf("%spid: %d\n%svm_pte_kib: %lu\n", prefix, (int)getpid(), prefix, vm_pte_kib());
    if (page) {
        print_page(prefix, page);
    } else {
        printf("%spage: none\n", prefix);
    }
    fflush(stdout);
}

static int print_counters_of(const char *pid) {
    char directory[64], path[384], target[64];
    snprintf(directory, sizeof(directory), "/proc/%s/fd", pid);
    DIR *entries = opendir(directory);
    if (!entries) {
        perror(directory);
        return 1;
    }
    for (struct dirent *entry; (entry = readdir(entries));) {
        snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
        ssize_t count = readlink(path, target, sizeof(target) - 1);
        target[count > 0 ? count : 0] = '\0';
        if (strncmp(target, "/memfd:" PTRECLAIM_STATS_NAME, strlen("/memfd:" PTRECLAIM_STATS_NAME))
            != 0) {
            continue;
        }
        struct ptreclaim_stats_page page;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && read(fd, &page, sizeof(page)) == sizeof(page)
            && page.magic == PTRECLAIM_STATS_MAGIC && page.pid == atoi(pid)) {
            print_page("", &page);
            return 0;
        }
    }
    fprintf(stderr, "no stats page of %s\n", pid);
    return 1;
}

// ---- work --------------------------------------------------------------------------------------

struct blocks {
    unsigned char *start[BLOCK_COUNT];
};

static void make_blocks(struct blocks *blocks, int flags) {
    for (int i = 0; i < BLOCK_COUNT; i++) {
        blocks->start[i] = mallocx(BLOCK_BYTES, flags);
        if (!blocks->start[i]) {
            require(ENOMEM, "mallocx");
        }
        memset(blocks->start[i], i % 255 + 1, BLOCK_BYTES);
    }
}

static size_t wrong_bytes(const struct blocks *blocks, int i) {
    size_t wrong = 0;
    for (size_t at = 0; at < BLOCK_BYTES; at++) {
        wrong += blocks->start[i][at] != i % 255 + 1;
    }
    return wrong;
}

/// Frees in leaps, so that most spans become whole by a merge and not by one decommit.
static void free_blocks(struct blocks *blocks, int flags) {
    size_t wrong = 0;
    for (int i = 0, at = 0; i < BLOCK_COUNT; i++, at = (at + 1237) % BLOCK_COUNT) {
        wrong += wrong_bytes(blocks, at);
        dallocx(blocks->start[at], flags);
    }
    expect(wrong == 0, "the contents of the blocks");
}

static struct blocks blocks;

static void churn_flags(int flags) {
    make_blocks(&blocks, flags);
    free_blocks(&blocks, flags);
}

static void churn(void) { churn_flags(MALLOCX_TCACHE_NONE); }

// A compiler that sees malloc, memset and free leaves all three out.
static void *volatile sink;

// ---- arenas ------------------------------------------------------------------------------------

static void *churn_a_little(void *argument) {
    (void)argument;
    for (int round = 0; round < 50; round++) {
        char *memory = sink = malloc(300000);
        memset(memory, round, 300000);
        free(memory);
    }
    return NULL;
}

static void start_and_join(void *(*routine)(void *)) {
    pthread_t thread;
    require(pthread_create(&thread, NULL, routine, NULL), "pthread_create");
    pthread_join(thread, NULL);
}

static unsigned create_arena(extent_hooks_t *hooks) {
    unsigned arena = 0;
    size_t byte_count = sizeof(arena);
    require(
        mallctl("arenas.create", &arena, &byte_count, hooks ? &hooks : NULL,
                hooks ? sizeof(hooks) : 0),
        "arenas.create");
    return arena;
}

static extent_hooks_t *hooks_of(unsigned arena) {
    char name[64];
    snprintf(name, sizeof(name), "arena.%u.extent_hooks", arena);
    extent_hooks_t *hooks = NULL;
    size_t byte_count = sizeof(hooks);
    require(mallctl(name, &hooks, &byte_count, NULL, 0), name);
    return hooks;
}

static void set_hooks(unsigned arena, extent_hooks_t *hooks) {
    char name[64];
    snprintf(name, sizeof(name), "arena.%u.extent_hooks", arena);
    require(mallctl(name, NULL, NULL, &hooks, sizeof(hooks)), name);
}

static void arenas(void) {
    enum { THREADS = 4, HUGE_BYTES = 64 << 20 };
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        require(pthread_create(&threads[i], NULL, churn_a_little, NULL), "pthread_create");
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    unsigned made = create_arena(NULL);
    int flags = MALLOCX_ARENA(made) | MALLOCX_TCACHE_NONE;
    void *first = mallocx(BLOCK_BYTES, flags);
    char *huge = sink = malloc(HUGE_BYTES);
    memset(huge, 1, HUGE_BYTES);
    start_and_join(churn_a_little); // an occasion to look at what has appeared
    dallocx(first, flags);
    free(huge);
    for (int round = 0; round < 3; round++) {
        huge = sink = malloc(HUGE_BYTES);
        memset(huge, 1, HUGE_BYTES);
        free(huge);
    }
    churn_flags(flags);
    // What `arena.<i>.initialized` says is as old as the last write of "epoch".
    uint64_t epoch = 1;
    require(mallctl("epoch", NULL, NULL, &epoch, sizeof(epoch)), "epoch");
    unsigned count = 0;
    size_t byte_count = sizeof(count);
    require(mallctl("arenas.narenas", &count, &byte_count, NULL, 0), "arenas.narenas");
    extent_hooks_t *ours = hooks_of(0);
    unsigned same = 0, all = 0;
    for (unsigned arena = 0; arena < count; arena++) {
        char name[64];
        bool initialized = false;
        snprintf(name, sizeof(name), "arena.%u.initialized", arena);
        byte_count = sizeof(initialized);
        if (mallctl(name, &initialized, &byte_count, NULL, 0) == 0 && initialized) {
            printf("arena %u: %s\n", arena, hooks_of(arena) == ours ? "as arena 0" : "other");
            all++;
            same += hooks_of(arena) == ours;
        }
    }
    printf("arenas: %u\narenas_like_0: %u\ncreated_like_0: %d\n", all, same,
           hooks_of(made) == ours);
}

static void arena_destroyed(void) {
    for (int round = 0; round < 3; round++) {
        unsigned arena = create_arena(NULL);
        int flags = MALLOCX_ARENA(arena) | MALLOCX_TCACHE_NONE;
        dallocx(mallocx(BLOCK_BYTES, flags), flags);
        start_and_join(churn_a_little);
        printf("round %d: arena %u %s\n", round, arena,
               hooks_of(arena) == hooks_of(0) ? "as arena 0" : "other");
        churn_flags(flags);
        // Whoever maps there now must keep its bytes when the arena goes.
        unsigned char *mine = mmap(
            NULL, 3 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(mine, 0x5a, 3 << 20);
        char name[64];
        snprintf(name, sizeof(name), "arena.%u.destroy", arena);
        require(mallctl(name, NULL, NULL, NULL, 0), name);
        size_t wrong = 0;
        for (size_t i = 0; i < 3 << 20; i++) {
            wrong += mine[i] != 0x5a;
        }
        expect(wrong == 0, "a mapping beside a destroyed arena");
        munmap(mine, 3 << 20);
        churn();
    }
}

// ---- hooks of the application's own ------------------------------------------------------------

static unsigned long own_hook_calls;

static void *own_alloc(
    extent_hooks_t *hooks, void *new_address, size_t byte_count, size_t alignment, bool *zero,
    bool *commit, unsigned arena) {
    (void)hooks, (void)arena;
    own_hook_calls++;
    if (new_address) {
        return NULL;
    }
    char *start = mmap(
        NULL, byte_count + alignment, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) {
        return NULL;
    }
    *zero = true;
    *commit = true;
    return (void *)(((uintptr_t)start + alignment - 1) & ~(uintptr_t)(alignment - 1));
}

static bool own_split(
    extent_hooks_t *hooks, void *address, size_t byte_count, size_t first, size_t second,
    bool committed, unsigned arena) {
    (void)hooks, (void)address, (void)byte_count, (void)first, (void)second, (void)committed;
    (void)arena;
    return false;
}

static bool own_merge(
    extent_hooks_t *hooks, void *first, size_t first_count, void *second, size_t second_count,
    bool committed, unsigned arena) {
    (void)hooks, (void)first, (void)first_count, (void)second, (void)second_count;
    (void)committed, (void)arena;
    return false;
}

static extent_hooks_t own_hooks = {.alloc = own_alloc, .split = own_split, .merge = own_merge};

static extent_hooks_t *wrapped;

static bool wrapping_decommit(
    extent_hooks_t *hooks, void *address, size_t byte_count, size_t offset, size_t length,
    unsigned arena) {
    (void)hooks;
    own_hook_calls++;
    return wrapped->decommit(wrapped, address, byte_count, offset, length, arena);
}

static void hooks_at_create(void) {
    unsigned arena = create_arena(&own_hooks);
    start_and_join(churn_a_little);
    churn_flags(MALLOCX_ARENA(arena) | MALLOCX_TCACHE_NONE);
    (void)create_arena(NULL); // mapped by jemalloc itself: a cause to look at all arenas
    start_and_join(churn_a_little);
    expect(hooks_of(arena) == &own_hooks, "an arena's own hooks are left alone");
    expect(own_hook_calls > 0, "the arena's own hooks are called");
}

static struct blocks kept;

static void hooks_later(extent_hooks_t *hooks) {
    make_blocks(&kept, MALLOCX_TCACHE_NONE);
    churn();
    set_hooks(0, hooks);
    churn();
    for (int i = 0; i < BLOCK_COUNT; i++) {
        expect(wrong_bytes(&kept, i) == 0, "what was there before the hooks were replaced");
    }
    free_blocks(&kept, MALLOCX_TCACHE_NONE);
    churn();
    start_and_join(churn_a_little);
    expect(hooks_of(0) == hooks, "the application's hooks stay");
}

static void hooks_wrapped(void) {
    static extent_hooks_t wrapping;
    wrapped = hooks_of(0);
    wrapping = *wrapped;
    wrapping.decommit = wrapping_decommit;
    hooks_later(&wrapping);
}

static void hooks_replaced(void) { hooks_later(&own_hooks); }

// ---- the process around it ---------------------------------------------------------------------

static void lock_memory(void) {
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
        perror("mlockall");
        exit(NOT_POSSIBLE);
    }
    churn();
    for (int round = 0; round < 50; round++) {
        unsigned char *zero = calloc(1, 300000);
        size_t wrong = 0;
        for (size_t i = 0; i < 300000; i++) {
            wrong += zero[i] != 0;
        }
        expect(wrong == 0, "calloc of memory that could not be purged");
        memset(zero, 0xff, 300000);
        free(zero);
    }
}

static void keep_errno(void) {
    unsigned long changed = 0;
    for (int i = 0; i < BLOCK_COUNT; i++) {
        errno = 4242;
        blocks.start[i] = mallocx(BLOCK_BYTES, MALLOCX_TCACHE_NONE);
        changed += errno != 4242;
    }
    for (int i = 0, at = 0; i < BLOCK_COUNT; i++, at = (at + 1237) % BLOCK_COUNT) {
        errno = 4242;
        dallocx(blocks.start[at], MALLOCX_TCACHE_NONE);
        changed += errno != 4242;
    }
    expect(changed == 0, "errno after malloc and free");
}

static void wait_for(pid_t child) {
    int status = 0;
    expect(waitpid(child, &status, 0) == child && status == 0, "the child's exit status");
}

static pid_t fork_and_churn(const char *prefix) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        churn();
        print_own(prefix);
        _exit(failures ? 1 : 0);
    }
    return child;
}

static void fork_without_exec(void) {
    churn();
    pid_t child = fork_and_churn("child.");
    wait_for(child);
    churn();
}

static void *churn_until_joined(void *stop) {
    while (!__atomic_load_n((bool *)stop, __ATOMIC_RELAXED)) {
        churn_a_little(NULL);
    }
    return NULL;
}

static void fork_beside_threads(void) {
    bool stop = false;
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        require(pthread_create(&threads[i], NULL, churn_until_joined, &stop), "pthread_create");
    }
    // A child forked while another thread purges an arena never purges that arena again (jemalloc's
    // own `purging` flag stays set), so not every child has an event to make its page at.
    int fresh = 0;
    for (int i = 0; i < 30; i++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            churn_a_little(NULL);
            const struct ptreclaim_stats_page *page = own_page();
            _exit(page && page->pid == getpid() ? 42 : 0);
        }
        int status = 0;
        expect(waitpid(child, &status, 0) == child && WIFEXITED(status), "a child came to its end");
        fresh += WEXITSTATUS(status) == 42;
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    printf("children_with_pages: %d\n", fresh);
}

/// Closes what it did not open, as daemons do, and opens files that get the same numbers.
static void close_from(void) {
    enum { FILES = 700 };
    churn();
    (void)syscall(SYS_close_range, 3u, ~0u, 0u);
    static const char text[] = "mine";
    int files[FILES];
    for (int i = 0; i < FILES; i++) {
        files[i] = memfd_create("mine", 0);
        if (files[i] < 0 || write(files[i], text, sizeof(text)) != sizeof(text)) {
            perror("memfd_create");
            exit(NOT_POSSIBLE);
        }
    }
    churn();
    pid_t child = fork_and_churn("child.");
    wait_for(child);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        churn();
        for (int i = 0; i < FILES; i++) {
            char seen[2 * sizeof(text)];
            expect(pread(files[i], seen, sizeof(seen), 0) == sizeof(text)
                       && memcmp(seen, text, sizeof(text)) == 0,
                   "a file that was opened under a number that was ours");
        }
        _exit(failures ? 1 : 0);
    }
    wait_for(child);
    churn();
    for (int i = 0; i < FILES; i++) {
        char seen[2 * sizeof(text)];
        expect(pread(files[i], seen, sizeof(seen), 0) == sizeof(text)
                   && memcmp(seen, text, sizeof(text)) == 0,
               "a file that was opened under a number that was ours");
    }
}

/// What daemons do that start as root.
static void drop_privileges(void) {
    enum { NOBODY = 65534 };
    churn();
    if (setresgid(NOBODY, NOBODY, NOBODY) != 0 || setresuid(NOBODY, NOBODY, NOBODY) != 0
        || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        perror("setresuid");
        exit(NOT_POSSIBLE);
    }
    pid_t child = fork_and_churn("child.");
    wait_for(child);
    churn();
}

// ---- the switch, and whoever looks from outside -----------------------------------------------

static unsigned long zaps(void) {
    return __atomic_load_n(&own_page()->spans_zapped, __ATOMIC_RELAXED);
}

/// What the library zaps in a churn while it is on, off, and on again; in a child, too.
static void switch_off(void) {
    struct ptreclaim_stats_page *page = (struct ptreclaim_stats_page *)own_page();
    if (!page) {
        fprintf(stderr, "no stats page\n");
        exit(NOT_POSSIBLE);
    }
    churn();
    unsigned long before = zaps();
    printf("zapped_on: %lu\n", before);
    __atomic_store_n(&page->control.is_off, 1u, __ATOMIC_RELAXED);
    const unsigned long purges = page->purges_forced;
    churn();
    printf("zapped_off: %lu\npurged_off: %lu\n", zaps() - before, page->purges_forced - purges);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        churn();
        printf("child.zapped_off: %lu\n", zaps());
        exit(failures ? 1 : 0);
    }
    wait_for(child);
    before = zaps();
    __atomic_store_n(&page->control.is_off, 0u, __ATOMIC_RELAXED);
    churn();
    printf("zapped_again: %lu\n", zaps() - before);
}

static void say_ready(pid_t pid) {
    printf("ready: %d\n", (int)pid);
    fflush(stdout);
}

static void serve(void) {
    churn();
    for (say_ready(getpid());; usleep(1000)) {
        churn();
        if (failures) {
            abort();
        }
    }
}

static void wait_for_ever(void) {
    churn();
    for (say_ready(getpid());;) {
        pause();
    }
}

/// A child that has done nothing since the fork.
static void wait_in_child(void) {
    pid_t child = fork();
    if (child == 0) {
        for (;;) {
            pause();
        }
    }
    say_ready(child);
    for (;;) {
        pause();
    }
}

static void wait_without_descriptors(void) {
    (void)syscall(SYS_close_range, 3u, ~0u, 0u);
    wait_for_ever();
}

/// With numbers that a reader can be measured by.
static void wait_with_numbers(void) {
    struct ptreclaim_stats_page *page = (struct ptreclaim_stats_page *)own_page();
    if (!page) {
        exit(NOT_POSSIBLE);
    }
    page->tables_freed = 4711;
    page->kept[1] = 5;
    page->kept[PTRECLAIM_STATS_REASONS - 1] = 7;
    page->fences_met_ns = 12500000;
    page->fences_met_by_microseconds[3] = 40;
    page->fences_met_by_microseconds[5] = 1;
    page->fences_met_by_microseconds[PTRECLAIM_STATS_BUCKETS - 1] = 10;
    say_ready(getpid());
    for (;;) {
        pause();
    }
}

static void wait_behind_filter(void) {
    struct sock_filter permit = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = 1, .filter = &permit};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        exit(NOT_POSSIBLE);
    }
    wait_for_ever();
}

// ---- main --------------------------------------------------------------------------------------

static const struct {
    const char *name;
    void (*run)(void);
} acts[] = {
    {"churn", churn},
    {"arenas", arenas},
    {"arena-destroyed", arena_destroyed},
    {"hooks-at-create", hooks_at_create},
    {"hooks-wrapped", hooks_wrapped},
    {"hooks-replaced", hooks_replaced},
    {"mlockall", lock_memory},
    {"errno", keep_errno},
    {"fork", fork_without_exec},
    {"fork-threads", fork_beside_threads},
    {"closefrom", close_from},
    {"setuid", drop_privileges},
    {"off", switch_off},
    {"serve", serve},
    {"wait", wait_for_ever},
    {"wait-child", wait_in_child},
    {"wait-closed", wait_without_descriptors},
    {"wait-numbers", wait_with_numbers},
    {"wait-filtered", wait_behind_filter},
};

int main(int count, char **arguments) {
    if (count == 3 && strcmp(arguments[1], "counters") == 0) {
        return print_counters_of(arguments[2]);
    }
    for (size_t i = 0; count == 2 && i < sizeof(acts) / sizeof(acts[0]); i++) {
        if (strcmp(arguments[1], acts[i].name) == 0) {
            (void)prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); // a huge page has no table to free
            acts[i].run();
            print_own("");
            return failures ? 1 : 0;
        }
    }
    fprintf(stderr, "usage: jemalloc-victim");
    for (size_t i = 0; i < sizeof(acts) / sizeof(acts[0]); i++) {
        fprintf(stderr, " %s |", acts[i].name);
    }
    fprintf(stderr, " counters PID\n");
    return 2;
}
