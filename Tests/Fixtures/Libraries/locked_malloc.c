// SPDX-License-Identifier: Apache-2.0
//
// An allocator with one lock that is not recursive, held while it maps and gives memory back. Whoever
// allocates in mmap or madvise waits for itself.

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

enum { CLASS_COUNT = 32, HEADER = 16, REGION = 8 << 20 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *free_blocks[CLASS_COUNT];
static char *next_byte, *region_end;

static unsigned class_of(size_t count) {
    unsigned class = 5;
    while (((size_t)1 << class) < count + HEADER) {
        class++;
    }
    return class;
}

void *malloc(size_t count) {
    const unsigned class = class_of(count);
    const size_t bytes = (size_t)1 << class;
    if (class >= CLASS_COUNT) {
        errno = ENOMEM;
        return NULL;
    }
    pthread_mutex_lock(&lock);
    char *block = free_blocks[class];
    if (block) {
        memcpy(&free_blocks[class], block + HEADER, sizeof(void *));
    } else {
        if ((size_t)(region_end - next_byte) < bytes) {
            const size_t region = bytes > REGION ? bytes : REGION;
            next_byte =
                mmap(NULL, region, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            region_end = next_byte + region;
        }
        block = next_byte;
        next_byte += bytes;
    }
    *(uint64_t *)block = class;
    pthread_mutex_unlock(&lock);
    return block + HEADER;
}

void free(void *pointer) {
    if (!pointer) {
        return;
    }
    char *block = (char *)pointer - HEADER;
    const unsigned class = (unsigned)*(uint64_t *)block;
    pthread_mutex_lock(&lock);
    memcpy(pointer, &free_blocks[class], sizeof(void *));
    free_blocks[class] = block;
    if (class >= 14) { // all of its pages but those at both ends
        char *first = (char *)(((uintptr_t)pointer + 8 + 4095) & ~(uintptr_t)4095);
        madvise(first, ((size_t)1 << class) - 8192, MADV_DONTNEED);
    }
    pthread_mutex_unlock(&lock);
}

void *calloc(size_t count, size_t bytes) {
    void *block = malloc(count * bytes);
    return block ? memset(block, 0, count * bytes) : NULL;
}

void *realloc(void *old, size_t count) {
    void *block = malloc(count);
    if (old && block) {
        const size_t had = ((size_t)1 << *(uint64_t *)((char *)old - HEADER)) - HEADER;
        memcpy(block, old, had < count ? had : count);
        free(old);
    }
    return block;
}
