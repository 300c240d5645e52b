// SPDX-License-Identifier: Apache-2.0
//
// What the tortures write to memory, so that a byte that changed by itself is seen.

#ifndef TORTURE_CONTENTS_H
#define TORTURE_CONTENTS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { PAGE_BYTES = 4096, LINE_BYTES = 64 };

/// Bytes, or calls, that were not as they had to be: the verdict of the program.
extern atomic_ulong wrong_byte_count;

static inline uint64_t mix(uint64_t value) { // splitmix64
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

static inline uint64_t next(uint64_t *state) { return mix((*state)++); }

/// Writes the bytes `from ..< to` of the pattern of `key` to `start + from`, and checks them.
void fill_part(unsigned char *start, uint64_t key, size_t from, size_t to);
size_t check_part(const unsigned char *start, uint64_t key, size_t from, size_t to);

void fill(unsigned char *start, size_t byte_count, uint64_t key);

/// Checks the first `limit` bytes of a block that was filled as one of `byte_count` bytes at
/// `origin`; realloc moves blocks and cuts them short. Returns the number of wrong bytes.
size_t check(
    const unsigned char *start, uintptr_t origin, size_t byte_count, uint64_t key, size_t limit);

size_t count_nonzero(const unsigned char *start, size_t byte_count);

/// Adds to `wrong_byte_count`, and says so on stderr until there was enough of it.
void report_wrong(const char *what, const unsigned char *start, size_t byte_count, size_t wrong);

#endif
