// SPDX-License-Identifier: Apache-2.0
//
// The part of Linux this project stands on, on one screen.
//
// Every call is a raw system call: it returns the kernel's result, or -errno, and never touches
// the caller's `errno`. That makes each of them usable inside an allocator's hook, before any
// constructor has run, and after fork. Addresses and lengths are bytes; unless stated otherwise
// they are page-aligned and the length is not zero.

#ifndef PTRECLAIM_LINUX_MM_H
#define PTRECLAIM_LINUX_MM_H

#if !defined(__linux__) || !defined(__x86_64__)
#error "PTReclaim supports Linux on x86-64 only"
#endif

#ifndef _GNU_SOURCE
#define _GNU_SOURCE // AT_FDCWD, MAP_ANONYMOUS under -std=c17
#endif

#include <errno.h> // for Swift: EBADF, ENOENT … without a libc module
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#pragma clang assume_nonnull begin

static inline long ptreclaim_syscall(long number, long a, long b, long c, long d, long e, long f) {
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

// ---- advice and mappings ----------------------------------------------------------------------

#define PTRECLAIM_MADV_DONTNEED 4
#define PTRECLAIM_MADV_WIPEONFORK 18
#define PTRECLAIM_MADV_COLD 20           // since 5.4
#define PTRECLAIM_MADV_DONTNEED_LOCKED 24 // since 5.18

static inline long ptreclaim_madvise(uintptr_t address, size_t byte_count, int advice) {
    return ptreclaim_syscall(SYS_madvise, (long)address, (long)byte_count, advice, 0, 0, 0);
}

static inline long ptreclaim_mmap(
    uintptr_t address, size_t byte_count, int protection, int flags, int fd, off_t offset) {
    return ptreclaim_syscall(
        SYS_mmap, (long)address, (long)byte_count, protection, flags, fd, (long)offset);
}

static inline long ptreclaim_munmap(uintptr_t address, size_t byte_count) {
    return ptreclaim_syscall(SYS_munmap, (long)address, (long)byte_count, 0, 0, 0, 0);
}

#define PTRECLAIM_MREMAP_MAYMOVE 1
#define PTRECLAIM_MREMAP_FIXED 2
#define PTRECLAIM_MREMAP_DONTUNMAP 4 // since 5.7

static inline long ptreclaim_mremap(
    uintptr_t old_address, size_t old_count, size_t new_count, int flags, uintptr_t new_address) {
    return ptreclaim_syscall(
        SYS_mremap, (long)old_address, (long)old_count, (long)new_count, flags, (long)new_address,
        0);
}

// ---- descriptors ------------------------------------------------------------------------------

static inline int ptreclaim_open(const char *path, int flags) {
    return (int)ptreclaim_syscall(SYS_openat, AT_FDCWD, (long)path, flags | O_CLOEXEC, 0, 0, 0);
}

static inline int ptreclaim_open_self_pagemap(void) {
    return ptreclaim_open("/proc/self/pagemap", O_RDONLY);
}

static inline int ptreclaim_open_self_maps(void) {
    return ptreclaim_open("/proc/self/maps", O_RDONLY);
}

/// A file in memory of `byte_count` bytes, or -errno.
static inline int ptreclaim_memfd(size_t byte_count) {
    int fd = (int)ptreclaim_syscall(SYS_memfd_create, (long)"ptreclaim", 1, 0, 0, 0, 0);
    if (fd >= 0) {
        ptreclaim_syscall(SYS_ftruncate, fd, (long)byte_count, 0, 0, 0, 0);
    }
    return fd;
}

static inline int ptreclaim_close(int fd) {
    return (int)ptreclaim_syscall(SYS_close, fd, 0, 0, 0, 0, 0);
}

static inline long ptreclaim_pread(int fd, void *buffer, size_t byte_count, off_t offset) {
    return ptreclaim_syscall(
        SYS_pread64, fd, (long)buffer, (long)byte_count, (long)offset, 0, 0);
}

static inline long ptreclaim_write(int fd, const void *buffer, size_t byte_count) {
    return ptreclaim_syscall(SYS_write, fd, (long)buffer, (long)byte_count, 0, 0, 0);
}

static inline long ptreclaim_ioctl(int fd, unsigned long request, void *argument) {
    return ptreclaim_syscall(SYS_ioctl, fd, (long)request, (long)argument, 0, 0, 0);
}

/// Whether the file carries capabilities, which make the loader ignore LD_PRELOAD.
static inline bool ptreclaim_has_file_capabilities(const char *path) {
    return ptreclaim_syscall(SYS_getxattr, (long)path, (long)"security.capability", 0, 0, 0, 0) > 0;
}

#define PTRECLAIM_ST_NOEXEC 8u // of statvfs; glibc shows it under _GNU_SOURCE only

static inline int ptreclaim_getpid(void) {
    return (int)ptreclaim_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0);
}

