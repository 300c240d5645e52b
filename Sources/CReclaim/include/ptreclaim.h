// SPDX-License-Identifier: Apache-2.0
//
// ptreclaim: a userspace madvise(MADV_PT_RECLAIM). Frees the PTE tables of a range that map
// nothing: 4 KiB for each 2 MiB that was once touched and then given back with madvise.
//
// Link with `pkg-config --cflags --libs ptreclaim`. Linux on x86-64 with 4 KiB pages. C17 and C++17.
//
// A *span* is the 2 MiB, aligned to 2 MiB, that one PTE table maps. Ranges are bytes, half-open.
//
// The ABI only grows. Numbers keep their meaning, new ones go to the end, and `size` in the report
// says how much of it caller and library have in common.

#ifndef PTRECLAIM_H
#define PTRECLAIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Who else may touch the range during a call of `ptreclaim`.
enum {
    /// Anybody may use the contents of the range. The range stays mapped as it is: who unmaps a part
    /// and maps something new at the same address may lose what is written there. Private memory is
    /// freed behind a fence (userfaultfd), at which a thread that touches an empty span waits some
    /// microseconds; where none is to be had, it is kept.
    PTRECLAIM_SHARED = 0,
    /// Nobody uses the contents either. What is written there meanwhile may be lost. Needs no
    /// privilege, no fence and no thread.
    PTRECLAIM_OWNED = 1,
};

/// Why a table was kept: indices of `kept` in the report. Never an error.
enum {
    /// The range covers the span only in part.
    PTRECLAIM_KEPT_PARTIAL = 0,
    /// An entry is not none: a page, the zero page, a swap entry, a uffd-wp or guard marker.
    PTRECLAIM_KEPT_POPULATED = 1,
    /// There is no table to free.
    PTRECLAIM_KEPT_ABSENT = 2,
    /// The span crosses a VMA boundary or reaches into a hole.
    PTRECLAIM_KEPT_CROSSES_VMA = 3,
    /// Hugetlb, PFN-mapped or otherwise special memory.
    PTRECLAIM_KEPT_SPECIAL_VMA = 4,
    /// A page appeared between the first look and the last.
    PTRECLAIM_KEPT_REFILLED = 5,
    /// The kernel refused; the table is as it was.
    PTRECLAIM_KEPT_BACKEND_FAILED = 6,
    /// The free was made and a second look still found the table.
    PTRECLAIM_KEPT_STILL_THERE = 7,
    /// Nothing is mapped there.
    PTRECLAIM_KEPT_UNMAPPED = 8,
    /// The stack of the thread that called, below where it is in use.
    PTRECLAIM_KEPT_OWN_STACK = 9,
    /// A private mapping of a file or memfd, which no fence protects. Not with OWNED.
    PTRECLAIM_KEPT_PRIVATE_FILE = 10,
    /// Registered for uffd write protection: nobody else can fence it. Not with OWNED.
    PTRECLAIM_KEPT_WRITE_PROTECT_REGISTERED = 11,
    /// Registered with somebody else's userfaultfd. Not with OWNED.
    PTRECLAIM_KEPT_REGISTERED = 12,
    /// No fence is to be had: userfaultfd needs CAP_SYS_PTRACE, vm.unprivileged_userfaultfd=1 or
    /// access to /dev/userfaultfd, and no seccomp filter. Not with OWNED.
    PTRECLAIM_KEPT_FENCE_UNAVAILABLE = 13,
    /// mlocked, and the only backend here would unlock it.
    PTRECLAIM_KEPT_LOCKED = 14,
    /// The process has as many mappings as vm.max_map_count allows.
    PTRECLAIM_KEPT_TOO_MANY_MAPPINGS = 15,
    /// The only backend here would lose attributes of the VMA.
    PTRECLAIM_KEPT_LOSES_ATTRIBUTES = 16,
    /// The process was forking all the while.
    PTRECLAIM_KEPT_FORKING = 17,
    /// How many reasons this header knows; not a reason. Grows with them, and `kept` with it.
    PTRECLAIM_KEPT_REASONS = 18,
};

/// How tables were freed.
enum {
    /// No table was freed.
    PTRECLAIM_BACKEND_NONE = 0,
    /// One MADV_DONTNEED over whole spans, on kernels with PT_RECLAIM (6.14 and newer).
    PTRECLAIM_BACKEND_DONTNEED = 1,
    /// mremap(MREMAP_DONTUNMAP) of the whole table to a span that is then mapped over (Linux 5.7 and
    /// newer); behind a fence mmap(MAP_FIXED), where the VMA has no attributes to lose.
    PTRECLAIM_BACKEND_REMAP = 2,
    /// mmap(MAP_FIXED). Never chosen by itself.
    PTRECLAIM_BACKEND_MAPFIXED = 3,
};

