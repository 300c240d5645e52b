// SPDX-License-Identifier: Apache-2.0
//
// The layout rule: who frees tables behind a fence must know that nobody unmaps, moves or replaces
// the memory meanwhile. A fence holds contents, not mappings.
//
// A word for each 2 MiB span counts the pages of it that were mapped by calls we saw. Who maps adds
// after the call; who unmaps, moves or replaces clears before it, and waits while the span is claimed.
// Only a span whose 512 pages were all seen can be claimed:
//
//     seen: mmap      |  512  |  512  | 100 |            claims: the first two
//     seen: munmap    |  512  |   0   | 100 |            (a part of the second) the first
//     never seen      |       |       |     |            glibc's own mappings: never
//
// It is about bytes, not about VMAs: what glibc maps for itself may merge with what a program maps.
// Cleared, never subtracted: unmapping what was seen in part, or holes, is legal.
//
// A word for a GiB stands for all of its spans while these are alike, so a reserve of terabytes costs
// 4 bytes for each GiB. Nothing here allocates, takes a lock or touches errno; it works before any
// constructor has run, and in a forked child. Addresses and lengths are page-aligned; what lies at or
// above 2^47 is ignored.

#ifndef PTRECLAIM_LAYOUT_H
#define PTRECLAIM_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

/// Marks of a span. A span keeps them until one of its pages is unmapped or replaced.
enum ptreclaim_mark {
    PTRECLAIM_MARK_OFF = 1u << 10,   // never to be looked at
    PTRECLAIM_MARK_ON = 1u << 11,    // to be served where only marked memory is
    PTRECLAIM_MARK_EMPTY = 1u << 12, // seen empty by the pass before
    // Not copied by fork (MADV_DONTFORK): in a child the words say what its parent had mapped, and there
    // is a hole, which libc may fill unseen.
    PTRECLAIM_MARK_DONTFORK = 1u << 13,
};

/// `start ..< end` has been mapped by a call that succeeded.
void ptreclaim_layout_add(uintptr_t start, uintptr_t end);

/// A span that a call replaces only in part, as it was: when the call has succeeded, and nobody has
/// cleared the span meanwhile, it is wholly mapped again.
struct ptreclaim_layout_edge {
    uint32_t word;  // after it was cleared
    uint32_t marks; // before
    bool was_whole;
};

/// What a call replaces: its first span and its last.
struct ptreclaim_layout_edges {
    struct ptreclaim_layout_edge first, last;
};

/// `start ..< end` is about to be unmapped, moved or replaced, or to grow. Waits while any of it is claimed:
/// for some system calls of the service thread.
struct ptreclaim_layout_edges ptreclaim_layout_clear(uintptr_t start, uintptr_t end);

/// `start ..< end`, cleared before, has been mapped again in the same place.
void ptreclaim_layout_replace(uintptr_t start, uintptr_t end, struct ptreclaim_layout_edges edges);

/// Sets and clears marks of the spans in `start ..< end`, both span-aligned. False where there was
/// no memory to remember it.
bool ptreclaim_layout_mark(uintptr_t start, uintptr_t end, uint32_t set, uint32_t clear);

/// Finds the lowest run of spans in `start ..< end`, both span-aligned, whose pages were all seen and
/// whose marks, of those in `mask`, are `wanted`. Returns false where there is none.
bool ptreclaim_layout_find(
    uintptr_t start, uintptr_t end, uint32_t mask, uint32_t wanted, uintptr_t *first,
    uintptr_t *last);

/// Claims the lowest run of spans in `start ..< end` that may be claimed: their mappings stay as they
/// are until `ptreclaim_layout_release`. The service thread only. Returns false where there is none.
bool ptreclaim_layout_claim(
    uintptr_t start, uintptr_t end, uint32_t mask, uint32_t wanted, uintptr_t *first,
    uintptr_t *last);

/// Whatever of `first ..< last` is claimed is so no more.
void ptreclaim_layout_release(uintptr_t first, uintptr_t last);

/// Whether the span at `start` is marked OFF, and up to where the spans are like it, at most `end`.
uintptr_t ptreclaim_layout_off(uintptr_t start, uintptr_t end, bool *is_off);

/// Waits until nothing is claimed that was claimed before this call.
void ptreclaim_layout_settle(void);

/// Pages of the span at `address` that were seen, and its marks. For tests and reports.
uint32_t ptreclaim_layout_word(uintptr_t address);

/// From now on no call is recorded, and nothing can be claimed. Waits while something is.
void ptreclaim_layout_stop(void);

/// How often a thread waited in `ptreclaim_layout_clear`, and the longest wait.
struct ptreclaim_layout_waits {
    uint64_t count;
    uint64_t longest_ns;
};
struct ptreclaim_layout_waits ptreclaim_layout_waits(void);

#pragma clang assume_nonnull end

#endif
