// SPDX-License-Identifier: Apache-2.0
//
// The thread that looks at tables and frees them, in the modes that need one, and what other threads
// tell it. Only this thread opens fences.

#ifndef PTRECLAIM_RECLAIMER_H
#define PTRECLAIM_RECLAIMER_H

#include "options.h"

#include <stdbool.h>
#include <stdint.h>

/// Lets the thread be started where it is first needed. Constructor only.
void ptreclaim_reclaimer_enable(const struct ptreclaim_options *options, bool follows_purges);

/// Whether there is, or may be, such a thread in this process.
bool ptreclaim_reclaimer_is_enabled(void);

/// Frees the empty tables of `start ..< end`, span-aligned, on that thread, and waits for it. Returns
/// 0 or an errno. Only where a thread of the application may allocate.
int ptreclaim_reclaimer_now(uintptr_t start, uintptr_t end);

/// Starts it, if this process needs it and has none. Not in a hook of an allocator, nor in a signal
/// handler: glibc allocates for a new thread. One load where there is nothing to do.
void ptreclaim_reclaimer_start_if_needed(void);

/// Something was mapped: there may be something to do. Anywhere.
void ptreclaim_reclaimer_needed(void);

/// `start ..< end` was given back by `advice`, and nothing failed. Anywhere.
void ptreclaim_reclaimer_purged(uintptr_t start, uintptr_t end, int advice);

/// `start ..< end`, span-aligned, is served from now on: in madvise mode, what was purged before.
void ptreclaim_reclaimer_look_at(uintptr_t start, uintptr_t end);
/// Ends the thread, and waits until the kernel knows nothing of it: for calls that a process with
/// threads may not make. It starts again where it is needed next. Not where locks of an allocator
/// are held.
void ptreclaim_reclaimer_step_aside(void);

/// Ends it for good. `refusal` is the counter that says why.
void ptreclaim_reclaimer_end(uint64_t *refusal);

/// The application makes a userfaultfd of its own: no more fences in this process. Waits for one that
/// is up. Anywhere.
void ptreclaim_reclaimer_give_way(void);

/// Whether it has given way already, in a constructor that ran before ours.
bool ptreclaim_reclaimer_has_given_way(void);

#endif