static inline int ptreclaim_gettid(void) {
    return (int)ptreclaim_syscall(SYS_gettid, 0, 0, 0, 0, 0, 0);
}

/// Whether this process has the thread. False only when the kernel has let go of all of it.
static inline bool ptreclaim_has_thread(int thread) {
    return ptreclaim_syscall(SYS_tgkill, ptreclaim_getpid(), thread, 0, 0, 0, 0) == 0;
}

// ---- PAGEMAP_SCAN, since 6.7 (include/uapi/linux/fs.h) ----------------------------------------

#define PTRECLAIM_PAGE_IS_WPALLOWED (1u << 0)
#define PTRECLAIM_PAGE_IS_WRITTEN (1u << 1)
#define PTRECLAIM_PAGE_IS_FILE (1u << 2)
#define PTRECLAIM_PAGE_IS_PRESENT (1u << 3)
#define PTRECLAIM_PAGE_IS_SWAPPED (1u << 4)
#define PTRECLAIM_PAGE_IS_PFNZERO (1u << 5)
#define PTRECLAIM_PAGE_IS_HUGE (1u << 6)

struct ptreclaim_page_region {
    uint64_t start;
    uint64_t end;
    uint64_t categories;
};

struct ptreclaim_pm_scan_arg {
    uint64_t size;
    uint64_t flags;
    uint64_t start;
    uint64_t end;
    uint64_t walk_end;
    uint64_t vec;
    uint64_t vec_len;
    uint64_t max_pages;
    uint64_t category_inverted;
    uint64_t category_mask;
    uint64_t category_anyof_mask;
    uint64_t return_mask;
};

// _IOWR('f', 16, struct pm_scan_arg)
#define PTRECLAIM_PAGEMAP_SCAN 0xc0606610ul

/// Scans `argument->start ..< argument->end` of the process behind `pagemap_fd`.
/// Returns the number of regions written, or -errno: ENOTTY before Linux 6.7.
/// Give it at most 512 regions a call: from 1024 on Linux 6.18 returned some of them twice.
static inline long ptreclaim_pagemap_scan(int pagemap_fd, struct ptreclaim_pm_scan_arg *argument) {
    argument->size = sizeof(*argument);
    return ptreclaim_ioctl(pagemap_fd, PTRECLAIM_PAGEMAP_SCAN, argument);
}

// ---- PROCMAP_QUERY, since 6.11 ----------------------------------------------------------------

#define PTRECLAIM_PROCMAP_QUERY_VMA_READABLE 0x01
#define PTRECLAIM_PROCMAP_QUERY_VMA_WRITABLE 0x02
#define PTRECLAIM_PROCMAP_QUERY_VMA_EXECUTABLE 0x04
#define PTRECLAIM_PROCMAP_QUERY_VMA_SHARED 0x08
#define PTRECLAIM_PROCMAP_QUERY_COVERING_OR_NEXT_VMA 0x10

struct ptreclaim_procmap_query {
    uint64_t size;
    uint64_t query_flags;
    uint64_t query_addr;
    uint64_t vma_start;
    uint64_t vma_end;
    uint64_t vma_flags;
    uint64_t vma_page_size;
    uint64_t vma_offset;
    uint64_t inode;
    uint32_t dev_major;
    uint32_t dev_minor;
    uint32_t vma_name_size;
    uint32_t build_id_size;
    uint64_t vma_name_addr;
    uint64_t build_id_addr;
};

// _IOWR('f', 17, struct procmap_query)
#define PTRECLAIM_PROCMAP_QUERY 0xc0686611ul

/// Describes the VMA that covers `query->query_addr` or, with COVERING_OR_NEXT_VMA, the next one.
/// `maps_fd` is an open /proc/PID/maps. -ENOENT: no such VMA; -ENOTTY before Linux 6.11.
static inline long ptreclaim_procmap_query(int maps_fd, struct ptreclaim_procmap_query *query) {
    query->size = sizeof(*query);
    return ptreclaim_ioctl(maps_fd, PTRECLAIM_PROCMAP_QUERY, query);
}

