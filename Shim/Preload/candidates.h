// SPDX-License-Identifier: Apache-2.0
//
// Spans that a purge may have left with an empty table: hints, put down by any thread, picked up by
// the service thread. A hint that is lost costs a table, never a byte.

#ifndef PTRECLAIM_CANDIDATES_H
#define PTRECLAIM_CANDIDATES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// Spans first ..< first + count, as addresses / 2 MiB.
struct ptreclaim_candidates {
    uint64_t first, count;
};

/// Puts down. Returns a ticket, or 0 where there was no room, or the run is all of user space. Anywhere; no lock, no allocation.
uint64_t ptreclaim_candidates_add(uint64_t first, uint64_t count);

/// Whether what was put down with that ticket still waits to be taken, and so will be looked at later
/// than now.
bool ptreclaim_candidates_waits(uint64_t ticket);

/// Takes all that has been put down, sorted and joined. Returns how many runs: at most `capacity`. Sets
/// `*has_missed` where one has been lost, or there were more. The service thread only.
size_t ptreclaim_candidates_take(
    struct ptreclaim_candidates *runs, size_t capacity, bool *has_missed);

#endif
