// SPDX-License-Identifier: Apache-2.0
//
// The options, one table. The README shows the same rows.

#ifndef PTRECLAIM_OPTIONS_H
#define PTRECLAIM_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

// X(field, environment variable, kind, choices, default, meaning)
#define PTRECLAIM_OPTIONS(X) \
    X(mode, "PTRECLAIM_MODE", CHOICE, "off|hooks|madvise|scan|hooks+scan|auto", 5, \
      "what to do; auto takes the best mode that is possible") \
    X(backend, "PTRECLAIM_BACKEND", CHOICE, "auto|dontneed|remap", 0, \
      "how tables are freed; auto measures what frees them on the running kernel") \
    X(verbose, "PTRECLAIM_VERBOSE", CHOICE, "0|1", 0, \
      "one line on fd 2 at start: what is done, or why nothing is") \
    X(report, "PTRECLAIM_REPORT", CHOICE, "0|1", 0, \
      "one line on fd 2 at exit: VmPTE at start, peak seen, now; spans zapped") \
    X(mallctl, "PTRECLAIM_MALLCTL", NAME, "", 0, \
      "name under which jemalloc exports mallctl; by default mallctl, then je_mallctl") \
    X(delay_ms, "PTRECLAIM_DELAY_MS", NUMBER, "0..3600000", 1000, \
      "madvise: how long a purge is over when its tables are looked at; scan: from pass to pass") \
    X(size_mb, "PTRECLAIM_SIZE_MB", NUMBER, "1..1048576", 64, \
      "page tables that a pass looks at, at most, in MiB") \
    X(budget_percent, "PTRECLAIM_BUDGET_PERCENT", NUMBER, "1..100", 1, \
      "time of one core that the service thread takes, at most") \
    X(watermark_kb, "PTRECLAIM_WATERMARK_KB", NUMBER, "0..1073741824", 256, \
      "scan: empty tables, in kB, from which on they are freed") \
    X(ranges, "PTRECLAIM_RANGES", CHOICE, "all|marked", 0, \
      "madvise, scan: all memory that is eligible, or what ptreclaim_advise has marked") \
    X(inherit, "PTRECLAIM_INHERIT", CHOICE, "0|1", 1, \
      "0: forked children get no service thread, and the library is not in what is executed") \
    X(trace, "PTRECLAIM_TRACE", NAME, "", 0, \
      "a new file to record what jemalloc does into, for ptreclaim simulate --trace") \
    X(trace_mb, "PTRECLAIM_TRACE_MB", NUMBER, "1..4096", 64, \
      "the size of that file in MiB; what does not fit is dropped and counted")

struct ptreclaim_options {
    uint32_t mode;    // index into the choices
    uint32_t backend; // PTRECLAIM_BACKEND_*, 0 for auto
    uint32_t verbose;
    uint32_t report;
    const char *mallctl; // NULL: not set
    uint32_t delay_ms;
    uint32_t size_mb;
    uint32_t budget_percent;
    uint32_t watermark_kb;
    uint32_t ranges; // 1: marked
    uint32_t inherit;
    const char *trace; // NULL: not set
    uint32_t trace_mb;
};

enum {
    PTRECLAIM_OPTION_MODE_OFF,
    PTRECLAIM_OPTION_MODE_HOOKS,
    PTRECLAIM_OPTION_MODE_MADVISE,
    PTRECLAIM_OPTION_MODE_SCAN,
    PTRECLAIM_OPTION_MODE_HOOKS_AND_SCAN,
    PTRECLAIM_OPTION_MODE_AUTO,
};

/// Reads the environment. A malformed value gives one line on fd 2 and keeps the default.
struct ptreclaim_options ptreclaim_options_read(void);

/// Whether the mode that the environment names frees behind a fence. Says nothing.
bool ptreclaim_options_want_fence(void);

#endif
