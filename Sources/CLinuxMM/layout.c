// SPDX-License-Identifier: Apache-2.0

#include "layout.h"

#include "linux_mm.h"
#include "live_state.h"

enum {
    SPAN_SHIFT = 21,
    GIB_SHIFT = 30,
    SPANS_PER_GIB = 512,
    PAGES_PER_SPAN = 512,
    GIB_COUNT = 1 << 17, // below 2^47
    BLOCK_CHUNKS = 32,
    BLOCK_BYTES = BLOCK_CHUNKS * SPANS_PER_GIB * 4,
    NO_HUGE_PAGE = 15, // MADV_NOHUGEPAGE
    DONT_DUMP = 16,    // MADV_DONTDUMP
};

static const uintptr_t top = 1ul << 47, gib_bytes = 1ul << GIB_SHIFT, span_bytes = 1ul << SPAN_SHIFT;

// A span's word:  31 ... 15 how often cleared or claimed | claimed | 4 marks | 9 ... 0 pages
#define PAGES 0x3ffu // a span that was seen mapped twice stays away from 512
#define MARKS_THAT_STAY (PTRECLAIM_MARK_OFF | PTRECLAIM_MARK_ON | PTRECLAIM_MARK_DONTFORK)
#define MARKS (MARKS_THAT_STAY | PTRECLAIM_MARK_EMPTY)
#define CLAIMED (1u << 14)
#define CLEARED_ONCE (1u << 15)

// A GiB's word: what the words of all its spans are, or where they are.
#define HAS_CHUNK (1u << 31)

struct layout {
    uint32_t gibs[GIB_COUNT];
    uint64_t used[GIB_COUNT / 64]; // bit g: gibs[g] has been other than zero
    uint32_t *blocks[GIB_COUNT / BLOCK_CHUNKS];
    uint32_t chunk_count;
};

static struct layout *the_layout; // keeps its address for ever
static bool claims_ended; // nothing can be claimed any more
static bool stopped;      // and nothing is recorded: nobody waits
static struct ptreclaim_layout_waits waits;

// ---- memory -----------------------------------------------------------------------------------

