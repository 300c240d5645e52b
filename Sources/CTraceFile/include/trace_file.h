// SPDX-License-Identifier: Apache-2.0
//
// The file into which the preload library writes what jemalloc told it (PTRECLAIM_TRACE=FILE).
//
//     | header, one page | record | record | record |     | up to `capacity`, zeros
//
// The library makes it with all its blocks, maps it MAP_SHARED and takes a record's place with one
// atomic add, so the file is good at any time, also after kill -9. A reader checks `magic`, then
// `version`, then the byte counts; a record whose `kind` is 0 was never finished. Little-endian.

#ifndef PTRECLAIM_TRACE_FILE_H
#define PTRECLAIM_TRACE_FILE_H

#include <stddef.h>
#include <stdint.h>

#define PTRECLAIM_TRACE_MAGIC 0x6563617274727470ull // "ptrtrace", little-endian
#define PTRECLAIM_TRACE_VERSION 1u
#define PTRECLAIM_TRACE_HEADER_BYTES 4096u // records begin on a page of their own

// What a record tells. An extent is [address, address + page_count pages).
//   X(name, number, meaning)
#define PTRECLAIM_TRACE_KINDS(X) \
    X(MAP, 1, "mapped for jemalloc; more_page_count: the unused reserve behind it") \
    X(COMMIT, 2, "uncommitted memory is handed out; recorded before anybody has it") \
    X(DECOMMIT, 3, "was purged and belongs to nobody; recorded while that is so") \
    X(MERGE, 4, "two extents became one; more_page_count: the upper one") \
    X(PURGE_LAZY, 5, "MADV_FREE by jemalloc's own hook") \
    X(PURGE_FORCED, 6, "MADV_DONTNEED by jemalloc's own hook") \
    X(UNMAP, 7, "is unmapped; recorded before that") \
    X(VM_PTE, 8, "a sample: address is VmPTE of the process in bytes, page_count its threads") \
    X(MAP_OUTSIDE, 9, "jemalloc mapped it past the hooks: its own data, arenas not hooked yet") \
    X(DESTROY, 10, "as UNMAP, with the reserve behind it: the arena is destroyed")

enum ptreclaim_trace_kind {
#define X(name, number, meaning) PTRECLAIM_TRACE_##name = number,
    PTRECLAIM_TRACE_KINDS(X)
#undef X
};

enum ptreclaim_trace_flags {
    /// Of MAP: in use from the start; no COMMIT follows. Of MERGE: both extents are in use.
    PTRECLAIM_TRACE_COMMITTED = 1,
    /// Of MAP: the reserve is mapped, but the library could not remember it.
    PTRECLAIM_TRACE_RESERVE_UNKNOWN = 2,
    /// Of UNMAP: the kernel refused; the extent is what it was.
    PTRECLAIM_TRACE_FAILED = 4,
};

struct ptreclaim_trace_record {
    uint64_t time_ns; // since the start of the trace; threads may be out of order by a little
    uint64_t address;
    uint32_t page_count;
    uint32_t more_page_count;
    uint32_t zapped_count; // spans that were zapped by this event
    uint16_t arena;
    uint8_t flags; // enum ptreclaim_trace_flags
    uint8_t kind;  // enum ptreclaim_trace_kind; stored last
};

struct ptreclaim_trace_header {
    uint64_t magic; // stored last
    uint32_t version;
    uint32_t header_byte_count;
    uint32_t record_byte_count;
    uint32_t page_byte_count;
    int32_t pid;
    uint32_t mode;    // enum ptreclaim_mode of stats_page.h
    uint32_t backend; // enum ptreclaim_backend
    uint32_t dontneed_frees_tables; // 1: this kernel has PT_RECLAIM
    uint64_t start_time_ns;         // CLOCK_BOOTTIME
    uint64_t capacity;              // records
    /// Where the file is mapped in the process: writing it costs page tables, which VmPTE counts.
    uint64_t mapping_address;
    uint64_t dropped; // events for which there was no room
    uint64_t padding[7];
    /// Places given away; records up to min(taken, capacity). On a cache line of its own.
    uint64_t taken;
};

_Static_assert(sizeof(struct ptreclaim_trace_record) == 32, "layout is an interface");
_Static_assert(offsetof(struct ptreclaim_trace_record, address) == 8, "layout is an interface");
_Static_assert(offsetof(struct ptreclaim_trace_record, page_count) == 16, "layout is an interface");
_Static_assert(
    offsetof(struct ptreclaim_trace_record, zapped_count) == 24, "layout is an interface");
_Static_assert(offsetof(struct ptreclaim_trace_record, kind) == 31, "layout is an interface");
_Static_assert(offsetof(struct ptreclaim_trace_header, version) == 8, "layout is an interface");
_Static_assert(offsetof(struct ptreclaim_trace_header, pid) == 24, "layout is an interface");
_Static_assert(
    offsetof(struct ptreclaim_trace_header, start_time_ns) == 40, "layout is an interface");
_Static_assert(offsetof(struct ptreclaim_trace_header, capacity) == 48, "layout is an interface");
_Static_assert(
    offsetof(struct ptreclaim_trace_header, mapping_address) == 56, "layout is an interface");
_Static_assert(offsetof(struct ptreclaim_trace_header, dropped) == 64, "layout is an interface");
_Static_assert(offsetof(struct ptreclaim_trace_header, taken) == 128, "layout is an interface");
_Static_assert(
    sizeof(struct ptreclaim_trace_header) <= PTRECLAIM_TRACE_HEADER_BYTES, "one page");

// Swift cannot walk an X-macro: the same list as data.
/// The name of a kind, NULL for a number that is none.
const char *ptreclaim_trace_kind_name(uint32_t kind);

#endif
