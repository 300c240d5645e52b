// SPDX-License-Identifier: Apache-2.0
//
// Finding jemalloc in the process, and putting the hooks on its arenas.

#ifndef PTRECLAIM_JEMALLOC_H
#define PTRECLAIM_JEMALLOC_H

#include <jemalloc/jemalloc.h>
#include <stdbool.h>
#include <stdint.h>

enum ptreclaim_refusal {
    PTRECLAIM_ACCEPTED = -1,
#define X(field, text) PTRECLAIM_REFUSED_##field,
    PTRECLAIM_REFUSALS(X)
#undef X
};

/// Finds the jemalloc that malloc resolves to. Constructor only: it uses dlsym.
/// `mallctl_name`: PTRECLAIM_MALLCTL or NULL. Returns PTRECLAIM_ACCEPTED, or why not.
enum ptreclaim_refusal ptreclaim_jemalloc_find(const char *mallctl_name);

/// Whether this jemalloc and this kernel allow memory without an owner to be told.
enum ptreclaim_refusal ptreclaim_jemalloc_check(void);

/// Puts `hooks` on arena 0; the others get them as they appear. Constructor only.
enum ptreclaim_refusal ptreclaim_jemalloc_install(extent_hooks_t *hooks);

/// The hooks that jemalloc came with. Valid once `ptreclaim_jemalloc_install` has begun.
extern extent_hooks_t *ptreclaim_default_hooks;

/// Whether `address` lies in jemalloc's own code.
bool ptreclaim_jemalloc_contains(const void *address);

/// Binds the calling thread to its arena and puts the hooks there. Never inside jemalloc.
void ptreclaim_jemalloc_thread_started(void);

/// Something was mapped by jemalloc outside of our hooks: an arena may have appeared.
void ptreclaim_jemalloc_expect_arenas(void);

/// Puts the hooks on arenas that have appeared meanwhile; one load if none was expected.
/// Never inside jemalloc, never in a signal handler.
void ptreclaim_jemalloc_hook_expected_arenas(void);

/// jemalloc's version, for the line of PTRECLAIM_VERBOSE.
const char *ptreclaim_jemalloc_version(void);

#endif
