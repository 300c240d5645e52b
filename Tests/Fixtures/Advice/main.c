// SPDX-License-Identifier: Apache-2.0
//
// What ptreclaim_advise promises, from C, in a program that runs with the preload library.
//
//   advice marked|off|now|refused
//
//   marked   with PTRECLAIM_RANGES=marked: only marked memory is served, and marks end with it
//   off      with PTRECLAIM_RANGES=all: what is OFF is never looked at
//   now      with a delay that nobody waits for: NOW frees before it returns
//   refused  there is nobody to take advice
// Prints each check that does not hold, and `checks: N`. Exit status: 0 all hold, 1 otherwise, 3 where
// the watchdog has opened a fence meanwhile: on a machine that is too busy there is no more to see.

#include "linux_mm.h"
#include "ptreclaim.h"
#include "stats.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const size_t span = 2 << 20;
enum { SPANS = 8, NO_HUGE_PAGES = 15, PATIENCE_MS = 10000, A_WHILE_MS = 300 };

static int checks, failures;

static void check(bool holds, const char *what, int line) {
    checks++;
    if (!holds) {
        failures++;
        printf("line %d: %s, errno %d\n", line, what, errno);
    }
}
#define CHECK(what) check(what, #what, __LINE__)

/// As a program finds it that links libptreclaim: the preload library's comes first.
static int (*advise)(void *address, size_t length, unsigned int advice);

static int pagemap;

static void pause_for(long milliseconds) {
    nanosleep(
        &(struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000}, NULL);
}

/// How many of the spans have a PTE table.
static size_t tables(const char *start, size_t spans) {
    size_t count = 0;
    for (size_t i = 0; i < spans; i++) {
        const uintptr_t at = (uintptr_t)start + i * span;
        uintptr_t first, last;
        count += ptreclaim_first_tables(pagemap, at, at + span, 1, &first, &last) == 1;
    }
    return count;
}

/// Gives the spans tables without a page.
static void make_empty(char *start, size_t spans) {
    for (size_t i = 0; i < spans; i++) {
        start[i * span + 4096] = 1;
        madvise(start + i * span + 4096, 4096, MADV_DONTNEED);
    }
}

static bool go_away(const char *start, size_t spans) {
    for (int i = 0; i < PATIENCE_MS / 10 && tables(start, spans); i++) {
        pause_for(10);
    }
    return tables(start, spans) == 0;
}

static bool stay(const char *start, size_t spans) {
    pause_for(A_WHILE_MS);
    return tables(start, spans) == spans;
}