/// Mapped once, and published; NULL where there is no memory.
static void *map_once(void **place, size_t byte_count) {
    void *found = __atomic_load_n(place, __ATOMIC_ACQUIRE);
    if (found) {
        return found;
    }
    long result = ptreclaim_mmap(
        0, byte_count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (result < 0) {
        return NULL;
    }
    (void)ptreclaim_madvise((uintptr_t)result, byte_count, NO_HUGE_PAGE);
    (void)ptreclaim_madvise((uintptr_t)result, byte_count, DONT_DUMP);
    if (__atomic_compare_exchange_n(
            place, &found, (void *)result, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        return (void *)result;
    }
    ptreclaim_munmap((uintptr_t)result, byte_count); // another thread was first
    return found;
}

static struct layout *layout_now(void) {
    return __atomic_load_n(&stopped, __ATOMIC_RELAXED)
               ? NULL
               : __atomic_load_n(&the_layout, __ATOMIC_ACQUIRE);
}

static uint32_t *chunk_of(struct layout *layout, uint32_t word) {
    const uint32_t index = word & ~HAS_CHUNK;
    uint32_t *block =
        __atomic_load_n(&layout->blocks[index / BLOCK_CHUNKS], __ATOMIC_ACQUIRE);
    return block + (size_t)(index % BLOCK_CHUNKS) * SPANS_PER_GIB;
}

static void note_used(struct layout *layout, size_t gib) {
    const uint64_t bit = 1ull << gib % 64;
    if (!(__atomic_load_n(&layout->used[gib / 64], __ATOMIC_RELAXED) & bit)) {
        __atomic_fetch_or(&layout->used[gib / 64], bit, __ATOMIC_RELEASE);
    }
}

/// The words of the spans of `gib`, given to it if it has none. NULL where there is no memory.
static uint32_t *expand(struct layout *layout, size_t gib) {
    uint32_t word = __atomic_load_n(&layout->gibs[gib], __ATOMIC_ACQUIRE);
    if (word & HAS_CHUNK) {
        return chunk_of(layout, word);
    }
    // Of no more use than this, where another thread is faster; there are as many as GiBs.
    uint32_t index = __atomic_load_n(&layout->chunk_count, __ATOMIC_RELAXED);
    do {
        if (index >= GIB_COUNT
            || !map_once((void **)&layout->blocks[index / BLOCK_CHUNKS], BLOCK_BYTES)) {
            return NULL;
        }
    } while (!__atomic_compare_exchange_n(
        &layout->chunk_count, &index, index + 1, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    uint32_t *chunk = chunk_of(layout, index);
    while (!(word & HAS_CHUNK)) {
        for (size_t i = 0; i < SPANS_PER_GIB; i++) {
            chunk[i] = word;
        }
        if (__atomic_compare_exchange_n(
                &layout->gibs[gib], &word, index | HAS_CHUNK, false, __ATOMIC_ACQ_REL,
                __ATOMIC_ACQUIRE)) {
            note_used(layout, gib);
            return chunk;
        }
    }
    return chunk_of(layout, word);
}

// ---- ranges, GiB by GiB and span by span --------------------------------------------------------

static uintptr_t least(uintptr_t a, uintptr_t b) { return a < b ? a : b; }

static size_t span_in_gib(uintptr_t address) { return address >> SPAN_SHIFT & (SPANS_PER_GIB - 1); }

/// Whether `start ..< end` is all of its GiB.
static bool is_gib(uintptr_t start, uintptr_t end) { return end - start == gib_bytes; }

static void add_to_span(uint32_t *word, uint32_t pages) {
    uint32_t old = __atomic_load_n(word, __ATOMIC_RELAXED), new;
    do {
        const uint32_t sum = (old & PAGES) + pages;
        new = (old & ~PAGES) | (sum < PAGES ? sum : PAGES);
    } while (!__atomic_compare_exchange_n(
        word, &old, new, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
}

/// True where the GiB was untouched until now, and is one word again.
static bool add_whole_gib(struct layout *layout, size_t gib) {
    uint32_t none = 0;
    if (!__atomic_compare_exchange_n(
            &layout->gibs[gib], &none, PAGES_PER_SPAN, false, __ATOMIC_ACQ_REL,
            __ATOMIC_ACQUIRE)) {
        return false;
    }
    note_used(layout, gib);
    return true;
}

void ptreclaim_layout_add(uintptr_t start, uintptr_t end) {
    end = least(end, top);
    if (__atomic_load_n(&stopped, __ATOMIC_RELAXED) || start >= end) {
        return;
    }
    struct layout *layout = map_once((void **)&the_layout, sizeof(*layout));
    while (layout && start < end) {
        const size_t gib = start >> GIB_SHIFT;
        const uintptr_t stop = least(end, (gib + 1) << GIB_SHIFT);
        uint32_t *words = NULL;
        // Without memory to count in, the spans stay uncounted, and so are never claimed.
        if (!(is_gib(start, stop) && add_whole_gib(layout, gib))) {
            words = expand(layout, gib);
        }
        while (words && start < stop) {
            const uintptr_t span_end = least(stop, (start | (span_bytes - 1)) + 1);
            add_to_span(&words[span_in_gib(start)], (uint32_t)((span_end - start) >> 12));
            start = span_end;
        }
        start = stop;
    }
}

// ---- waiting ----------------------------------------------------------------------------------

/// The word that says that spans are claimed: 0 none are, 1 some are, 2 and somebody waits. A forked
/// child finds zero, and what is still claimed in its words belongs to nobody.
static uint32_t *claims_word(void) {
    struct ptreclaim_wiped_on_fork *wiped =
        __atomic_load_n(&ptreclaim_live_state()->wiped_on_fork, __ATOMIC_ACQUIRE);
    return wiped ? &wiped->layout_claims : NULL;
}

/// True where it has waited, and the span should be looked at again.
static bool wait_for_release(void) {
    uint32_t *claims = claims_word();
    uint32_t held = claims ? __atomic_load_n(claims, __ATOMIC_SEQ_CST) : 0;
    if (!held) {
        return false;
    }
    const uint64_t start = ptreclaim_monotonic_nanoseconds();
    if (held == 2
        || __atomic_compare_exchange_n(
            claims, &held, 2, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        ptreclaim_futex_wait(claims, 2, PTRECLAIM_LONGEST_SLEEP_MS);
    }
    const uint64_t waited = ptreclaim_monotonic_nanoseconds() - start;
    __atomic_fetch_add(&waits.count, 1, __ATOMIC_RELAXED);
    uint64_t longest = __atomic_load_n(&waits.longest_ns, __ATOMIC_RELAXED);
    while (waited > longest
           && !__atomic_compare_exchange_n(
               &waits.longest_ns, &longest, waited, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return true;
}

struct ptreclaim_layout_waits ptreclaim_layout_waits(void) {
    struct ptreclaim_layout_waits copy = {
        __atomic_load_n(&waits.count, __ATOMIC_RELAXED),
        __atomic_load_n(&waits.longest_ns, __ATOMIC_RELAXED)};
    return copy;
}

// ---- clearing ---------------------------------------------------------------------------------

static struct ptreclaim_layout_edge clear_span(uint32_t *word) {
    uint32_t old = __atomic_load_n(word, __ATOMIC_ACQUIRE), new;
    do {
        while ((old & CLAIMED) && wait_for_release()) {
            old = __atomic_load_n(word, __ATOMIC_ACQUIRE);
        }
        new = (old + CLEARED_ONCE) & ~(CLEARED_ONCE - 1);
    } while (!__atomic_compare_exchange_n(
        word, &old, new, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
    const uint32_t kept = old & MARKS_THAT_STAY;
    struct ptreclaim_layout_edge edge = {new, kept, (old & PAGES) == PAGES_PER_SPAN};
    return edge;
}

/// True where the GiB is nothing but zeros now.
static bool clear_whole_gib(struct layout *layout, size_t gib) {
    uint32_t word = __atomic_load_n(&layout->gibs[gib], __ATOMIC_ACQUIRE);
    while (!(word & HAS_CHUNK)) {
        // A claim has a chunk, so nobody is waited for.
        if (!word
            || __atomic_compare_exchange_n(
                &layout->gibs[gib], &word, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            return true;
        }
    }
    return false;
}

struct ptreclaim_layout_edges ptreclaim_layout_clear(uintptr_t start, uintptr_t end) {
    struct ptreclaim_layout_edges edges = {{0}, {0}};
    struct layout *layout = layout_now();
    if (!layout) {
        // What was claimed before the stop is still held: of which spans does not matter.
        while (__atomic_load_n(&stopped, __ATOMIC_SEQ_CST) && wait_for_release()) {
        }
        return edges;
    }
    end = least(end, top);
    const uintptr_t first = start;
    while (layout && start < end) {
        const size_t gib = start >> GIB_SHIFT;
        const uintptr_t stop = least(end, (gib + 1) << GIB_SHIFT);
        uint32_t *words = NULL;
        edges.last = (struct ptreclaim_layout_edge){0};
        if (is_gib(start, stop) ? !clear_whole_gib(layout, gib)
                                : __atomic_load_n(&layout->gibs[gib], __ATOMIC_ACQUIRE) != 0) {
            // Without memory to say it of a part, all of the GiB is as if it had never been seen.
            do {
                words = expand(layout, gib);
            } while (!words && !clear_whole_gib(layout, gib));
        }
        while (words && start < stop) {
            const uintptr_t span_end = least(stop, (start | (span_bytes - 1)) + 1);
            struct ptreclaim_layout_edge edge = clear_span(&words[span_in_gib(start)]);
            if (start == first) {
                edges.first = edge;
            }
            edges.last = edge;
            start = span_end;
        }
        start = stop;
    }
    return edges;
}

/// `pages` of a span were replaced.
static void replace_in_span(
    struct layout *layout, uintptr_t address, uint32_t pages, struct ptreclaim_layout_edge edge) {
    uint32_t *words = expand(layout, address >> GIB_SHIFT);
    if (!words) {
        return;
    }
    uint32_t *word = &words[span_in_gib(address)];
    // A pass may have remembered it meanwhile, as it was when the pass came by.
    uint32_t old = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    while (edge.was_whole && (old & ~PTRECLAIM_MARK_EMPTY) == edge.word) {
        if (__atomic_compare_exchange_n(
                word, &old, edge.word | edge.marks | PAGES_PER_SPAN, false, __ATOMIC_ACQ_REL,
                __ATOMIC_ACQUIRE)) {
            return;
        }
    }
    add_to_span(word, pages);
}

void ptreclaim_layout_replace(uintptr_t start, uintptr_t end, struct ptreclaim_layout_edges edges) {
    end = least(end, top);
    struct layout *layout = layout_now();
    if (start >= end || !layout) {
        ptreclaim_layout_add(start, end);
        return;
    }
    const uintptr_t first_end = least(end, (start | (span_bytes - 1)) + 1);
    if (first_end - start < span_bytes) {
        replace_in_span(layout, start, (uint32_t)((first_end - start) >> 12), edges.first);
        start = first_end;
    }
    const uintptr_t last_start = end & ~(span_bytes - 1);
    if (start < end && last_start < end) {
        replace_in_span(layout, last_start, (uint32_t)((end - last_start) >> 12), edges.last);
        end = last_start;
    }
    ptreclaim_layout_add(start, end);
}

// ---- marks ------------------------------------------------------------------------------------

static void mark_span(uint32_t *word, uint32_t set, uint32_t clear) {
    uint32_t old = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (((old & ~clear) | set) != old
           && !__atomic_compare_exchange_n(
        word, &old, (old & ~clear) | set, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
    }
}

static bool mark_whole_gib(struct layout *layout, size_t gib, uint32_t set, uint32_t clear) {
    uint32_t word = __atomic_load_n(&layout->gibs[gib], __ATOMIC_ACQUIRE);
    while (!(word & HAS_CHUNK)) {
        if (__atomic_compare_exchange_n(
                &layout->gibs[gib], &word, (word & ~clear) | set, false, __ATOMIC_ACQ_REL,
                __ATOMIC_ACQUIRE)) {
            note_used(layout, gib);
            return true;
        }
    }
    return false;
}

bool ptreclaim_layout_mark(uintptr_t start, uintptr_t end, uint32_t set, uint32_t clear) {
    end = least(end, top);
    if (__atomic_load_n(&stopped, __ATOMIC_RELAXED)) {
        return false;
    }
    struct layout *layout = map_once((void **)&the_layout, sizeof(*layout));
    bool is_complete = layout != NULL;
    while (layout && start < end) {
        const size_t gib = start >> GIB_SHIFT;
        const uintptr_t stop = least(end, (gib + 1) << GIB_SHIFT);
        if (!(is_gib(start, stop) && mark_whole_gib(layout, gib, set, clear))) {
            uint32_t *words = expand(layout, gib);
            is_complete = is_complete && words;
            for (; words && start < stop; start += span_bytes) {
                mark_span(&words[span_in_gib(start)], set, clear);
            }
        }
        start = stop;
    }
    return is_complete;
}

// ---- finding and claiming ---------------------------------------------------------------------

/// The words of a GiB: `*uniform` where they are alike, and NULL.
static uint32_t *words_of(struct layout *layout, size_t gib, uint32_t *uniform) {
    const uint32_t word = __atomic_load_n(&layout->gibs[gib], __ATOMIC_ACQUIRE);
    *uniform = word;
    return word & HAS_CHUNK ? chunk_of(layout, word) : NULL;
}

/// The lowest GiB from `gib` on that may have a word other than zero.
static size_t next_used(struct layout *layout, size_t gib) {
    for (size_t group = gib / 64; group < GIB_COUNT / 64; group++) {
        uint64_t bits = __atomic_load_n(&layout->used[group], __ATOMIC_ACQUIRE);
        if (group == gib / 64) {
            bits &= ~0ull << gib % 64;
        }
        if (bits) {
            return group * 64 + (size_t)__builtin_ctzll(bits);
        }
    }
    return GIB_COUNT;
}

/// Where the lowest span from `start` on is whose word, of the bits in `mask`, is `wanted`, or is not;
/// `end` if there is none. `wanted` is not zero.
static uintptr_t seek(
    struct layout *layout, uintptr_t start, uintptr_t end, uint32_t mask, uint32_t wanted,
    bool matches) {
    while (start < end) {
        const size_t gib = start >> GIB_SHIFT;
        if (matches) {
            const size_t used = next_used(layout, gib);
            if (used != gib) {
                start = (uintptr_t)used << GIB_SHIFT;
                continue;
            }
        }
        const uintptr_t stop = least(end, (gib + 1) << GIB_SHIFT);
        uint32_t uniform;
        const uint32_t *words = words_of(layout, gib, &uniform);
        for (; start < stop; start += span_bytes) {
            const uint32_t word =
                words ? __atomic_load_n(&words[span_in_gib(start)], __ATOMIC_ACQUIRE) : uniform;
            if (((word & mask) == wanted) == matches) {
                return start;
            }
            if (!words) {
                start = stop;
                break;
            }
        }
    }
    return end;
}

bool ptreclaim_layout_find(
    uintptr_t start, uintptr_t end, uint32_t mask, uint32_t wanted, uintptr_t *first,
    uintptr_t *last) {
    struct layout *layout = layout_now();
    end = least(end, top);
    if (!layout || start >= end) {
        return false;
    }
    mask |= PAGES;
    wanted |= PAGES_PER_SPAN;
    *first = seek(layout, start, end, mask, wanted, true);
    *last = seek(layout, *first, end, mask, wanted, false);
    return *first < *last;
}

uintptr_t ptreclaim_layout_off(uintptr_t start, uintptr_t end, bool *is_off) {
    struct layout *layout = layout_now();
    *is_off = layout && start < top && (ptreclaim_layout_word(start) & PTRECLAIM_MARK_OFF);
    return !layout || start >= top
               ? end
               : seek(
                     layout, start & ~(span_bytes - 1), end, PTRECLAIM_MARK_OFF, PTRECLAIM_MARK_OFF,
                     !*is_off);
}

static bool claim_span(struct layout *layout, uintptr_t span, uint32_t mask, uint32_t wanted) {
    uint32_t *words = expand(layout, span >> GIB_SHIFT);
    if (!words) {
        return false;
    }
    uint32_t *word = &words[span_in_gib(span)];
    uint32_t old = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    // Claimed already it is only in a child, by its parent. Counted as if it were cleared: who has seen
    // an earlier claim end, and no claims, must not take this one for that one.
    while ((old & (PAGES | mask)) == (PAGES_PER_SPAN | wanted)) {
        if (__atomic_compare_exchange_n(
                word, &old, (old | CLAIMED) + CLEARED_ONCE, false, __ATOMIC_ACQ_REL,
                __ATOMIC_ACQUIRE)) {
            return true;
        }
    }
    return false;
}

bool ptreclaim_layout_claim(
    uintptr_t start, uintptr_t end, uint32_t mask, uint32_t wanted, uintptr_t *first,
    uintptr_t *last) {
    struct layout *layout = layout_now();
    uint32_t *claims = claims_word();
    if (!layout || !claims || !ptreclaim_layout_find(start, end, mask, wanted, first, last)) {
        return false;
    }
    // Before any word says so: who meets a claimed word without this takes it for a dead parent's.
    __atomic_store_n(claims, 1, __ATOMIC_SEQ_CST);
    uintptr_t claimed = *first;
    while (!__atomic_load_n(&claims_ended, __ATOMIC_SEQ_CST) && claimed < *last
           && claim_span(layout, claimed, mask, wanted)) {
        claimed += span_bytes;
    }
    *last = claimed;
    if (*first == *last) {
        ptreclaim_layout_release(*first, *last);
        return false;
    }
    return true;
}

void ptreclaim_layout_release(uintptr_t first, uintptr_t last) {
    struct layout *layout = __atomic_load_n(&the_layout, __ATOMIC_ACQUIRE);
    for (uintptr_t span = first; layout && span < last; span += span_bytes) {
        uint32_t uniform;
        uint32_t *words = words_of(layout, span >> GIB_SHIFT, &uniform);
        if (words) { // what is claimed has words
            __atomic_fetch_and(&words[span_in_gib(span)], ~CLAIMED, __ATOMIC_ACQ_REL);
        }
    }
    uint32_t *claims = claims_word();
    if (claims && __atomic_exchange_n(claims, 0, __ATOMIC_SEQ_CST) == 2) {
        ptreclaim_futex_wake(claims, INT32_MAX);
    }
}

uint32_t ptreclaim_layout_word(uintptr_t address) {
    struct layout *layout = layout_now();
    if (!layout || address >= top) {
        return 0;
    }
    uint32_t uniform;
    const uint32_t *words = words_of(layout, address >> GIB_SHIFT, &uniform);
    const uint32_t word =
        words ? __atomic_load_n(&words[span_in_gib(address)], __ATOMIC_ACQUIRE) : uniform;
    return word & (PAGES | MARKS);
}

void ptreclaim_layout_settle(void) {
    while (wait_for_release()) {
    }
}

void ptreclaim_layout_stop(void) {
    __atomic_store_n(&claims_ended, true, __ATOMIC_SEQ_CST);
    ptreclaim_layout_settle();
    // Only now: who unmaps meanwhile has to wait for the last claim.
    __atomic_store_n(&stopped, true, __ATOMIC_SEQ_CST);
}
