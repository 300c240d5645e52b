// SPDX-License-Identifier: Apache-2.0

#include "linux_mm.h"

#include <errno.h>

enum { SPAN_BYTES = 2 << 20, PAGES_PER_SPAN = 512 };

/// Whether a page of the span has all of `mask` and any of `any_of`; stops at the first hit.
static long scan_for(int pagemap_fd, uint64_t span_start, uint64_t mask, uint64_t any_of) {
    struct ptreclaim_page_region region;
    struct ptreclaim_pm_scan_arg argument = {
        .start = span_start,
        .end = span_start + SPAN_BYTES,
        .vec = (uint64_t)(uintptr_t)&region,
        .vec_len = 1,
        .max_pages = 1,
        .category_mask = mask,
        .category_anyof_mask = any_of,
        .return_mask = mask | any_of,
    };
    return ptreclaim_pagemap_scan(pagemap_fd, &argument);
}

/// Before Linux 6.7: bit 63 present, bit 62 swapped (markers too).
static long look_at_pagemap_words(int pagemap_fd, uintptr_t span_start) {
    uint64_t words[PAGES_PER_SPAN];
    long count = ptreclaim_pread(
        pagemap_fd, words, sizeof(words), (off_t)(span_start / 4096 * sizeof(uint64_t)));
    if (count < 0) {
        return count;
    }
    if (count != (long)sizeof(words)) {
        return -EIO;
    }
    for (int i = 0; i < PAGES_PER_SPAN; i++) {
        if (words[i] >> 62) {
            return PTRECLAIM_LOOK_POPULATED;
        }
    }
    return PTRECLAIM_LOOK_EMPTY_OR_ABSENT;
}

long ptreclaim_look(int pagemap_fd, uintptr_t span_start) {
    long live = scan_for(
        pagemap_fd, span_start, 0, PTRECLAIM_PAGE_IS_PRESENT | PTRECLAIM_PAGE_IS_SWAPPED);
    if (live == -ENOTTY) {
        return look_at_pagemap_words(pagemap_fd, span_start);
    }
    if (live < 0) {
        return live;
    }
    if (live > 0) {
        return PTRECLAIM_LOOK_POPULATED;
    }
    // The kernel's fast path wants WRITTEN as mask and nothing else: the form that also works on
    // the first kernels with this ioctl.
    long table = scan_for(pagemap_fd, span_start, PTRECLAIM_PAGE_IS_WRITTEN, 0);
    if (table < 0) {
        return table;
    }
    return table > 0 ? PTRECLAIM_LOOK_EMPTY : PTRECLAIM_LOOK_ABSENT;
}

// ---- VMAs -------------------------------------------------------------------------------------


static bool parse_hex(const char **text, const char *end, uintptr_t *value) {
    const char *begin = *text;
    for (*value = 0; *text < end; (*text)++) {
        char c = **text;
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) {
            break;
        }
        *value = *value * 16 + (uintptr_t)digit;
    }
    return *text > begin;
}

static bool line_names_kernel_memory(const char *line, const char *end) {
    while (line < end && *line != '[') {
        line++;
    }
    return end - line > 2 && line[1] == 'v'; // [vdso], [vvar], [vvar_vclock], [vsyscall]
}

/// Reads the text of maps until the line that covers `address`. Long names are cut by the buffer;
/// a line's addresses never are.
static long find_vma_in_text(int maps_fd, uintptr_t address, struct ptreclaim_vma *vma) {
    char buffer[8192];
    long kept = 0;
    for (off_t offset = 0;;) {
        long count = ptreclaim_pread(maps_fd, buffer + kept, sizeof(buffer) - (size_t)kept, offset);
        if (count < 0) {
            return count;
        }
        if (count == 0) {
            return -ENOENT;
        }
        offset += count;
        const char *end = buffer + kept + count;
        const char *line = buffer;
        for (const char *newline = line; newline < end; newline++) {
            if (*newline != '\n') {
                continue;
            }
            const char *text = line;
            uintptr_t start, finish;
            if (parse_hex(&text, newline, &start) && *text++ == '-'
                && parse_hex(&text, newline, &finish) && address < finish) {
                if (address < start) {
                    return -ENOENT;
                }
                *vma = (struct ptreclaim_vma){
                    .start = start,
                    .end = finish,
                    .is_special = line_names_kernel_memory(text, newline)};
                return 0;
            }
            line = newline + 1;
        }
        kept = end - line;
        if (kept == (long)sizeof(buffer)) {
            return -E2BIG;
        }
        __builtin_memmove(buffer, line, (size_t)kept);
    }
}

long ptreclaim_find_vma(int maps_fd, uintptr_t address, struct ptreclaim_vma *vma) {
    char name[16] = "";
    struct ptreclaim_procmap_query query = {
        .query_addr = address,
        .vma_name_addr = (uint64_t)(uintptr_t)name,
        .vma_name_size = sizeof(name),
    };
    long result = ptreclaim_procmap_query(maps_fd, &query);
    if (result == -ENAMETOOLONG) {
        // A file's path: ask again without the name.
        name[0] = '\0';
        query.vma_name_size = 0;
        query.vma_name_addr = 0;
        result = ptreclaim_procmap_query(maps_fd, &query);
    }
    if (result == -ENOTTY) {
        return find_vma_in_text(maps_fd, address, vma);
    }
    if (result < 0) {
        return result;
    }
    *vma = (struct ptreclaim_vma){
        .start = query.vma_start,
        .end = query.vma_end,
        .is_special = query.vma_page_size != 4096 || (name[0] == '[' && name[1] == 'v'),
    };
    return 0;
}

bool ptreclaim_probe_procmap_query(void) {
    int fd = ptreclaim_open_self_maps();
    if (fd < 0) {
        return false;
    }
    struct ptreclaim_procmap_query query = {.query_addr = (uint64_t)(uintptr_t)&query};
    long result = ptreclaim_procmap_query(fd, &query);
    ptreclaim_close(fd);
    return result == 0;
}
