// SPDX-License-Identifier: Apache-2.0

#include "contents.h"

#include <stdio.h>
#include <string.h>

enum { LONGEST_FULLY_CHECKED = 4 * PAGE_BYTES };

atomic_ulong wrong_byte_count;

/// Never zero, so that a page that was dropped is seen in each of its bytes.
static unsigned char pattern(uint64_t key, size_t offset) {
    return (unsigned char)(mix(key ^ (offset & ~(size_t)7)) >> (offset & 7) * 8) | 1;
}

void fill_part(unsigned char *start, uint64_t key, size_t from, size_t to) {
    for (size_t offset = from; offset < to; offset++) {
        start[offset] = pattern(key, offset);
    }
}

size_t check_part(const unsigned char *start, uint64_t key, size_t from, size_t to) {
    size_t wrong = 0;
    for (size_t offset = from; offset < to; offset++) {
        wrong += start[offset] != pattern(key, offset);
    }
    return wrong;
}

/// Memory is lost by whole pages: of a long block one line in each page, at a place that differs
/// from page to page, and the last line say as much as all of it.
static size_t line_offset(uint64_t key, const unsigned char *start, size_t page, size_t count) {
    // The pages of the kernel, not of the block: a short first one, then aligned ones.
    const size_t first = (size_t)(-(uintptr_t)start & (PAGE_BYTES - 1));
    const size_t begin = page == 0 ? 0 : first + (page - 1) * PAGE_BYTES;
    const size_t line = page == 0 ? 0 : mix(key + page) % (PAGE_BYTES / LINE_BYTES);
    const size_t offset = begin + line * LINE_BYTES;
    return offset + LINE_BYTES <= count ? offset : count - LINE_BYTES;
}

static size_t page_count_of(const unsigned char *start, size_t byte_count) {
    const size_t first = (size_t)(-(uintptr_t)start & (PAGE_BYTES - 1));
    return 1 + (byte_count - first + PAGE_BYTES - 1) / PAGE_BYTES;
}

void fill(unsigned char *start, size_t byte_count, uint64_t key) {
    if (byte_count <= LONGEST_FULLY_CHECKED) {
        fill_part(start, key, 0, byte_count);
        return;
    }
    const size_t pages = page_count_of(start, byte_count);
    for (size_t page = 0; page < pages; page++) {
        const size_t offset = line_offset(key, start, page, byte_count);
        fill_part(start, key, offset, offset + LINE_BYTES);
    }
    fill_part(start, key, byte_count - LINE_BYTES, byte_count);
}

size_t check(
    const unsigned char *start, uintptr_t origin, size_t byte_count, uint64_t key, size_t limit) {
    if (byte_count <= LONGEST_FULLY_CHECKED) {
        return check_part(start, key, 0, limit);
    }
    const unsigned char *filled = (const unsigned char *)origin;
    const size_t pages = page_count_of(filled, byte_count);
    size_t wrong = 0;
    for (size_t page = 0; page < pages; page++) {
        const size_t offset = line_offset(key, filled, page, byte_count);
        if (offset + LINE_BYTES > limit) {
            break;
        }
        wrong += check_part(start, key, offset, offset + LINE_BYTES);
    }
    if (limit == byte_count) {
        wrong += check_part(start, key, byte_count - LINE_BYTES, byte_count);
    }
    return wrong;
}

size_t count_nonzero(const unsigned char *start, size_t byte_count) {
    size_t wrong = 0, offset = 0;
    for (; offset + 8 <= byte_count; offset += 8) {
        uint64_t word;
        memcpy(&word, start + offset, 8);
        if (word) {
            wrong += 8;
        }
    }
    for (; offset < byte_count; offset++) {
        wrong += start[offset] != 0;
    }
    return wrong;
}

void report_wrong(
    const char *what, const unsigned char *start, size_t byte_count, size_t wrong) {
    if (atomic_fetch_add(&wrong_byte_count, wrong) < 4096) {
        fprintf(stderr, "%s: %zu wrong bytes in the %zu at %p\n", what, wrong, byte_count,
                (const void *)start);
    }
}
