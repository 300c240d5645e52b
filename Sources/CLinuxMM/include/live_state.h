// SPDX-License-Identifier: Apache-2.0
//
// All state that `LiveSpace` keeps in a process. It holds facts about this process's mappings,
// never about what an allocator does with them.

#ifndef PTRECLAIM_LIVE_STATE_H
#define PTRECLAIM_LIVE_STATE_H

#include <stdbool.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

enum {
    PTRECLAIM_RESERVE_SLOTS = 4096, // a power of two
    PTRECLAIM_SCRATCH_SLOTS = 64,   // bits of one claim word
};

/// Memory that fork hands to the child as zeros (MADV_WIPEONFORK): what it says of threads and
/// descriptors is true of this process only. Zero is "not in this process" everywhere.
struct ptreclaim_wiped_on_fork {
    uint64_t owner_pid;      // 0: this process has not looked yet
    uint64_t scratch_claims; // bit i: a thread of this process is using scratch span i
    uint64_t is_traced;      // 1: the trace file is of this process
    uint32_t fork_gate;      // see fence.c
    uint32_t layout_claims;  // see layout.c
    uint32_t service_lock;   // the four words of service.c
    uint32_t service_thread;
    uint32_t service_request;
    uint32_t service_answer;
    uint32_t reclaimer; // the eight words of the preload library's reclaimer.c
    uint32_t must_leave;
    uint32_t thread_id, watch_thread_id; // 0: there is none yet
    uint32_t is_needed;
    uint32_t thread_count; // the two words of the preload library's single.c
    uint32_t first_thread_has_left;
    uint32_t has_candidates;
    uint32_t has_lost_candidates;
    uint32_t now;
};

struct ptreclaim_live_state {
    uint32_t backend; // a `Backend` of ReclaimCore; 0: not probed, or nothing frees tables
    bool has_procmap_query;
    uintptr_t scratch; // first of PTRECLAIM_SCRATCH_SLOTS spans, PROT_NONE; never unmapped
    struct ptreclaim_wiped_on_fork *_Nullable wiped_on_fork;
    /// Ends of mappings after which an unused reserve reaches up to the next span boundary: an
    /// open-addressed set, changed with compare-and-swap. Pages stay untouched until used.
    uint64_t reserves[PTRECLAIM_RESERVE_SLOTS];
};

/// The one instance of this process.
struct ptreclaim_live_state *ptreclaim_live_state(void);

/// Whether the reclaimer's thread is to end its pass, and itself.
static inline bool ptreclaim_must_leave(void) {
    struct ptreclaim_wiped_on_fork *wiped = ptreclaim_live_state()->wiped_on_fork;
    return wiped && __atomic_load_n(&wiped->must_leave, __ATOMIC_ACQUIRE);
}

/// Maps `wiped_on_fork` once: one page. Returns 0 or -errno.
int ptreclaim_map_wiped_on_fork(struct ptreclaim_live_state *state);

/// Sets `scratch` once; false where another thread was first.
static inline bool ptreclaim_publish_scratch(struct ptreclaim_live_state *state, uintptr_t start) {
    uintptr_t none = 0;
    return __atomic_compare_exchange_n(
        &state->scratch, &none, start, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline uint64_t *ptreclaim_scratch_claims(struct ptreclaim_wiped_on_fork *wiped) {
    return &wiped->scratch_claims;
}

static inline uint64_t *
ptreclaim_reserve_slot(struct ptreclaim_live_state *state, uint64_t index) {
    return &state->reserves[index];
}

#pragma clang assume_nonnull end

#endif
