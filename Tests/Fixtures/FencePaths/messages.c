// SPDX-License-Identifier: Apache-2.0
//
// What a userfaultfd tells of the threads that wait, what that costs, and what is left of a message
// that nobody reads.

#include "paths.h"

#include "linux_mm.h"

#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST_THREADS = 32, MESSAGE_BYTES = 32 };

static char *span;
static bool same_page;

static void *touch(void *index) {
    size_t page = same_page ? 0 : (size_t)(uintptr_t)index;
    *(volatile char *)(span + page * PAGE_BYTES) = 1;
    return NULL;
}

static void call(int fd, unsigned long request) {
    struct ptreclaim_uffd_register registration = {
        .range = {(uintptr_t)span, SPAN_BYTES}, .mode = PTRECLAIM_UFFD_REGISTER_MISSING};
    long error = ptreclaim_ioctl(fd, request, &registration);
    if (error < 0) {
        errno = (int)-error;
        give_up("userfaultfd");
    }
}

static bool is_readable(int fd) {
    struct pollfd one = {.fd = fd, .events = POLLIN};
    return poll(&one, 1, 0) > 0 && (one.revents & POLLIN);
}

static void play(int fd, unsigned thread_count, bool reads) {
    pthread_t threads[MOST_THREADS];
    char messages[MOST_THREADS * MESSAGE_BYTES];
    madvise(span, SPAN_BYTES, MADV_DONTNEED);
    call(fd, PTRECLAIM_UFFDIO_REGISTER);
    for (unsigned index = 0; index < thread_count; ++index) {
        pthread_create(&threads[index], NULL, touch, (void *)(uintptr_t)index);
    }
    usleep(20000);
    bool before = is_readable(fd);
    long count = 0;
    uint64_t nanoseconds = 0;
    if (reads) {
        uint64_t start = ptreclaim_monotonic_nanoseconds();
        ssize_t got = read(fd, messages, sizeof(messages));
        nanoseconds = ptreclaim_monotonic_nanoseconds() - start;
        count = got > 0 ? got / MESSAGE_BYTES : 0;
    }
    bool between = is_readable(fd);
    call(fd, PTRECLAIM_UFFDIO_UNREGISTER);
    call(fd, PTRECLAIM_UFFDIO_WAKE);
    for (unsigned index = 0; index < thread_count; ++index) {
        pthread_join(threads[index], NULL);
    }
    ssize_t left = read(fd, messages, sizeof(messages));
    printf(
        "%2u threads, %s: readable %d; %s %ld messages in %llu ns, then readable %d; after "
        "UNREGISTER and WAKE readable %d, read %s\n",
        thread_count, same_page ? "one page" : "a page each", before, reads ? "read" : "unread,",
        count, (unsigned long long)nanoseconds, between, is_readable(fd),
        left < 0 ? strerrorname_np(errno) : "a message");
}

void print_messages(void) {
    char *memory = mmap(
        NULL, 2 * SPAN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    span = (char *)(((uintptr_t)memory + SPAN_BYTES - 1) & ~(uintptr_t)(SPAN_BYTES - 1));
    madvise(span, SPAN_BYTES, MADV_NOHUGEPAGE);
    int fd = ptreclaim_open_userfaultfd();
    const unsigned counts[] = {0, 1, 2, 8, 32};
    for (size_t index = 0; index < sizeof(counts) / sizeof(counts[0]); ++index) {
        for (int variant = 0; variant < 4; ++variant) {
            same_page = variant & 1;
            play(fd, counts[index], variant < 2);
        }
    }
    char message[MESSAGE_BYTES];
    enum { TIMES = 100000 };
    uint64_t start = ptreclaim_monotonic_nanoseconds();
    for (int time = 0; time < TIMES; ++time) {
        if (read(fd, message, sizeof(message)) >= 0) {
            give_up("a message of nobody");
        }
    }
    uint64_t middle = ptreclaim_monotonic_nanoseconds();
    for (int time = 0; time < TIMES; ++time) {
        is_readable(fd);
    }
    uint64_t end = ptreclaim_monotonic_nanoseconds();
    printf(
        "with nobody waiting: read %llu ns (EAGAIN), poll %llu ns\n",
        (unsigned long long)((middle - start) / TIMES),
        (unsigned long long)((end - middle) / TIMES));
    // Unread faults, over and over: does anything get slower?
    same_page = false;
    for (int batch = 0; batch < 3; ++batch) {
        enum { FENCES = 2000 };
        start = ptreclaim_monotonic_nanoseconds();
        for (int time = 0; time < FENCES; ++time) {
            pthread_t thread;
            madvise(span, SPAN_BYTES, MADV_DONTNEED);
            call(fd, PTRECLAIM_UFFDIO_REGISTER);
            pthread_create(&thread, NULL, touch, NULL);
            while (!is_readable(fd)) {
            }
            call(fd, PTRECLAIM_UFFDIO_UNREGISTER);
            call(fd, PTRECLAIM_UFFDIO_WAKE);
            pthread_join(thread, NULL);
        }
        printf(
            "%d fences with a fault that is not read: %llu ns each\n", FENCES,
            (unsigned long long)((ptreclaim_monotonic_nanoseconds() - start) / FENCES));
    }
    close(fd);
}
