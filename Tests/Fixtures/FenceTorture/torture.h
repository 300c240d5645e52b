// SPDX-License-Identifier: Apache-2.0
//
// What the files of fence-torture share: the memory, who owns which of its pages, the counters.

#ifndef FENCE_TORTURE_H
#define FENCE_TORTURE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ptreclaim.h"

enum {
    PAGE_BYTES = 4096,
    PAGES_PER_SPAN = 512,
    SPAN_BYTES = PAGE_BYTES * PAGES_PER_SPAN,
    MOST_WORKERS = 128,
    HANG_SECONDS = 5,
    CHILD_SECONDS = 20,
};

enum status { RIGHT = 0, LOST = 1, USAGE = 2, HUNG = 3, SKIPPED = 77 };

enum memory_kind { ANONYMOUS, SHARED_MEMFD, PRIVATE_MEMFD };

struct weather;

struct options {
    unsigned thread_count; // that write
    unsigned caller_count; // of ptreclaim
    unsigned shared_span_count;
    unsigned round_count; // each in a process of its own
    double seconds;       // of a round
    uint64_t seed;
    enum memory_kind memory;
    bool has_huge_pages;
    bool ends_when_lost;
    const char *library;
    const struct weather *weather;
};

/// Sums over all rounds and all children: in memory that fork shares.
struct counters {
    atomic_ulong writes, kernel_writes, lost, refused, purges;
    atomic_ulong calls, failed_calls, freed;
    atomic_ulong kept[PTRECLAIM_KEPT_REASONS];
    atomic_ulong longest_wait_ns, longest_call_ns;
    atomic_ulong weather; // what the weather did: forks, closes, signals …
    atomic_ulong children, wrong_children;
    atomic_ulong forks_inside_calls, writes_of_handlers;
};

/// A thread that owns pages: a block in each shared span, and a writer one more span as a whole.
///
///     | 0 | 1 | 2 | … |      shared span: block i belongs to worker i; the last page of a
///     |  all of writer 0 |   block to the signal handler that interrupts this worker
struct worker {
    pthread_t thread;
    const char *name;
    unsigned owner;  // number of its block
    long own_span;   // -1: none
    uint64_t random;
    atomic_ulong progress;
    atomic_uintptr_t address; // where it is writing
    atomic_bool has_ended;
    unsigned long progress_seen; // by the watchdog
    double seen_at;
};

typedef int reclaim_function(void *, size_t, unsigned, struct ptreclaim_report *);

extern struct options options;
extern struct counters *counters;
extern char *memory;
extern unsigned owner_count;
extern atomic_bool stop;
extern reclaim_function *reclaim;
extern struct worker workers[MOST_WORKERS];
extern unsigned worker_count;
extern atomic_uint started_count; // 0 until all workers are there
/// False where somebody else closes or shares descriptors: then no pipes.
extern bool descriptors_are_safe;
extern _Thread_local struct worker *self;

static inline size_t memory_byte_count(void) {
    return (size_t)(options.shared_span_count + options.thread_count) * SPAN_BYTES;
}

static inline uint64_t next(uint64_t *state) { // splitmix64
    uint64_t value = *state += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

double now(void);
void advance(struct worker *worker);

// ---- pages and values --------------------------------------------------------------------------

struct pages {
    char *start;
    size_t count;
};

/// The block of a worker in a shared span, without its handler's page.
struct pages block_of(const struct worker *worker, unsigned span);
char *page_of_handler(const struct worker *worker, unsigned span);
struct pages own_span_of(const struct worker *worker);

/// A value at an address that nobody else writes to.
struct value {
    uint64_t *address;
    uint64_t expected;
    const char *way; // how it got there
};

enum { VALUES_PER_CYCLE = 4 };

/// Writes by a store, by read(2) or by process_vm_writev. Never zero.
struct value write_value(struct worker *worker, char *page);
/// False, counted and said, where the value is gone.
bool check_value(const struct worker *worker, const struct value *value, const char *when);
void purge(struct worker *worker, char *start, size_t page_count);

/// Calls ptreclaim on all of the memory, and counts. Returns the report.
struct ptreclaim_report call_once(void);

// ---- weather -----------------------------------------------------------------------------------

/// What else goes on in the process.
struct weather {
    const char *name;
    unsigned thread_count;
    void (*prepare)(void);               // before any thread is there; may be NULL
    void (*blow)(struct worker *worker); // called again and again until the end
    void (*calm)(struct worker *worker); // then, in the same thread; may be NULL
    /// At the end of a round, all threads joined: false and said where the weather was none.
    bool (*was_felt)(void);
    /// The round ends by itself, in the middle of everything.
    bool ends_abruptly;
};

const struct weather *find_weather(const char *name);
void print_weathers(void);

/// After each call of a caller, for a child that was forked inside it. May not return.
void leave_if_child(struct worker *worker);
/// Before the first call.
void become_caller(struct worker *worker);
extern _Thread_local volatile bool is_inside_call;
/// Ends the process as the round says: exit, _exit, execve.
_Noreturn void end_abruptly(void);

#endif
