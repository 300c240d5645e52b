// SPDX-License-Identifier: Apache-2.0

#ifndef PTRECLAIM_EXTENT_HOOKS_H
#define PTRECLAIM_EXTENT_HOOKS_H

#include "stats.h"

#include "jemalloc.h"

#include <stdbool.h>

/// What jemalloc calls. Every hook tells the core what happened, or passes on.
extern extent_hooks_t ptreclaim_hooks;

/// True while the calling thread is inside one of the hooks.
bool ptreclaim_inside_hook(void);

/// Samples VmPTE every now and then from inside the hooks, for the report at exit.
void ptreclaim_hooks_sample_peak(void);
uint64_t ptreclaim_hooks_peak(void);

#endif
