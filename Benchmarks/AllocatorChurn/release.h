// SPDX-License-Identifier: Apache-2.0
//
// The allocator behind malloc, and its own way to give free memory back. Found by name in the
// running process: the programs that use this link no allocator but libc's.

#ifndef ALLOCATOR_CHURN_RELEASE_H
#define ALLOCATOR_CHURN_RELEASE_H

#include <stdbool.h>

/// "tcmalloc", "mimalloc", "jemalloc" or "glibc".
const char *allocator_name(void);

/// Asks the allocator to give back all it can: what it caches for the calling thread, and what is
/// free for all. mimalloc keeps free memory for each thread, so each has to ask.
/// Not for a forked child of mimalloc, whose other heaps may be in the middle of something.
void release_free_memory(void);

#endif
