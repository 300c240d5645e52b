// SPDX-License-Identifier: Apache-2.0
//
// A program on plain mmap and malloc for the modes that free tables behind a fence. Each act makes some
// weather, and empty tables before it and after it.

#ifndef MODE_VICTIM_H
#define MODE_VICTIM_H

#include <stdbool.h>
#include <stddef.h>

enum { SPANS = 32, KEPT_EVERY = 4, EMPTY = SPANS - SPANS / KEPT_EVERY };
enum { WRONG = 1, USAGE = 2, SKIPPED = 77 };

/// Makes EMPTY empty tables, waits until that many were freed, or the limit is over, and checks every
/// byte. Returns how many were freed.
long serve(long milliseconds);

/// The same, printed as `name: number`. With `wanted`, a limit of some seconds; otherwise it shows
/// that nothing comes.
void serve_and_say(const char *name, bool wanted);

void say(const char *name, long number);
/// Prints mode, refusals and tables kept, as far as they are not zero, each behind `prefix`.
void say_page(const char *prefix);

/// In seconds, of CLOCK_MONOTONIC.
double now(void);

/// How many fences there have been, as the library counts.
unsigned long fences(void);
/// Ends the program where a call failed.
void must(bool is_done, const char *call);
_Noreturn void skip(const char *reason);
/// Starts a thread that does nothing: the library starts its own with it.
void start_a_thread(void);
void nap(long milliseconds);
/// After descriptors were closed or replaced: standard output is the file again that it was.
void reopen_output(void);

struct act {
    const char *name;
    void (*run)(const char *argument);
};
extern const struct act process_acts[], filter_acts[];

/// Before exec, without the library: seccomp filters, in the form `errno:call` or `kill:call`.
void filter_from_now_on(const char *description, unsigned flags, bool raw);

#endif
