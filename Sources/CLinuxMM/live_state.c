// SPDX-License-Identifier: Apache-2.0

#include "live_state.h"

#include "linux_mm.h"

static struct ptreclaim_live_state live;

struct ptreclaim_live_state *ptreclaim_live_state(void) { return &live; }

int ptreclaim_map_wiped_on_fork(struct ptreclaim_live_state *state) {
    if (__atomic_load_n(&state->wiped_on_fork, __ATOMIC_ACQUIRE)) {
        return 0;
    }
    long page = ptreclaim_mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page < 0) {
        return (int)page;
    }
    long result = ptreclaim_madvise((uintptr_t)page, 4096, PTRECLAIM_MADV_WIPEONFORK);
    if (result < 0) {
        ptreclaim_munmap((uintptr_t)page, 4096);
        return (int)result;
    }
    // Two threads may be here at once; one page is kept, or claims in the other would be lost.
    struct ptreclaim_wiped_on_fork *none = 0;
    if (!__atomic_compare_exchange_n(
            &state->wiped_on_fork, &none, (struct ptreclaim_wiped_on_fork *)page, false,
            __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        ptreclaim_munmap((uintptr_t)page, 4096);
    }
    return 0;
}
