// SPDX-License-Identifier: Apache-2.0
//
// The scans that `ptreclaim inspect` makes of a process, and nothing else.
//
//   bare-scans PID
//       says "ok SCANS NANOSECONDS"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "linux_mm.h"

enum { SPAN = 2 << 20, REGIONS = 512 };

static const uint64_t end_of_user_space = (1ull << 47) - 4096;

static int pagemap;
static uint64_t scans;

static long scan(struct ptreclaim_pm_scan_arg *argument) {
    scans++;
    long count = ptreclaim_pagemap_scan(pagemap, argument);
    if (count < 0) {
        fprintf(stderr, "bare-scans: PAGEMAP_SCAN: %s\n", strerror((int)-count));
        exit(1);
    }
    return count;
}

/// Lists the regions of `start ..< end` that have a table.
static void scan_gap(uint64_t start, uint64_t end) {
    struct ptreclaim_page_region regions[REGIONS];
    struct ptreclaim_pm_scan_arg argument = {
        .start = start,
        .end = end,
        .vec = (uintptr_t)regions,
        .vec_len = REGIONS,
        .category_mask = PTRECLAIM_PAGE_IS_WRITTEN,
        .return_mask = PTRECLAIM_PAGE_IS_WRITTEN,
    };
    while (argument.start < end) {
        scan(&argument);
        if (argument.walk_end <= argument.start) {
            return;
        }
        argument.start = argument.walk_end;
    }
}

/// From live page to live page, a span at a time.
static void scan_all(void) {
    struct ptreclaim_page_region region;
    struct ptreclaim_pm_scan_arg argument = {
        .end = end_of_user_space,
        .vec = (uintptr_t)&region,
        .vec_len = 1,
        .max_pages = 1,
        .category_anyof_mask = PTRECLAIM_PAGE_IS_PRESENT | PTRECLAIM_PAGE_IS_SWAPPED,
        .return_mask = PTRECLAIM_PAGE_IS_PRESENT | PTRECLAIM_PAGE_IS_SWAPPED
            | PTRECLAIM_PAGE_IS_HUGE | PTRECLAIM_PAGE_IS_FILE,
    };
    while (argument.start < argument.end) {
        bool found = scan(&argument) > 0;
        uint64_t span = found ? region.start & ~(uint64_t)(SPAN - 1) : argument.end;
        if (span > argument.start) {
            scan_gap(argument.start, span);
        }
        if (!found) {
            return;
        }
        argument.start = span + SPAN;
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: bare-scans PID\n");
        return 2;
    }
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/pagemap", atoi(argv[1]));
    pagemap = open(path, O_RDONLY | O_CLOEXEC);
    if (pagemap < 0) {
        fprintf(stderr, "bare-scans: %s: %s\n", path, strerror(errno));
        return 1;
    }
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    scan_all();
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf(
        "ok %llu %lld\n", (unsigned long long)scans,
        (end.tv_sec - start.tv_sec) * 1000000000ll + end.tv_nsec - start.tv_nsec);
    return 0;
}
