// SPDX-License-Identifier: Apache-2.0
//
// The options, one table. The README shows the same rows.

#ifndef PTRECLAIM_OPTIONS_H
#define PTRECLAIM_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

// X(field, environment variable, kind, choices, default, meaning)
#define PTRECLAIM_OPTIONS(X) \
    X(mode, "PTRECLAIM_MODE", CHOICE, "off|hooks|auto", 2, \
      "what to do; auto takes the best mode that is possible, today hooks") \
    X(backend, "PTRECLAIM_BACKEND", CHOICE, "auto|dontneed|remap", 0, \
      "how tables are freed; auto measures what frees them on the running kernel") \
    X(verbose, "PTRECLAIM_VERBOSE", CHOICE, "0|1", 0, \
      "one line on fd 2 at start: what is done, or why nothing is") \
    X(report, "PTRECLAIM_REPORT", CHOICE, "0|1", 0, \
      "one line on fd 2 at exit: VmPTE at start, peak seen, now; spans zapped") \
    X(mallctl, "PTRECLAIM_MALLCTL", NAME, "", 0, \
      "name under which jemalloc exports mallctl; by default mallctl, then je_mallctl") \
    X(trace, "PTRECLAIM_TRACE", NAME, "", 0, \
      "a new file to record what jemalloc does into, for ptreclaim simulate --trace") \
    X(trace_mb, "PTRECLAIM_TRACE_MB", NUMBER, "1..4096", 64, \
      "the size of that file in MiB; what does not fit is dropped and counted")

struct ptreclaim_options {
    uint32_t mode;    // index into the choices
    uint32_t backend; // enum ptreclaim_backend, 0 for auto
    uint32_t verbose;
    uint32_t report;
    const char *mallctl; // NULL: not set
    const char *trace;   // NULL: not set
    uint32_t trace_mb;
};

enum { PTRECLAIM_OPTION_MODE_OFF = 0 };

/// Reads the environment. A malformed value gives one line on fd 2 and keeps the default.
struct ptreclaim_options ptreclaim_options_read(void);

#endif