static char *map_at(char *place, size_t spans, int flags) {
    char *start = mmap(
        place, spans * span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    madvise(start, spans * span, NO_HUGE_PAGES);
    return start;
}

/// Whole spans, with one at each end to spare.
static char *map_spans(size_t spans) {
    char *start = map_at(NULL, spans + 1, 0);
    return (char *)(((uintptr_t)start + span - 1) & ~(span - 1));
}

// ---- marked -----------------------------------------------------------------------------------

static void marked(void) {
    char *start = map_spans(SPANS);
    make_empty(start, SPANS);
    CHECK(stay(start, SPANS));
    CHECK(advise(start, 4 * span, PTRECLAIM_ON) == 0);
    CHECK(go_away(start, 4));
    CHECK(stay(start + 4 * span, 4));

    // A part of a span is no span: what is served is rounded inward.
    CHECK(advise(start + 4 * span, span - 4096, PTRECLAIM_ON) == 0);
    CHECK(stay(start + 4 * span, 4));

    // Marks survive splits, and what merges again.
    CHECK(mprotect(start + span, span, PROT_READ) == 0);
    make_empty(start, 1);
    make_empty(start + 2 * span, 2);
    CHECK(go_away(start, 4));
    CHECK(mprotect(start + span, span, PROT_READ | PROT_WRITE) == 0);
    CHECK(mprotect(start + 3 * span + 4096, 4096, PROT_NONE) == 0);
    CHECK(mprotect(start + 3 * span + 4096, 4096, PROT_READ | PROT_WRITE) == 0);
    make_empty(start, 4);
    CHECK(go_away(start, 4));
    CHECK(stay(start + 4 * span, 4));

    // Marks end at munmap.
    CHECK(munmap(start, 2 * span) == 0);
    CHECK(map_at(start, 2, MAP_FIXED_NOREPLACE) == start);
    make_empty(start, 4);
    CHECK(go_away(start + 2 * span, 2));
    CHECK(stay(start, 2));
    CHECK(advise(start, 2 * span, PTRECLAIM_ON) == 0);
    CHECK(go_away(start, 2));

    // And where something else is mapped over them.
    CHECK(map_at(start, 2, MAP_FIXED) == start);
    make_empty(start, 4);
    CHECK(go_away(start + 2 * span, 2));
    CHECK(stay(start, 2));

    // OFF takes ON away; ON, OFF.
    CHECK(advise(start, 4 * span, PTRECLAIM_OFF) == 0);
    make_empty(start, 4);
    CHECK(stay(start, 4));
    CHECK(advise(start, 4 * span, PTRECLAIM_ON) == 0);
    CHECK(go_away(start, 4));

    // NOW is of no more than is served.
    make_empty(start, 4);
    CHECK(advise(start, SPANS * span, PTRECLAIM_NOW) == 0);
    CHECK(tables(start, 4) == 0);
    CHECK(tables(start + 4 * span, 4) == 4);
}

// ---- off --------------------------------------------------------------------------------------

static void off(void) {
    char *start = map_spans(SPANS);
    CHECK(advise(start, 4 * span, PTRECLAIM_OFF) == 0);
    CHECK(advise(start + 5 * span + 8192, 0, PTRECLAIM_OFF) == 0); // touches no span
    make_empty(start, SPANS);
    CHECK(go_away(start + 4 * span, 4));
    CHECK(stay(start, 4));
    // Of a span that it touches it takes all.
    CHECK(advise(start + 5 * span + 8192, 4096, PTRECLAIM_OFF) == 0);
    make_empty(start + 4 * span, 4);
    CHECK(go_away(start + 4 * span, 1));
    CHECK(go_away(start + 6 * span, 2));
    CHECK(stay(start + 5 * span, 1));
    // What other processes ask for leaves them alone, and says so.
    CHECK(ask_for_a_pass() == 5);
    CHECK(tables(start, 4) == 4);
    CHECK(advise(start, SPANS * span, PTRECLAIM_NOW) == 0);
    CHECK(tables(start, 4) == 4);
    CHECK(tables(start + 5 * span, 1) == 1);
    // A split, and pages that come and go, change nothing.
    CHECK(mprotect(start + span, span, PROT_READ) == 0);
    CHECK(mprotect(start + span, span, PROT_READ | PROT_WRITE) == 0);
    make_empty(start, 4);
    CHECK(stay(start, 4));
    CHECK(munmap(start, span) == 0);
    CHECK(map_at(start, 1, MAP_FIXED_NOREPLACE) == start);
    make_empty(start, 4);
    CHECK(go_away(start, 1));
    CHECK(stay(start + span, 3));

    // What grows in its place stays what it is; the rest is new.
    char *growing = map_spans(2 * SPANS);
    CHECK(munmap(growing + 4 * span, 12 * span) == 0);
    CHECK(advise(growing, 4 * span, PTRECLAIM_OFF) == 0);
    CHECK(mremap(growing, 4 * span, 8 * span, MREMAP_MAYMOVE) == growing);
    madvise(growing, 8 * span, NO_HUGE_PAGES);
    make_empty(growing, 8);
    CHECK(go_away(growing + 4 * span, 4));
    CHECK(stay(growing, 4));

    // Memory that libc unmaps by itself, unseen, takes its marks along, too.
    char *start_of_libc = malloc(9 * span);
    char *inside = (char *)(((uintptr_t)start_of_libc + span - 1) & ~(span - 1));
    CHECK(advise(inside, 4 * span, PTRECLAIM_OFF) == 0);
    free(start_of_libc);
    CHECK(map_at(inside, 4, MAP_FIXED_NOREPLACE) == inside);
    make_empty(inside, 4);
    CHECK(go_away(inside, 4));

    // Everything: passes go on, and look at nothing.
    CHECK(advise(NULL, (size_t)1 << 47, PTRECLAIM_OFF) == 0);
    pause_for(A_WHILE_MS);
    const struct work before = work_so_far();
    make_empty(start, SPANS);
    CHECK(stay(start, SPANS));
    const struct work after = work_so_far();
    CHECK(after.tables_looked_at == before.tables_looked_at);
    CHECK(after.passes > before.passes);
    CHECK(advise(NULL, (size_t)1 << 47, PTRECLAIM_ON) == 0);
    make_empty(start, SPANS);
    CHECK(go_away(start, SPANS));
}

// ---- now --------------------------------------------------------------------------------------

static void *free_again_and_again(void *unused) {
    (void)unused;
    char *start = map_spans(SPANS);
    for (int i = 0; i < 50; i++) {
        make_empty(start, SPANS);
        if (advise(start, SPANS * span, PTRECLAIM_NOW) != 0 || tables(start, SPANS) != 0) {
            return "NOW came back too early";
        }
    }
    return NULL;
}

static void now(void) {
    char *start = map_spans(SPANS);
    make_empty(start, SPANS);
    start[4 * span] = 'x';
    CHECK(advise(start, SPANS * span, PTRECLAIM_NOW) == 0);
    CHECK(tables(start, 4) == 0);
    CHECK(tables(start + 4 * span, 1) == 1);
    CHECK(tables(start + 5 * span, 3) == 0);
    CHECK(start[4 * span] == 'x');
    // Only spans that lie inside.
    make_empty(start, 2);
    CHECK(advise(start + 4096, 2 * span - 8192, PTRECLAIM_NOW) == 0);
    CHECK(tables(start, 2) == 2);
    CHECK(advise(start, 0, PTRECLAIM_NOW) == 0);
    CHECK(advise(start + 4096, 2 * span - 4096, PTRECLAIM_NOW) == 0);
    CHECK(tables(start, 2) == 1);

    CHECK(advise(start, 2 * span, PTRECLAIM_OFF) == 0);
    CHECK(advise(start, 2 * span, PTRECLAIM_NOW) == 0);
    CHECK(tables(start, 2) == 1);
    CHECK(advise(start, 2 * span, PTRECLAIM_ON) == 0);
    CHECK(advise(start, 2 * span, PTRECLAIM_NOW) == 0);
    CHECK(tables(start, 2) == 0);

    // Beside each other, and in a child.
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, free_again_and_again, NULL) == 0);
    }
    for (int i = 0; i < 4; i++) {
        void *complaint = NULL;
        CHECK(pthread_join(threads[i], &complaint) == 0);
        CHECK(complaint == NULL);
    }
    const pid_t child = fork();
    if (child == 0) {
        pagemap = ptreclaim_open_self_pagemap();
        make_empty(start, 2);
        _exit(advise(start, 2 * span, PTRECLAIM_NOW) == 0 && tables(start, 2) == 0 ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
}

// ---- errors -----------------------------------------------------------------------------------

static bool fails(int error, void *address, size_t length, unsigned int advice) {
    errno = 0;
    return advise(address, length, advice) == -1 && errno == error;
}

static void wrong_arguments(char *page) {
    const size_t top = (size_t)1 << 47;
    for (unsigned int advice = PTRECLAIM_ON; advice <= PTRECLAIM_NOW; advice++) {
        CHECK(fails(EINVAL, page + 1, 4096, advice));
        CHECK(fails(EINVAL, page, top, advice));
        CHECK(fails(EINVAL, page, SIZE_MAX, advice));
        CHECK(fails(EINVAL, (void *)(top + 4096), 0, advice));
        errno = 0;
        CHECK(advise((void *)top, 0, advice) == 0);
        CHECK(advise(page, 0, advice) == 0);
        CHECK(errno == 0);
    }
    CHECK(fails(EINVAL, page, 4096, 0));
    CHECK(fails(EINVAL, page, 4096, 4));
}

static void refused(char *page) {
    for (unsigned int advice = PTRECLAIM_ON; advice <= PTRECLAIM_NOW; advice++) {
        CHECK(fails(EOPNOTSUPP, page, span, advice));
    }
}

int main(int count, char **arguments) {
    const char *act = count == 2 ? arguments[1] : "";
    *(void **)&advise = dlsym(RTLD_DEFAULT, "ptreclaim_advise");
    pagemap = ptreclaim_open_self_pagemap();
    char *page = map_at(NULL, 1, 0);
    if (!advise || pagemap < 0 || page == MAP_FAILED) {
        printf("advice: no ptreclaim_advise, no pagemap or no memory\n");
        return 1;
    }
    if (strcmp(act, "marked") == 0) {
        marked();
    } else if (strcmp(act, "off") == 0) {
        off();
    } else if (strcmp(act, "now") == 0) {
        now();
        wrong_arguments(page);
    } else if (strcmp(act, "refused") == 0) {
        refused(page);
    } else {
        fprintf(stderr, "usage: advice marked|off|now|refused\n");
        return 2;
    }
    printf("checks: %d\n", checks);
    if (failures && strcmp(act, "refused") != 0 && has_given_up()) {
        return 3;
    }
    return failures ? 1 : 0;
}
