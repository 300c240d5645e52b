// SPDX-License-Identifier: Apache-2.0

#ifndef PTRECLAIM_INTERPOSE_H
#define PTRECLAIM_INTERPOSE_H

#include <stdbool.h>

/// Whether jemalloc's extent hooks are in place.
bool ptreclaim_hooks_active(void);

/// Whether `address` lies in this library.
bool ptreclaim_is_ours(const void *address);

#endif
