// SPDX-License-Identifier: Apache-2.0
//
// One way for the kernel to reach into the memory of a process, and the stage that it plays on.

#ifndef FENCE_PATHS_H
#define FENCE_PATHS_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum {
    SPAN_BYTES = 2 << 20,
    PAGE_BYTES = 4096,
    BUFFER_BYTES = 2 * PAGE_BYTES,
};

/// A process has one. The accessor's thread and the fencer's share it.
struct stage {
    char *span;   // SPAN_BYTES, a PTE table's worth; empty when a call starts
    char *buffer; // BUFFER_BYTES in it
    int in;       // what a call reads from, or acts on
    int out;      // the other end
    pid_t helper; // another process, which has a copy of this memory
    int ask, answer;
    pid_t accessor; // thread id
};

struct path {
    const char *name;
    /// Once, on the accessor's thread, before the first fence. A reason to skip, or NULL.
    const char *(*prepare)(struct stage *stage);
    /// Before each call. It may touch the span: the span is emptied after it.
    void (*arm)(struct stage *stage);
    /// One access by the kernel to the empty span. The result, or -errno. Nothing else in it
    /// touches the span.
    long (*call)(struct stage *stage);
    long expected;
    /// Whether the memory, or the other end, has what it should. NULL: nothing to check.
    bool (*check)(struct stage *stage);
    bool with_signals; // signals arrive, with a handler, while the access waits
    const char *not_here; // a reason to skip always
};

extern const struct path file_paths[], socket_paths[], uring_paths[], process_paths[];

/// 0 or more as it is, -1 as -errno.
static inline long told(long result) {
    return result < 0 ? -errno : result;
}

/// What is read in all paths: no byte of it is zero.
extern char pattern[BUFFER_BYTES];

bool buffer_has_pattern(struct stage *stage);
bool buffer_is_zero(struct stage *stage);

/// Empties `stage->out` of BUFFER_BYTES and says whether they were zero.
bool out_has_zeros(struct stage *stage);

/// Makes `in` and `out` the ends of a pair of stream sockets.
void open_socket_pair(struct stage *stage);

/// An unlinked file of BUFFER_BYTES, `flags` for open(2). Full of the pattern.
int open_file(int flags);

/// Ends the process: something that has nothing to do with fences went wrong.
_Noreturn void give_up(const char *what);

/// A result in words, into the report, and the end of the process.
_Noreturn void skip(const char *reason);

void print_messages(void); // messages.c

#endif
