// SPDX-License-Identifier: Apache-2.0
//
// A table of blocks of malloc, calloc, realloc and aligned_alloc whose contents are checked. Any
// thread works on any block, so blocks wander between threads.

#ifndef TORTURE_BLOCKS_H
#define TORTURE_BLOCKS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

extern atomic_ulong operation_count;

/// From here on blocks are freed, not allocated. Default: no limit but the size of the table.
extern size_t live_byte_limit;

/// Allocates, reallocates or frees a block at random, unless another thread is busy with it.
void work_on_a_block(uint64_t *state);

/// Frees a run of neighbours in the table, so that whole spans become empty now and then.
void sweep_blocks(uint64_t *state);

/// Checks every block that nobody is busy with.
void check_blocks(void);

/// Checks and frees all. Precondition: no other thread works on them any more.
void free_blocks(void);

#endif
