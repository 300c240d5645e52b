// SPDX-License-Identifier: Apache-2.0
//
// jemalloc behind a prefix, as applications embed it: PREFIX##malloc and so on are the only names
// that come out, and malloc stays libc's. Linked with all of libjemalloc_pic.a.

#include <jemalloc/jemalloc.h>

#define JOIN_(prefix, name) prefix##name
#define JOIN(prefix, name) JOIN_(prefix, name)
#define NAMED(name) __attribute__((visibility("default"))) JOIN(PREFIX, name)

void *NAMED(malloc)(size_t byte_count) { return malloc(byte_count); }

void NAMED(free)(void *start) { free(start); }

int NAMED(mallctl)(const char *name, void *old, size_t *old_count, void *new, size_t new_count) {
    return mallctl(name, old, old_count, new, new_count);
}

int NAMED(mallctlnametomib)(const char *name, size_t *mib, size_t *count) {
    return mallctlnametomib(name, mib, count);
}

int NAMED(mallctlbymib)(
    const size_t *mib, size_t count, void *old, size_t *old_count, void *new, size_t new_count) {
    return mallctlbymib(mib, count, old, old_count, new, new_count);
}
