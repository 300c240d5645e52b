// SPDX-License-Identifier: Apache-2.0
//
// The C interface as a program meets it: sizes, wrong arguments, names. Prints each check that
// does not hold, and the names of the reasons.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <ptreclaim.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int checks, failures;

static void check(bool holds, const char *what, int line) {
    checks++;
    if (!holds) {
        failures++;
        printf("line %d: %s\n", line, what);
    }
}
#define CHECK(what) check(what, #what, __LINE__)

/// A report as a later header may have it.
struct later_report {
    struct ptreclaim_report first;
    unsigned char more[64];
};

static const size_t span = 2 << 20;

/// Makes the tables of two spans again, and empties them.
static void empty_again(char *memory) {
    for (size_t offset = 0; offset < 2 * span; offset += span) {
        memory[offset] = 1;
        madvise(memory + offset, 4096, MADV_DONTNEED);
    }
}

/// Two spans with a table each that maps nothing; `where` is their start, span-aligned.
static char *empty_tables(void) {
    char *memory = mmap(0, 3 * span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return 0;
    }
    char *where = (char *)(((uintptr_t)memory + span - 1) & ~(span - 1));
    madvise(where, 2 * span, MADV_NOHUGEPAGE);
    empty_again(where);
    return where;
}

static bool refuses(
    void *address, size_t length, unsigned access, struct ptreclaim_report *report) {
    errno = 0;
    return ptreclaim(address, length, access, report) == -1 && errno == EINVAL;
}

static bool is_filled_with(const void *bytes, size_t count, unsigned char byte) {
    const unsigned char *rest = bytes;
    while (count && *rest == byte) {
        rest++;
        count--;
    }
    return count == 0;
}

static void check_sizes(char *memory) {
    struct ptreclaim_report report;
    for (uint32_t size = 0; size < sizeof(report); size++) {
        memset(&report, 0xA5, sizeof(report));
        report.size = size;
        CHECK(refuses(memory, span, PTRECLAIM_OWNED, &report));
        CHECK(report.size == size);
        CHECK(is_filled_with(
            (char *)&report + sizeof(report.size), sizeof(report) - sizeof(report.size), 0xA5));
    }
    CHECK(ptreclaim(memory, span, PTRECLAIM_OWNED, 0) == 0);

    report.size = sizeof(report);
    errno = ERANGE;
    CHECK(ptreclaim(memory, 2 * span, PTRECLAIM_OWNED, &report) == 0);
    CHECK(errno == ERANGE);
    CHECK(report.size == 192);
    CHECK(report.tables_examined == 2);
    CHECK(report.tables_freed == 1); // the call without a report has freed the other
    CHECK(report.kept[PTRECLAIM_KEPT_ABSENT] == 1);
    CHECK(report.backend != PTRECLAIM_BACKEND_NONE);
    CHECK(report.vm_pte_before > 0 && report.vm_pte_after > 0);
    CHECK(report.vm_pte_before - report.vm_pte_after == 4096);
    CHECK(report.duration_ns > 0);

    struct later_report later;
    memset(&later, 0xA5, sizeof(later));
    later.first.size = sizeof(later);
    CHECK(ptreclaim(memory, 2 * span, PTRECLAIM_OWNED, &later.first) == 0);
    CHECK(later.first.size == 192);
    CHECK(later.first.kept[PTRECLAIM_KEPT_ABSENT] == 2);
    CHECK(later.first.kept[PTRECLAIM_KEPT_REASONS - 1] == 0);
    CHECK(is_filled_with(later.more, sizeof(later.more), 0xA5));
}

