// SPDX-License-Identifier: Apache-2.0
//
// What jemalloc told us, written down; see trace_file.h. Off, it costs one branch an event.

#ifndef PTRECLAIM_TRACE_H
#define PTRECLAIM_TRACE_H

#include "trace_file.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// NULL: off. Set once by the constructor; a forked child sees it and writes nothing.
extern struct ptreclaim_trace_header *ptreclaim_trace;

/// Makes the file, which must not exist, of `mebibytes`. Where that cannot be: one line on fd 2,
/// and no trace. Called once, from the constructor, after `ptreclaim_stats_start`.
void ptreclaim_trace_start(
    const char *path, uint32_t mebibytes, uint32_t mode, uint32_t backend);

static inline bool ptreclaim_tracing(void) {
    return __builtin_expect(ptreclaim_trace != NULL, 0);
}

void ptreclaim_trace_write(const struct ptreclaim_trace_record *record);
void ptreclaim_trace_sample_if_due(void);
void ptreclaim_trace_sample(void);

/// An event of an extent. Addresses from 2^47 on, and 16 TiB and more, are dropped and counted.
static inline void ptreclaim_trace_event(
    enum ptreclaim_trace_kind kind, uint8_t flags, const void *address, size_t byte_count,
    size_t more_byte_count, uint64_t zapped, unsigned arena) {
    if (!ptreclaim_tracing()) {
        return;
    }
    const bool is_too_long = (byte_count | more_byte_count) / 4096 > UINT32_MAX;
    const struct ptreclaim_trace_record record = {
        .address = (uintptr_t)address,
        .page_count = is_too_long ? 0 : (uint32_t)(byte_count / 4096), // 0: dropped and counted
        .more_page_count = (uint32_t)(more_byte_count / 4096),
        .zapped_count = (uint32_t)zapped,
        .arena = (uint16_t)arena,
        .flags = flags,
        .kind = (uint8_t)kind,
    };
    ptreclaim_trace_write(&record);
}

/// Samples VmPTE if 100 ms or 1024 events have passed. Before an event takes effect, so that the
/// sample belongs to what was recorded before it.
static inline void ptreclaim_trace_before_event(void) {
    if (ptreclaim_tracing()) {
        ptreclaim_trace_sample_if_due();
    }
}

#endif
