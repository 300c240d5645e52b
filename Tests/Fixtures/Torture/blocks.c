// SPDX-License-Identifier: Apache-2.0

#include "blocks.h"

#include "contents.h"

#include <stdbool.h>
#include <stdlib.h>

enum { SLOT_COUNT = 768, MEBIBYTE = 1 << 20 };

/// One block of memory, or none. Whoever holds `busy` may look at and change it.
struct slot {
    atomic_flag busy;
    unsigned char *start; // NULL: none
    size_t byte_count;
    uint64_t key;
};

static struct slot slots[SLOT_COUNT];
atomic_ulong operation_count;
static atomic_size_t live_byte_count;
size_t live_byte_limit = SIZE_MAX;

/// 16 B to 8 MiB, evenly over the powers of two but for the middle ones, whose extents begin and
/// end in the middle of spans, and which come three times as often.
static size_t random_byte_count(uint64_t *state) {
    const uint64_t choice = next(state);
    const unsigned low = choice % 4 == 0 ? 4 : 15;
    const unsigned high = choice % 4 == 0 ? 23 : 21;
    const unsigned power = low + (unsigned)((choice >> 8) % (high - low));
    return ((size_t)1 << power) + (size_t)(next(state) & (((size_t)1 << power) - 1));
}

static void forget(struct slot *slot) {
    const size_t wrong =
        check(slot->start, (uintptr_t)slot->start, slot->byte_count, slot->key, slot->byte_count);
    if (wrong) {
        report_wrong("free", slot->start, slot->byte_count, wrong);
    }
    free(slot->start);
    slot->start = NULL;
    atomic_fetch_sub_explicit(&live_byte_count, slot->byte_count, memory_order_relaxed);
}

static void keep(struct slot *slot, void *start, size_t byte_count, uint64_t salt) {
    slot->start = start;
    slot->byte_count = byte_count;
    slot->key = mix((uintptr_t)start) ^ mix(byte_count) ^ salt;
    atomic_fetch_add_explicit(&live_byte_count, byte_count, memory_order_relaxed);
    fill(slot->start, byte_count, slot->key);
}

static void allocate(struct slot *slot, uint64_t *state) {
    const size_t byte_count = random_byte_count(state);
    void *start = NULL;
    switch (next(state) % 4) {
    case 0:
        start = calloc(1, byte_count);
        if (start) {
            const size_t wrong = count_nonzero(start, byte_count);
            if (wrong) {
                report_wrong("calloc", start, byte_count, wrong);
            }
        }
        break;
    case 1: {
        const size_t alignment = (size_t)64 << next(state) % 16; // up to a span
        start = aligned_alloc(alignment, (byte_count + alignment - 1) & ~(alignment - 1));
        break;
    }
    default:
        start = malloc(byte_count);
    }
    if (start) {
        keep(slot, start, byte_count, next(state));
    }
}

/// Half of the long blocks grow a little, which jemalloc does in place where it can: the only merge
/// of extents that hold somebody's bytes.
static size_t next_byte_count(const struct slot *slot, uint64_t *state) {
    if (slot->byte_count < MEBIBYTE || slot->byte_count > 8 * MEBIBYTE || next(state) % 2 == 0) {
        return random_byte_count(state);
    }
    return slot->byte_count + slot->byte_count / 8 * (1 + next(state) % 4);
}

static void reallocate(struct slot *slot, uint64_t *state) {
    const size_t byte_count = next_byte_count(slot, state);
    const uintptr_t origin = (uintptr_t)slot->start;
    unsigned char *start = realloc(slot->start, byte_count);
    if (!start) {
        return;
    }
    const size_t kept = byte_count < slot->byte_count ? byte_count : slot->byte_count;
    const size_t wrong = check(start, origin, slot->byte_count, slot->key, kept);
    if (wrong) {
        report_wrong("realloc", start, byte_count, wrong);
    }
    atomic_fetch_sub_explicit(&live_byte_count, slot->byte_count, memory_order_relaxed);
    keep(slot, start, byte_count, next(state));
}

void work_on_a_block(uint64_t *state) {
    struct slot *slot = &slots[next(state) % SLOT_COUNT];
    if (atomic_flag_test_and_set_explicit(&slot->busy, memory_order_acquire)) {
        return;
    }
    const bool is_full =
        atomic_load_explicit(&live_byte_count, memory_order_relaxed) >= live_byte_limit;
    if (!slot->start) {
        if (!is_full) {
            allocate(slot, state);
        }
    } else if (!is_full && next(state) % (slot->byte_count < MEBIBYTE ? 4 : 2) == 0) {
        reallocate(slot, state);
    } else {
        forget(slot);
    }
    atomic_flag_clear_explicit(&slot->busy, memory_order_release);
    atomic_fetch_add_explicit(&operation_count, 1, memory_order_relaxed);
}

void sweep_blocks(uint64_t *state) {
    const size_t first = next(state) % SLOT_COUNT;
    for (size_t i = 0; i < SLOT_COUNT / 8; i++) {
        struct slot *slot = &slots[(first + i) % SLOT_COUNT];
        if (atomic_flag_test_and_set_explicit(&slot->busy, memory_order_acquire)) {
            continue;
        }
        if (slot->start) {
            forget(slot);
        }
        atomic_flag_clear_explicit(&slot->busy, memory_order_release);
    }
}

void check_blocks(void) {
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        struct slot *slot = &slots[i];
        if (atomic_flag_test_and_set_explicit(&slot->busy, memory_order_acquire)) {
            continue;
        }
        if (slot->start) {
            const size_t wrong = check(
                slot->start, (uintptr_t)slot->start, slot->byte_count, slot->key, slot->byte_count);
            if (wrong) {
                report_wrong("check", slot->start, slot->byte_count, wrong);
            }
        }
        atomic_flag_clear_explicit(&slot->busy, memory_order_release);
    }
}

void free_blocks(void) {
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        if (slots[i].start) {
            forget(&slots[i]);
        }
    }
}