// ---- userfaultfd (include/uapi/linux/userfaultfd.h) -------------------------------------------

#define PTRECLAIM_UFFD_API 0xaaull
#define PTRECLAIM_UFFD_REGISTER_MISSING 1ull
#define PTRECLAIM_UFFD_REGISTER_WP 2ull

struct ptreclaim_uffd_api {
    uint64_t api;
    uint64_t features;
    uint64_t ioctls;
};

struct ptreclaim_uffd_range {
    uint64_t start;
    uint64_t len;
};

struct ptreclaim_uffd_register {
    struct ptreclaim_uffd_range range;
    uint64_t mode;
    uint64_t ioctls;
};

#define PTRECLAIM_UFFDIO_API 0xc018aa3ful        // _IOWR(0xAA, 0x3F, struct uffdio_api)
#define PTRECLAIM_UFFDIO_REGISTER 0xc020aa00ul   // _IOWR(0xAA, 0x00, struct uffdio_register)
#define PTRECLAIM_UFFDIO_UNREGISTER 0x8010aa01ul // _IOR(0xAA, 0x01, struct uffdio_range)
#define PTRECLAIM_UFFDIO_WAKE 0x8010aa02ul       // _IOR(0xAA, 0x02, struct uffdio_range)
#define PTRECLAIM_USERFAULTFD_IOC_NEW 0xaa00ul   // _IO(0xAA, 0x00), on /dev/userfaultfd

/// Opens a userfaultfd that also stops the kernel's own accesses (never UFFD_USER_MODE_ONLY: a
/// read(2) into a fenced page would fail with EFAULT). Returns the descriptor, or -errno: EPERM or
/// EACCES without CAP_SYS_PTRACE, vm.unprivileged_userfaultfd or access to /dev/userfaultfd.
int ptreclaim_open_userfaultfd(void);

_Static_assert(sizeof(struct ptreclaim_pm_scan_arg) == 0x60, "the ioctl number carries the size");
_Static_assert(sizeof(struct ptreclaim_procmap_query) == 0x68, "the ioctl number carries the size");

/// Keeps the calling thread, and the threads that it starts, on the CPU that it is on.
static inline void ptreclaim_pin_to_this_cpu(void) {
    uint64_t mask[16] = {0};
    uint32_t cpu = 0;
    ptreclaim_syscall(SYS_getcpu, (long)&cpu, 0, 0, 0, 0, 0);
    mask[cpu / 64 % 16] = 1ull << cpu % 64;
    ptreclaim_syscall(SYS_sched_setaffinity, 0, sizeof(mask), (long)mask, 0, 0, 0);
}

// ---- futex and signals ------------------------------------------------------------------------

/// Sleeps while `*word` is `expected`; at most `milliseconds`, or for ever where that is negative.
/// Returns also for no reason.
void ptreclaim_futex_wait(uint32_t *word, uint32_t expected, long milliseconds);

/// How long an application's thread sleeps before it looks at the word again: a wake that is lost costs
/// time, and never the thread.
enum { PTRECLAIM_LONGEST_SLEEP_MS = 100 };

static inline void ptreclaim_futex_wake(uint32_t *word, int count) {
    const int wake_private = 1 | 128;
    ptreclaim_syscall(SYS_futex, (long)word, wake_private, count, 0, 0, 0);
}

/// Blocks `mask` and returns the mask before. The raw call: glibc's leaves 32 and 33 open.
static inline uint64_t ptreclaim_set_signal_mask(uint64_t mask) {
    const int set_mask = 2;
    uint64_t before = 0;
    ptreclaim_syscall(
        SYS_rt_sigprocmask, set_mask, (long)&mask, (long)&before, sizeof(mask), 0, 0);
    return before;
}

// ---- atomics that Embedded Swift cannot spell -------------------------------------------------

