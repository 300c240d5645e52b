// SPDX-License-Identifier: Apache-2.0

#include "page_tables.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, SPAN_SHIFT = 21, PMD_SHIFT = 30, PUD_SHIFT = 39 };
#define ADDRESS_END 0x7ffffffff000ull

// PAGEMAP_SCAN, since Linux 6.7. Spelled out: Debian 12's headers are older.
struct page_region {
    uint64_t start, end, categories;
};
struct pm_scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PAGEMAP_SCAN_REQUEST _IOWR('f', 16, struct pm_scan_arg)
#define LIVE_CATEGORIES ((1u << 3) | (1u << 4)) // present, swapped

/// The tables above what was added so far. Addresses come in rising order.
struct tables {
    uint64_t next_span, next_pmd, next_pud; // the first index not yet counted
    uint64_t count;
};

static uint64_t count_new(uint64_t *next, uint64_t first, uint64_t last) {
    if (first < *next) {
        first = *next;
    }
    if (last < first) {
        return 0;
    }
    *next = last + 1;
    return last - first + 1;
}

/// Adds what the live pages `start ..< end` need: one PTE table for each span (a THP has one too,
/// deposited for the day it is split) and the PMD and PUD tables above.
static void add_live(struct tables *tables, uint64_t start, uint64_t end) {
    uint64_t last = end - 1;
    tables->count += count_new(&tables->next_span, start >> SPAN_SHIFT, last >> SPAN_SHIFT);
    tables->count += count_new(&tables->next_pmd, start >> PMD_SHIFT, last >> PMD_SHIFT);
    tables->count += count_new(&tables->next_pud, start >> PUD_SHIFT, last >> PUD_SHIFT);
}

static int scan(int pagemap, struct tables *tables) {
    static struct page_region regions[512]; // more, and Linux 6.18 returned some twice
    for (uint64_t start = 0; start < ADDRESS_END;) {
        struct pm_scan_arg argument = {
            .size = sizeof(argument),
            .start = start,
            .end = ADDRESS_END,
            .vec = (uint64_t)(uintptr_t)regions,
            .vec_len = sizeof(regions) / sizeof(regions[0]),
            .category_anyof_mask = LIVE_CATEGORIES,
            .return_mask = LIVE_CATEGORIES,
        };
        int count = ioctl(pagemap, PAGEMAP_SCAN_REQUEST, &argument);
        if (count < 0) {
            return -errno;
        }
        for (int i = 0; i < count; i++) {
            add_live(tables, regions[i].start, regions[i].end);
        }
        if (argument.walk_end <= start) {
            break;
        }
        start = argument.walk_end;
    }
    return 0;
}

static int read_words(int pagemap, uint64_t start, uint64_t end, struct tables *tables) {
    static uint64_t words[8192];
    while (start < end) {
        uint64_t pages = (end - start) / PAGE_BYTES;
        size_t wanted = pages < 8192 ? (size_t)pages : 8192;
        ssize_t count =
            pread(pagemap, words, wanted * sizeof(words[0]), (off_t)(start / PAGE_BYTES * 8));
        if (count <= 0) {
            return count < 0 ? -errno : -EIO;
        }
        size_t got = (size_t)count / sizeof(words[0]);
        for (size_t i = 0; i < got; i++, start += PAGE_BYTES) {
            if (words[i] >> 62) { // present or swapped
                add_live(tables, start, start + PAGE_BYTES);
            }
        }
    }
    return 0;
}

/// Calls `read_words` for each VMA when `tables` is given; counts the VMAs in any case.
/// A file of its own, not stdio: its buffer would come from the allocator under test.
static int for_each_vma(int pagemap, struct tables *tables, uint64_t *vma_count) {
    static char text[1 << 16];
    int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (maps < 0) {
        return -errno;
    }
    *vma_count = 0;
    int error = 0;
    size_t kept = 0;
    ssize_t count;
    while (error == 0 && (count = read(maps, text + kept, sizeof(text) - 1 - kept)) > 0) {
        size_t used = kept + (size_t)count;
        text[used] = '\0';
        char *line = text;
        for (char *newline; error == 0 && (newline = strchr(line, '\n')); line = newline + 1) {
            unsigned long start, end;
            *vma_count += 1;
            if (tables && sscanf(line, "%lx-%lx", &start, &end) == 2 && end <= ADDRESS_END) {
                error = read_words(pagemap, start, end, tables);
            }
        }
        kept = (size_t)(text + used - line);
        memmove(text, line, kept);
    }
    close(maps);
    return error;
}

static int read_vm_pte(uint64_t *byte_count) {
    static char text[8192];
    int status = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    if (status < 0) {
        return -errno;
    }
    ssize_t count = read(status, text, sizeof(text) - 1);
    close(status);
    text[count > 0 ? count : 0] = '\0';
    const char *field = strstr(text, "\nVmPTE:");
    unsigned long kib;
    if (!field || sscanf(field, "\nVmPTE: %lu kB", &kib) != 1) {
        return -ENODATA;
    }
    *byte_count = kib * 1024;
    return 0;
}

int take_page_table_census(struct page_table_census *census) {
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0) {
        return -errno;
    }
    struct tables tables = {0};
    int error = scan(pagemap, &tables);
    census->used_scan = error == 0;
    if (error == -ENOTTY) {
        tables = (struct tables){0};
        error = for_each_vma(pagemap, &tables, &census->vma_count);
    } else if (error == 0) {
        error = for_each_vma(pagemap, NULL, &census->vma_count);
    }
    if (error == 0) {
        error = read_vm_pte(&census->vm_pte_byte_count);
    }
    close(pagemap);
    census->needed_byte_count = tables.count * PAGE_BYTES;
    return error;
}