/// What a call did.
///
/// `size` is the version of the layout. A library fills no more than `size` bytes and no more than it
/// knows, so a program that was compiled against another version of this header works with it. New
/// fields go to the end, the first 192 bytes stay as they are. No padding.
struct ptreclaim_report {
    /// In: sizeof(struct ptreclaim_report), in bytes. Out: how many bytes were filled.
    uint32_t size;
    /// PTRECLAIM_BACKEND_*; NONE where no table was freed.
    uint32_t backend;
    /// Whole spans of the range: freed plus kept, but for PTRECLAIM_KEPT_PARTIAL.
    uint64_t tables_examined;
    /// Tables of 4 KiB each, seen gone by a second look.
    uint64_t tables_freed;
    /// VmPTE of the whole process before the call, in bytes; -1 where it cannot be read.
    int64_t vm_pte_before;
    /// VmPTE after the call, likewise.
    int64_t vm_pte_after;
    /// Time of the call in nanoseconds, hand-over to the service thread included.
    uint64_t duration_ns;
    /// Spans that were kept, by PTRECLAIM_KEPT_*.
    uint64_t kept[PTRECLAIM_KEPT_REASONS];
};

/// Frees every PTE table in [address, address + length) whose 512 entries are all none. Never
/// changes a byte that can be read.
///
/// Only spans that lie wholly inside the range and inside one VMA are candidates; holes are no error.
///
/// Thread-safe: SHARED calls take turns on one thread of the library, named `ptreclaim`, which the
/// first of them starts and which leaves when it has had nothing to do for a second; OWNED calls run
/// where they are made. Fork-safe: a forked child may call at once, and has a thread of its own.
/// Not async-signal-safe. Where the call succeeds, errno is left as it was.
///
/// \param address page-aligned, to 4096 bytes; the end of the range is at most 2^47.
/// \param length bytes, rounded up to whole pages; 0 does nothing.
/// \param access PTRECLAIM_SHARED or PTRECLAIM_OWNED.
/// \param report filled where the call succeeds, with `size` set before; may be NULL.
///
/// \returns 0, or -1 and sets errno; the report is as it was then, and tables that were freed before
/// the error stay freed.
///   EINVAL      address is not page-aligned, the range ends above 2^47, or access or report->size
///               is wrong; nothing has been done
///   EOPNOTSUPP  nothing frees tables on this kernel
///   ENOENT      procfs is missing
///   EACCES      procfs is closed to us, as after setuid, until prctl(PR_SET_DUMPABLE)
///   EMFILE, ENFILE  no descriptor is left for /proc/self/pagemap and /proc/self/maps
///   ENOMEM      the first call measures the kernel, and has no mapping left to do it
/// The corresponding kernel call is madvise(MADV_PT_RECLAIM), proposed in June 2024, never merged.
int ptreclaim(void *address, size_t length, unsigned int access, struct ptreclaim_report *report);

/// Advice for `ptreclaim_advise`.
enum {
    /// Serve this range where only marked memory is served (PTRECLAIM_RANGES=marked), and again where
    /// it was OFF.
    PTRECLAIM_ON = 1,
    /// Leave this range alone: its tables are not looked at, not fenced and not freed.
    PTRECLAIM_OFF = 2,
    /// Free the empty tables of this range now, and return when that is done.
    PTRECLAIM_NOW = 3,
};

/// Tells the preload library, in its modes madvise, scan and hooks+scan, what to do about
/// [address, address + length). For its modes that take memory from a thread of their own; the hooks
/// on jemalloc take jemalloc's memory only, and always.
///
/// ON and NOW take the spans that lie wholly inside the range, OFF those that it touches. A mark stays
/// with its memory however that is split or grows in its place, and ends where it is unmapped,
/// replaced or moved. NOW frees what the library may free by itself: memory that was mapped through
/// libc; with ptreclaim() the caller vouches for the mapping instead.
///
/// Thread-safe; NOW is done on the library's thread, one range at a time. Not async-signal-safe, nor
/// for an allocator's hooks.
///
/// \param address page-aligned, to 4096 bytes; the end of the range is at most 2^47.
/// \param length bytes.
/// \param advice PTRECLAIM_ON, PTRECLAIM_OFF or PTRECLAIM_NOW.
///
/// \returns 0, or -1 and sets errno.
///   EINVAL      address is not page-aligned, the range ends above 2^47, or advice is wrong
///   EOPNOTSUPP  the preload library is not in this process, or has no such mode here
///   ENOMEM      no memory to remember it
///   EAGAIN      NOW: no thread is to be had, or it has left meanwhile
/// The corresponding kernel calls are the madvise options of the proposals on linux-mm of June and
/// July 2024, never merged.
int ptreclaim_advise(void *address, size_t length, unsigned int advice);

/// The name of a reason, such as "fenceUnavailable". Thread-safe and async-signal-safe.
///
/// \param reason PTRECLAIM_KEPT_*.
///
/// \returns a string that lives as long as the library, or NULL for a number that is no reason here.
const char *ptreclaim_kept_name(unsigned int reason);

#ifdef __cplusplus
}
#endif

#endif