static inline uint64_t ptreclaim_load_acquire(const uint64_t *word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void ptreclaim_store_release(uint64_t *word, uint64_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline bool ptreclaim_compare_exchange(uint64_t *word, uint64_t expected, uint64_t desired) {
    return __atomic_compare_exchange_n(
        word, &expected, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline uint64_t ptreclaim_fetch_and(uint64_t *word, uint64_t mask) {
    return __atomic_fetch_and(word, mask, __ATOMIC_ACQ_REL);
}

// ---- looking at tables ------------------------------------------------------------------------

/// Whether this kernel has PAGEMAP_SCAN, and lets the process use it.
bool ptreclaim_probe_pagemap_scan(int pagemap_fd);

/// Finds the lowest page of `start ..< end` whose entry is not none: a page, the zero page, a swap
/// entry, a marker. Returns 1 and sets `*page`, 0 where there is none, or -errno.
///
/// Costs 1 us for each empty table with PAGEMAP_SCAN; without it 2 us for each 2 MiB.
long ptreclaim_first_populated(
    int pagemap_fd, bool has_scan, uintptr_t start, uintptr_t end, uintptr_t *page);

/// Finds the lowest run, of `at_most` at most, of 2 MiB spans in `start ..< end`, both span-aligned,
/// that have a PTE table. Returns 1 and sets `*first` and `*last` (one past it), 0 where there is
/// none, or -errno. Needs PAGEMAP_SCAN. Holes of any size cost next to nothing.
///
/// PAGE_IS_WRITTEN is set for a none entry inside an existing table and not for a missing table.
long ptreclaim_first_tables(
    int pagemap_fd, uintptr_t start, uintptr_t end, size_t at_most, uintptr_t *first,
    uintptr_t *last);

// ---- looking at mappings ----------------------------------------------------------------------

enum ptreclaim_vma_kind {
    PTRECLAIM_VMA_HOLE,
    PTRECLAIM_VMA_ANONYMOUS,    // private
    PTRECLAIM_VMA_SHARED,       // of memory or of a regular file
    PTRECLAIM_VMA_PRIVATE_FILE, // of a memfd, too
    PTRECLAIM_VMA_SPECIAL,      // hugetlb, devices, [vdso], [vvar], [vsyscall]
};

struct ptreclaim_vma {
    uintptr_t start;
    uintptr_t end; // of a hole: the start of the next VMA, or UINTPTR_MAX
    uint32_t kind;
    bool is_writable;
    bool is_executable;
    bool is_readable;
};

/// Finds the VMA that covers `address`, or the hole, through an open /proc/PID/maps: by
/// PROCMAP_QUERY, or the text where the kernel is older. Returns 0 or -errno.
long ptreclaim_find_vma(int maps_fd, uintptr_t address, struct ptreclaim_vma *vma);

/// Whether this kernel has PROCMAP_QUERY.
bool ptreclaim_probe_procmap_query(void);

enum {
    PTRECLAIM_VMA_WRITE_PROTECT_REGISTERED = 1, // VmFlags uw
    PTRECLAIM_VMA_REGISTERED = 2,               // um, ui
    PTRECLAIM_VMA_LOCKED = 4,                   // lo
    PTRECLAIM_VMA_UNUSUAL = 8,                  // anything that plain mmap(2) does not give
    PTRECLAIM_VMA_NORESERVE = 16,               // nr: mapped with MAP_NORESERVE
};

/// Reads what only VmFlags in /proc/self/smaps tell of the VMA at `address`: a set of the flags
/// above, or -errno. Walks every VMA below it, so it is asked when something has been refused.
long ptreclaim_vma_flags(uintptr_t address);

/// Whether memory at `address` is placed by a policy of its own (mbind).
bool ptreclaim_has_memory_policy(uintptr_t address);

// ---- reading one number of procfs -------------------------------------------------------------

/// VmPTE of the calling process in bytes (PTE, PMD and PUD tables), or -errno.
/// One open, one read, one close; no allocation.
long ptreclaim_self_vm_pte(void);

/// The same, and by the same read how many threads the process has; 0 where that is not told.
long ptreclaim_self_vm_pte_and_threads(uint32_t *threads);

/// Whether the first thread of the process has left (pthread_exit in main), and how many threads there
/// are, with it. `status_fd` is an open /proc/self/status. False where that cannot be read.
bool ptreclaim_is_main_thread_gone(int status_fd, uint32_t *threads);

/// Whether a seccomp filter watches the calling thread. True where that cannot be read.
bool ptreclaim_has_seccomp_filter(void);

/// How many seccomp filters watch a thread; `status_fd` is its open status. -errno where that cannot
/// be read; 0 or 1 before Linux 5.9.
long ptreclaim_seccomp_filter_count(int status_fd);

/// An address on the stack of the calling thread.
static inline uintptr_t ptreclaim_stack_address(void) {
    return (uintptr_t)__builtin_frame_address(0);
}

/// Nanoseconds of CLOCK_MONOTONIC.
uint64_t ptreclaim_monotonic_nanoseconds(void);

#pragma clang assume_nonnull end

#endif
