// SPDX-License-Identifier: Apache-2.0

#include "candidates.h"

#include <stdlib.h>

enum { SLOT_COUNT = 4096, COUNT_BITS = 26 };

// In a slot: first + 1, so that none is zero, above the count. What a forked child inherits of it is
// as true there.
static uint64_t slots[SLOT_COUNT];
static uint64_t put_count, taken_count;

uint64_t ptreclaim_candidates_add(uint64_t first, uint64_t count) {
    const uint64_t put = __atomic_load_n(&put_count, __ATOMIC_RELAXED);
    if (put - __atomic_load_n(&taken_count, __ATOMIC_RELAXED) >= SLOT_COUNT
        || count >> COUNT_BITS) {
        return 0;
    }
    const uint64_t place = __atomic_fetch_add(&put_count, 1, __ATOMIC_RELAXED);
    __atomic_store_n(
        &slots[place % SLOT_COUNT], (first + 1) << COUNT_BITS | count, __ATOMIC_RELEASE);
    return place + 1;
}

bool ptreclaim_candidates_waits(uint64_t ticket) {
    return ticket > __atomic_load_n(&taken_count, __ATOMIC_SEQ_CST);
}

/// Sorts by the first span. In place, without an allocation: qsort of glibc allocates.
static void sort(struct ptreclaim_candidates *runs, size_t count) {
    for (size_t gap = count / 2; gap > 0; gap /= 2) {
        for (size_t i = gap; i < count; i++) {
            const struct ptreclaim_candidates run = runs[i];
            size_t at = i;
            for (; at >= gap && runs[at - gap].first > run.first; at -= gap) {
                runs[at] = runs[at - gap];
            }
            runs[at] = run;
        }
    }
}

static size_t join(struct ptreclaim_candidates *runs, size_t count) {
    size_t joined = 0;
    for (size_t i = 0; i < count; i++) {
        struct ptreclaim_candidates *last = joined ? &runs[joined - 1] : NULL;
        if (last && runs[i].first <= last->first + last->count) {
            const uint64_t end = runs[i].first + runs[i].count;
            if (end > last->first + last->count) {
                last->count = end - last->first;
            }
        } else {
            runs[joined++] = runs[i];
        }
    }
    return joined;
}

size_t ptreclaim_candidates_take(
    struct ptreclaim_candidates *runs, size_t capacity, bool *has_missed) {
    const uint64_t end = __atomic_load_n(&put_count, __ATOMIC_ACQUIRE);
    size_t count = 0;
    uint64_t place = taken_count;
    for (; place < end && count < capacity; place++) {
        // Zero where somebody has a place and has not written yet, or more were put down at the same
        // moment than there are places.
        const uint64_t word =
            __atomic_exchange_n(&slots[place % SLOT_COUNT], 0, __ATOMIC_ACQUIRE);
        if (word) {
            runs[count].first = (word >> COUNT_BITS) - 1;
            runs[count].count = word & (((uint64_t)1 << COUNT_BITS) - 1);
            count++;
        } else {
            *has_missed = true;
        }
    }
    if (place < end) {
        *has_missed = true;
    }
    __atomic_store_n(&taken_count, end, __ATOMIC_SEQ_CST);
    sort(runs, count);
    return join(runs, count);
}
