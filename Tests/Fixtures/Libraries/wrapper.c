// SPDX-License-Identifier: Apache-2.0
//
// A library that wants to see calls, as profilers do: it looks up the next function on each first call,
// and has a lock of its own around all of it.

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static unsigned long mapped, unmapped, advised;

static void *next(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) {
        abort();
    }
    return found;
}

void *mmap(void *address, size_t count, int protection, int flags, int fd, off_t offset) {
    static void *(*real)(void *, size_t, int, int, int, off_t);
    pthread_mutex_lock(&lock);
    if (!real) {
        void *symbol = next("mmap");
        memcpy(&real, &symbol, sizeof(symbol));
    }
    mapped++;
    void *result = real(address, count, protection, flags, fd, offset);
    pthread_mutex_unlock(&lock);
    return result;
}

int munmap(void *address, size_t count) {
    static int (*real)(void *, size_t);
    pthread_mutex_lock(&lock);
    if (!real) {
        void *symbol = next("munmap");
        memcpy(&real, &symbol, sizeof(symbol));
    }
    unmapped++;
    const int result = real(address, count);
    pthread_mutex_unlock(&lock);
    return result;
}

int madvise(void *address, size_t count, int advice) {
    static int (*real)(void *, size_t, int);
    pthread_mutex_lock(&lock);
    if (!real) {
        void *symbol = next("madvise");
        memcpy(&real, &symbol, sizeof(symbol));
    }
    advised++;
    const int result = real(address, count, advice);
    pthread_mutex_unlock(&lock);
    return result;
}

__attribute__((destructor)) static void tell(void) {
    printf("seen mmap: %lu\nseen munmap: %lu\nseen madvise: %lu\n", mapped, unmapped, advised);
}