static void check_arguments(char *memory) {
    struct ptreclaim_report report = {.size = sizeof(report)};
    CHECK(refuses(memory, span, 2, &report));
    CHECK(refuses(memory, span, 256, &report)); // SHARED, if a byte were looked at
    CHECK(refuses(memory, span, ~0u, &report));
    CHECK(refuses(memory + 1, span, PTRECLAIM_OWNED, &report));
    CHECK(refuses(memory + 4095, span, PTRECLAIM_SHARED, 0));
    CHECK(refuses(memory + 8, 0, PTRECLAIM_OWNED, &report));
    CHECK(refuses(memory, SIZE_MAX, PTRECLAIM_OWNED, &report));
    CHECK(refuses(memory, SIZE_MAX - (uintptr_t)memory, PTRECLAIM_OWNED, &report));
    CHECK(refuses((void *)(UINTPTR_MAX - 4095), 4096, PTRECLAIM_OWNED, &report));
    CHECK(refuses((void *)(UINTPTR_MAX - 4095), 1, PTRECLAIM_OWNED, &report));
    CHECK(refuses((void *)((uintptr_t)1 << 47), 4096, PTRECLAIM_OWNED, &report));
    CHECK(ptreclaim((void *)(((uintptr_t)1 << 47) - span), span, PTRECLAIM_OWNED, &report) == 0);

    CHECK(ptreclaim(memory, 0, PTRECLAIM_OWNED, &report) == 0);
    CHECK(report.size == 192 && report.tables_examined == 0 && report.tables_freed == 0);
    CHECK(report.backend == PTRECLAIM_BACKEND_NONE);
    CHECK(is_filled_with(report.kept, sizeof(report.kept), 0));

    // The length is rounded up to pages.
    memory[0] = 1;
    madvise(memory, 4096, MADV_DONTNEED);
    CHECK(ptreclaim(memory, span - 4096, PTRECLAIM_OWNED, &report) == 0);
    CHECK(report.tables_freed == 0 && report.kept[PTRECLAIM_KEPT_PARTIAL] == 1);
    CHECK(ptreclaim(memory, span - 4095, PTRECLAIM_OWNED, &report) == 0);
    CHECK(report.tables_freed == 1 && report.kept[PTRECLAIM_KEPT_PARTIAL] == 0);
}

/// With the default access, and whatever this process is allowed to: freed, or kept for one reason.
static void check_shared(char *memory) {
    struct ptreclaim_report report = {.size = sizeof(report)};
    memory[0] = 1;
    memory[span] = 7;
    madvise(memory, 4096, MADV_DONTNEED);
    CHECK(ptreclaim(memory, 2 * span, PTRECLAIM_SHARED, &report) == 0);
    CHECK(report.tables_examined == 2);
    CHECK(report.kept[PTRECLAIM_KEPT_POPULATED] == 1);
    CHECK(report.tables_freed == 1 || report.kept[PTRECLAIM_KEPT_FENCE_UNAVAILABLE] == 1
        || report.kept[PTRECLAIM_KEPT_LOSES_ATTRIBUTES] == 1);
    CHECK(memory[0] == 0 && memory[span] == 7);
}

/// Whether the process has a thread of that name.
static bool has_thread(const char *wanted) {
    DIR *tasks = opendir("/proc/self/task");
    bool is_there = false;
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        char path[300], name[32] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", task->d_name);
        FILE *file = fopen(path, "r");
        if (file) {
            is_there |= fgets(name, sizeof(name), file) && !strncmp(name, wanted, strlen(wanted));
            fclose(file);
        }
    }
    if (tasks) {
        closedir(tasks);
    }
    return is_there;
}

/// The service thread leaves when nothing is to be done, and comes back when something is.
static void check_leaving(char *memory) {
    for (int round = 0; round < 3; round++) {
        empty_again(memory);
        struct ptreclaim_report report = {.size = sizeof(report)};
        CHECK(ptreclaim(memory, 2 * span, PTRECLAIM_SHARED, &report) == 0);
        CHECK(report.tables_freed + report.kept[PTRECLAIM_KEPT_FENCE_UNAVAILABLE] == 2);
        if (!has_thread("ptreclaim")) {
            CHECK(report.kept[PTRECLAIM_KEPT_FENCE_UNAVAILABLE] == 2);
            return;
        }
        for (int tenth = 0; tenth < 100 && has_thread("ptreclaim"); tenth++) {
            usleep(100000);
        }
        CHECK(!has_thread("ptreclaim"));
    }
}

int main(int count, char **arguments) {
    char *memory = empty_tables();
    if (!memory) {
        perror("mmap");
        return 1;
    }
    if (count == 2 && !strcmp(arguments[1], "main-leaves")) {
        // The last thread of the program ends, and the program with it.
        struct ptreclaim_report report = {.size = sizeof(report)};
        CHECK(ptreclaim(memory, 2 * span, PTRECLAIM_SHARED, &report) == 0);
        printf("service thread: %s\n", has_thread("ptreclaim") ? "there" : "not there");
        fflush(stdout);
        pthread_exit(0);
    }
    check_sizes(memory);
    check_arguments(memory);
    check_shared(memory);
    check_leaving(memory);
    for (unsigned reason = 0; reason < PTRECLAIM_KEPT_REASONS; reason++) {
        printf("reason %u %s\n", reason, ptreclaim_kept_name(reason));
    }
    CHECK(!ptreclaim_kept_name(PTRECLAIM_KEPT_REASONS));
    CHECK(!ptreclaim_kept_name(256));
    CHECK(!ptreclaim_kept_name(~0u));
    printf("checks: %d\n", checks);
    return failures != 0;
}
