// SPDX-License-Identifier: Apache-2.0

#include "linux_mm.h"

enum { SPAN_BYTES = 2 << 20, PAGE_BYTES = 4096, PAGES_PER_SPAN = 512 };
static const uintptr_t LONGEST_SCAN_BYTES = 1ul << 40;

static uintptr_t span_of(uintptr_t address) { return address & ~(uintptr_t)(SPAN_BYTES - 1); }

bool ptreclaim_probe_pagemap_scan(int pagemap_fd) {
    // Of no page: it costs 0.3 us.
    struct ptreclaim_pm_scan_arg argument = {0};
    return ptreclaim_pagemap_scan(pagemap_fd, &argument) >= 0;
}

/// Before Linux 6.7: bit 63 present, bit 62 swapped (markers too).
static long first_populated_word(
    int pagemap_fd, uintptr_t start, uintptr_t end, uintptr_t *page) {
    uint64_t words[PAGES_PER_SPAN];
    while (start < end) {
        size_t pages = (end - start) / PAGE_BYTES;
        size_t wanted = pages < PAGES_PER_SPAN ? pages : PAGES_PER_SPAN;
        long count = ptreclaim_pread(
            pagemap_fd, words, wanted * sizeof(words[0]),
            (off_t)(start / PAGE_BYTES * sizeof(words[0])));
        if (count < 0) {
            return count;
        }
        if (count == 0 || count % (long)sizeof(words[0])) {
            return -EIO;
        }
        size_t found = (size_t)count / sizeof(words[0]);
        for (size_t i = 0; i < found; i++) {
            if (words[i] >> 62) {
                *page = start + i * PAGE_BYTES;
                return 1;
            }
        }
        start += found * PAGE_BYTES;
    }
    return 0;
}

/// Finds the lowest page of `start ..< end` that the scan of `filter` puts out.
static long first_page(
    int pagemap_fd, const struct ptreclaim_pm_scan_arg *filter, uintptr_t start, uintptr_t end,
    uintptr_t *page) {
    while (start < end) {
        // One scan holds the mmap lock to its end, 1 ms for 1 TiB without a PTE table.
        uintptr_t stop = end - start > LONGEST_SCAN_BYTES ? start + LONGEST_SCAN_BYTES : end;
        struct ptreclaim_page_region region;
        struct ptreclaim_pm_scan_arg argument = *filter;
        argument.start = start;
        argument.end = stop;
        argument.vec = (uint64_t)(uintptr_t)&region;
        argument.vec_len = 1;
        argument.max_pages = 1;
        long count = ptreclaim_pagemap_scan(pagemap_fd, &argument);
        if (count < 0) {
            return count;
        }
        if (count > 0) {
            *page = region.start;
            return 1;
        }
        start = stop;
    }
    return 0;
}

static const struct ptreclaim_pm_scan_arg not_none = {
    .category_anyof_mask = PTRECLAIM_PAGE_IS_PRESENT | PTRECLAIM_PAGE_IS_SWAPPED,
    .return_mask = PTRECLAIM_PAGE_IS_PRESENT | PTRECLAIM_PAGE_IS_SWAPPED,
};

// The kernel's fast path wants WRITTEN as mask and nothing else: the form that also works on the
// first kernels with this ioctl. It passes over entries that are write-protected.
static const struct ptreclaim_pm_scan_arg written = {
    .category_mask = PTRECLAIM_PAGE_IS_WRITTEN,
    .return_mask = PTRECLAIM_PAGE_IS_WRITTEN,
};

long ptreclaim_first_populated(
    int pagemap_fd, bool has_scan, uintptr_t start, uintptr_t end, uintptr_t *page) {
    return has_scan ? first_page(pagemap_fd, &not_none, start, end, page)
                    : first_populated_word(pagemap_fd, start, end, page);
}

/// The lowest page that proves a table. One entry tells, so it costs 0.4 us for each table where a
/// scan of all its entries costs 4.7 us.
static long first_page_with_table(
    int pagemap_fd, uintptr_t start, uintptr_t end, uintptr_t *page) {
    uintptr_t stop = end;
    long found = first_page(pagemap_fd, &written, start, end, page);
    if (found > 0) {
        stop = span_of(*page);
    }
    if (found < 0 || stop <= start) {
        return found;
    }
    // What was passed over may hold a table whose entries are all write-protected.
    uintptr_t protected_page = 0;
    long is_there = first_page(pagemap_fd, &not_none, start, stop, &protected_page);
    if (is_there > 0) {
        *page = protected_page;
    }
    return is_there ? is_there : found;
}

long ptreclaim_first_tables(
    int pagemap_fd, uintptr_t start, uintptr_t end, size_t at_most, uintptr_t *first,
    uintptr_t *last) {
    uintptr_t page = 0;
    long found = first_page_with_table(pagemap_fd, start, end, &page);
    if (found <= 0) {
        return found;
    }
    *first = span_of(page);
    *last = *first + SPAN_BYTES;
    while (*last < end && *last - *first < at_most * SPAN_BYTES) {
        found = first_page_with_table(pagemap_fd, *last, *last + SPAN_BYTES, &page);
        if (found < 0) {
            return found;
        }
        if (!found) {
            break;
        }
        *last += SPAN_BYTES;
    }
    return 1;
}
