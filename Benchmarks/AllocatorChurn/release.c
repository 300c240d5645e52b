// SPDX-License-Identifier: Apache-2.0

#include "release.h"

#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>

static struct {
    void (*mark_thread_idle)(void); // MallocExtension_MarkThreadIdle
    void (*tcmalloc_release)(void); // MallocExtension_ReleaseFreeMemory
    void (*mimalloc_collect)(bool); // mi_collect
    int (*jemalloc_control)(const char *, void *, size_t *, void *, size_t); // mallctl
} found;

static pthread_once_t once = PTHREAD_ONCE_INIT;

/// POSIX lets a `void *` of dlsym be a function; C17 knows no such conversion.
static void find(const char *name, void *function) {
    *(void **)function = dlsym(RTLD_DEFAULT, name);
}

static void find_all(void) {
    find("MallocExtension_MarkThreadIdle", &found.mark_thread_idle);
    find("MallocExtension_ReleaseFreeMemory", &found.tcmalloc_release);
    find("mi_collect", &found.mimalloc_collect);
    find("mallctl", &found.jemalloc_control);
}

const char *allocator_name(void) {
    pthread_once(&once, find_all);
    return found.tcmalloc_release ? "tcmalloc"
        : found.mimalloc_collect  ? "mimalloc"
        : found.jemalloc_control  ? "jemalloc"
                                  : "glibc";
}

void release_free_memory(void) {
    pthread_once(&once, find_all);
    if (found.tcmalloc_release) {
        if (found.mark_thread_idle) {
            found.mark_thread_idle();
        }
        found.tcmalloc_release();
    } else if (found.mimalloc_collect) {
        found.mimalloc_collect(true);
    } else if (found.jemalloc_control) {
        found.jemalloc_control("thread.tcache.flush", NULL, NULL, NULL, 0);
        found.jemalloc_control("arena.4096.purge", NULL, NULL, NULL, 0); // MALLCTL_ARENAS_ALL
    } else {
        malloc_trim(0);
    }
}
