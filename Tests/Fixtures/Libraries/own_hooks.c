// SPDX-License-Identifier: Apache-2.0
//
// A library whose constructor puts extent hooks of the application's own on arena 0. Preloaded
// behind another library, it is initialised before that one.

#include <jemalloc/jemalloc.h>

static extent_hooks_t *original, ours;

static bool
own_split(extent_hooks_t *hooks, void *address, size_t byte_count, size_t first, size_t second,
          bool committed, unsigned arena) {
    (void)hooks;
    return original->split(original, address, byte_count, first, second, committed, arena);
}

__attribute__((constructor)) static void set(void) {
    size_t byte_count = sizeof(original);
    if (mallctl("arena.0.extent_hooks", &original, &byte_count, NULL, 0) == 0) {
        ours = *original;
        ours.split = own_split;
        extent_hooks_t *pointer = &ours;
        (void)mallctl("arena.0.extent_hooks", NULL, NULL, &pointer, sizeof(pointer));
    }
}
