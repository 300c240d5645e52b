// SPDX-License-Identifier: Apache-2.0
//
// ptreclaim: a userspace madvise(MADV_PT_RECLAIM). Frees the PTE tables of a range that map
// nothing: 4 KiB for each 2 MiB that was once touched and then given back with madvise.
//
// Link with `pkg-config --cflags --libs ptreclaim`. Linux on x86-64.

#ifndef PTRECLAIM_H
#define PTRECLAIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    // Anybody may use the contents of the range during the call. The range stays mapped as it is:
    // who unmaps a part and maps something new at the same address may lose what is written there.
    // Private memory is freed behind a fence (userfaultfd); where none is to be had, it is kept.
    PTRECLAIM_SHARED = 0,
    // Nobody uses the contents either. What is written there meanwhile may be lost.
    PTRECLAIM_OWNED = 1,
};

// Why a table was kept: indices of `kept` below.
enum {
    PTRECLAIM_KEPT_PARTIAL = 0,          // the range covers the span only in part
    PTRECLAIM_KEPT_POPULATED = 1,        // an entry is not none
    PTRECLAIM_KEPT_ABSENT = 2,           // there is no table
    PTRECLAIM_KEPT_CROSSES_VMA = 3,      // the span crosses a VMA boundary
    PTRECLAIM_KEPT_SPECIAL_VMA = 4,      // hugetlb, PFN-mapped or otherwise special
    PTRECLAIM_KEPT_REFILLED = 5,         // a page appeared meanwhile
    PTRECLAIM_KEPT_BACKEND_FAILED = 6,   // the kernel refused
    PTRECLAIM_KEPT_STILL_THERE = 7,      // a second look still found the table
    PTRECLAIM_KEPT_UNMAPPED = 8,         // a hole
    PTRECLAIM_KEPT_OWN_STACK = 9,        // the caller's own stack, below what is in use
    PTRECLAIM_KEPT_PRIVATE_FILE = 10,    // a private file or memfd mapping; not with OWNED
    PTRECLAIM_KEPT_WRITE_PROTECT_REGISTERED = 11, // uffd-wp; not with OWNED
    PTRECLAIM_KEPT_REGISTERED = 12,      // somebody else's userfaultfd; not with OWNED
    PTRECLAIM_KEPT_FENCE_UNAVAILABLE = 13, // no permission for userfaultfd; not with OWNED
    PTRECLAIM_KEPT_LOCKED = 14,          // mlocked, and the backend would unlock it
    PTRECLAIM_KEPT_TOO_MANY_MAPPINGS = 15, // vm.max_map_count
    PTRECLAIM_KEPT_LOSES_ATTRIBUTES = 16, // the backend would lose attributes of the VMA
    PTRECLAIM_KEPT_FORKING = 17,         // the process was forking all the while
    PTRECLAIM_KEPT_REASONS = 18,
};

// How tables were freed.
enum {
    PTRECLAIM_BACKEND_NONE = 0,
    PTRECLAIM_BACKEND_DONTNEED = 1,
    PTRECLAIM_BACKEND_REMAP = 2,
    PTRECLAIM_BACKEND_MAPFIXED = 3,
};

// What a call did. New fields go to the end; a library fills no more than `size` bytes.
struct ptreclaim_report {
    uint32_t size;            // in: sizeof(struct ptreclaim_report); out: bytes that were filled
    uint32_t backend;         // PTRECLAIM_BACKEND_*; NONE where no table was freed
    uint64_t tables_examined; // whole spans of the range
    uint64_t tables_freed;    // seen gone by a second look
    int64_t vm_pte_before;    // bytes; -1 where it cannot be read
    int64_t vm_pte_after;
    uint64_t duration_ns;
    uint64_t kept[PTRECLAIM_KEPT_REASONS]; // spans, by PTRECLAIM_KEPT_*; never an error
};

// Frees every PTE table in [address, address + length) whose 512 entries are all none. Never
// changes a byte that can be read.
//
// `address` is page-aligned; `length` is rounded up to pages. Only 2 MiB spans that lie wholly
// inside the range and inside one VMA are candidates; holes are no error. `access` is
// PTRECLAIM_SHARED or PTRECLAIM_OWNED. `report` may be NULL. Not async-signal-safe.
//
// Returns 0, or -1 and sets errno. Tables that were freed before an error stay freed.
//   EINVAL      address, length, access or report->size is wrong
//   EOPNOTSUPP  nothing frees tables on this kernel
//   ENOENT, EACCES, EMFILE, ENFILE  procfs is missing, closed to us (also after setuid, until
//               prctl(PR_SET_DUMPABLE)), or no descriptor is left
//   ENOMEM      the first call measures the kernel, and has no mapping left to do it
// The corresponding kernel call is madvise(MADV_PT_RECLAIM), proposed in June 2024, never merged.
int ptreclaim(void *address, size_t length, unsigned int access, struct ptreclaim_report *report);

// Advice for `ptreclaim_advise`.
enum {
    // Serve this range where only marked memory is served (PTRECLAIM_RANGES=marked), and again where
    // it was OFF.
    PTRECLAIM_ON = 1,
    // Leave this range alone: its tables are not looked at, not fenced and not freed.
    PTRECLAIM_OFF = 2,
    // Free the empty tables of this range now, and return when that is done.
    PTRECLAIM_NOW = 3,
};

// Tells the preload library, in its modes madvise, scan and hooks+scan, what to do about
// [address, address + length). For its modes that take memory from a thread of their own; the hooks on
// jemalloc take jemalloc's memory only, and always.
//
// `address` is page-aligned. ON and NOW take the 2 MiB spans that lie wholly inside the range, OFF
// those that it touches. A mark stays with its memory however that is split or grows in its place,
// and ends where it is unmapped, replaced or moved. NOW frees what the library may free by itself: memory that was mapped through libc; with
// ptreclaim() the caller vouches for the mapping instead.
//
// Returns 0, or -1 and sets errno. Not async-signal-safe, nor for an allocator's hooks.
//   EINVAL      address or advice is wrong
//   EOPNOTSUPP  the preload library is not in this process, or has no such mode here
//   ENOMEM      no memory to remember it
//   EAGAIN      NOW: no thread is to be had
// The corresponding kernel calls are the madvise options of the proposals on linux-mm of June and July
// 2024, never merged.
int ptreclaim_advise(void *address, size_t length, unsigned int advice);

// The name of a PTRECLAIM_KEPT_* reason, or NULL.
const char *ptreclaim_kept_name(unsigned int reason);

#ifdef __cplusplus
}
#endif

#endif
