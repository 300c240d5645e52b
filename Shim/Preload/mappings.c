// SPDX-License-Identifier: Apache-2.0
//
// The calls of libc that map, unmap, move, replace and purge, interposed to be seen; none of them to
// change what it does. What they tell goes to two places: the layout rule (layout.h), which waits
// where a fence is up, and the candidates of madvise mode (reclaimer.h).
//
// Any thread may be here at any time: before our constructor, in an allocator with its locks held, in
// a signal handler, in a forked child. So nothing here allocates, locks, or looks up a symbol; the
// calls are raw. libc's own calls of these functions do not come here.
//
// Not here: shmdt unmaps only what shmat mapped, and that is never counted, nor where it is moved;
// posix_madvise of glibc ignores the one advice that gives memory back.

#include "extent_hooks.h"
#include "interpose.h"
#include "jemalloc.h"
#include "layout.h"
#include "linux_mm.h"
#include "options.h"
#include "reclaimer.h"
#include "single.h"
#include "trace.h"

#include <errno.h>
#include <asm/unistd_64.h>
#include <stdarg.h>
#include <sys/shm.h>
#include <sys/uio.h>

#define EXPORT __attribute__((visibility("default")))

enum { PAGE_MASK = 4095, DONT_FORK = 10 /* MADV_DONTFORK */ };

static bool is_error(long result) { return result < 0 && result > -4096; }

/// What libc's functions return: -1 and errno.
__attribute__((used)) static long as_libc(long result) {
    if (is_error(result)) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

static uintptr_t page_up(uintptr_t address) {
    return (address + PAGE_MASK) & ~(uintptr_t)PAGE_MASK;
}

/// A range as the layout takes it: whole pages, without overflow; empty where it makes no sense.
struct range {
    uintptr_t start, end;
};

static struct range whole_pages(uintptr_t start, size_t byte_count) {
    const uintptr_t limit = (uintptr_t)1 << 47;
    struct range range = {start & ~(uintptr_t)PAGE_MASK, limit};
    if (byte_count < limit && start < limit - byte_count) {
        range.end = page_up(start + byte_count);
    }
    if (start >= limit || byte_count == 0) {
        range.end = range.start;
    }
    return range;
}

// ---- mapping ----------------------------------------------------------------------------------

/// jemalloc's own memory is left to the hooks, where they are in place.
static bool is_of_hooked_jemalloc(const void *caller) {
    return ptreclaim_hooks_active() && ptreclaim_jemalloc_contains(caller);
}

static void note_mapping_of_jemalloc(long result, size_t byte_count) {
    if (!ptreclaim_inside_hook()) {
        ptreclaim_jemalloc_expect_arenas();
        if (!is_error(result)) {
            ptreclaim_trace_event(
                PTRECLAIM_TRACE_MAP_OUTSIDE, 0, (void *)result, byte_count, 0, 0, 0);
        }
    }
}

/// Programs map before this library starts. What no fence will ask for is not recorded: in mode `hooks`
/// that would be 20 KiB in every process.
static void record_for_fences_only(void) {
    static bool is_decided;
    if (!__atomic_load_n(&is_decided, __ATOMIC_RELAXED)) {
        if (!ptreclaim_options_want_fence()) {
            ptreclaim_layout_stop();
        }
        __atomic_store_n(&is_decided, true, __ATOMIC_RELAXED);
    }
}

/// What was there before may have been unmapped unseen: marks end with the memory.
static void forget_marks(struct range new) {
    const uintptr_t span_mask = (2 << 20) - 1;
    const uintptr_t first = (new.start + span_mask) & ~span_mask, last = new.end & ~span_mask;
    if (first < last) {
        (void)ptreclaim_layout_mark(
            first, last, 0, PTRECLAIM_MARK_OFF | PTRECLAIM_MARK_ON | PTRECLAIM_MARK_EMPTY);
    }
}

static long map(
    uintptr_t address, size_t byte_count, int protection, int flags, int fd, off_t offset,
    const void *caller) {
    record_for_fences_only();
    const bool replaces = (flags & MAP_FIXED) != 0;
    const struct range place = whole_pages(address, byte_count);
    struct ptreclaim_layout_edges edges = {{0}, {0}};
    if (replaces) {
        edges = ptreclaim_layout_clear(place.start, place.end);
    }
    const long result = ptreclaim_mmap(address, byte_count, protection, flags, fd, offset);
    if (is_of_hooked_jemalloc(caller)) {
        note_mapping_of_jemalloc(result, byte_count);
        return result;
    }
    // What grows by faults takes a fence's registration along, as what grows by mremap does.
    if (is_error(result) || (flags & (MAP_HUGETLB | MAP_GROWSDOWN))) {
        return result;
    }
    if (replaces) {
        ptreclaim_layout_replace(place.start, place.end, edges);
    } else {
        const struct range mapped = whole_pages((uintptr_t)result, byte_count);
        forget_marks(mapped);
        ptreclaim_layout_add(mapped.start, mapped.end);
        ptreclaim_reclaimer_needed();
    }
    return result;
}

EXPORT void *
mmap(void *address, size_t byte_count, int protection, int flags, int fd, off_t offset) {
    return (void *)as_libc(
        map((uintptr_t)address, byte_count, protection, flags, fd, offset,
            __builtin_return_address(0)));
}

EXPORT void *
mmap64(void *address, size_t byte_count, int protection, int flags, int fd, off_t offset)
    __attribute__((alias("mmap")));

static long unmap(uintptr_t address, size_t byte_count) {
    const struct range range = whole_pages(address, byte_count);
    ptreclaim_layout_clear(range.start, range.end);
    return ptreclaim_munmap(address, byte_count);
}

EXPORT int munmap(void *address, size_t byte_count) {
    return (int)as_libc(unmap((uintptr_t)address, byte_count));
}

/// What grows in its place keeps its marks. Where a fence begins inside it, it is more than one mapping,
/// and that fails.
static long grow_in_place(
    struct range old, uintptr_t old_address, size_t old_count, size_t new_count, int flags) {
    // A mapping behind a fence takes its registration along as it grows, and nobody would end that:
    // who touches what has grown would wait for ever. Only a span that ends with it can be fenced.
    const bool may_be_fenced = old.end % (2 << 20) == 0;
    const struct range last = {old.end - (PAGE_MASK + 1), old.end};
    struct ptreclaim_layout_edges edges = {{0}, {0}};
    if (may_be_fenced) {
        edges = ptreclaim_layout_clear(last.start, last.end);
    }
    const long result = ptreclaim_mremap(
        old_address, old_count, new_count, flags & ~PTRECLAIM_MREMAP_MAYMOVE, 0);
    if (may_be_fenced) {
        ptreclaim_layout_replace(last.start, last.end, edges);
    }
    if (!is_error(result)) {
        ptreclaim_layout_add(old.end, whole_pages(old_address, new_count).end);
    }
    return result;
}

// shmdt finds an attached segment wherever mremap has moved it, and does not come here.
static bool has_attached;

static long remap(
    uintptr_t old_address, size_t old_count, size_t new_count, int flags, uintptr_t new_address) {
    record_for_fences_only();
    const struct range old = whole_pages(old_address, old_count);
    const bool stays = !(flags & (PTRECLAIM_MREMAP_FIXED | PTRECLAIM_MREMAP_DONTUNMAP));
    if (stays && new_count <= old_count && new_count > 0) {
        // It shrinks in its place.
        const struct range kept = whole_pages(old_address, new_count);
        ptreclaim_layout_clear(kept.end, old.end);
        return ptreclaim_mremap(old_address, old_count, new_count, flags, new_address);
    }
    if (stays && old_count > 0 && new_count > old_count) {
        const long result = grow_in_place(old, old_address, old_count, new_count, flags);
        // No room, and it may not move. Any other error may come of a fence, until it is cleared.
        if (!is_error(result) || (result == -ENOMEM && !(flags & PTRECLAIM_MREMAP_MAYMOVE))) {
            return result;
        }
    }
    const struct ptreclaim_layout_edges edges = ptreclaim_layout_clear(old.start, old.end);
    if (flags & PTRECLAIM_MREMAP_FIXED) {
        const struct range new = whole_pages(new_address, new_count);
        ptreclaim_layout_clear(new.start, new.end);
    }
    const long result = ptreclaim_mremap(old_address, old_count, new_count, flags, new_address);
    if (is_error(result)) {
        return result;
    }
    if (__atomic_load_n(&has_attached, __ATOMIC_RELAXED)) {
        return result;
    }
    const struct range new = whole_pages((uintptr_t)result, new_count);
    if (new.start == old.start) {
        ptreclaim_layout_replace(old.start, old.end, edges);
        ptreclaim_layout_add(old.end, new.end);
    } else {
        ptreclaim_layout_add(new.start, new.end);
    }
    return result;
}

EXPORT void *
mremap(void *old_address, size_t old_count, size_t new_count, int flags, ...) {
    va_list more;
    va_start(more, flags);
    void *new_address = flags & (PTRECLAIM_MREMAP_FIXED | PTRECLAIM_MREMAP_DONTUNMAP)
                            ? va_arg(more, void *)
                            : NULL;
    va_end(more);
    return (void *)as_libc(
        remap((uintptr_t)old_address, old_count, new_count, flags, (uintptr_t)new_address));
}

static long
remap_pages(uintptr_t address, size_t byte_count, int protection, size_t page, int flags) {
    const struct range range = whole_pages(address, byte_count);
    ptreclaim_layout_clear(range.start, range.end);
    return ptreclaim_syscall(
        SYS_remap_file_pages, (long)address, (long)byte_count, protection, (long)page, flags, 0);
}

EXPORT int
remap_file_pages(void *address, size_t byte_count, int protection, size_t page, int flags) {
    return (int)as_libc(remap_pages((uintptr_t)address, byte_count, protection, page, flags));
}

static long attach(int segment, uintptr_t address, int flags) {
    __atomic_store_n(&has_attached, true, __ATOMIC_RELAXED);
    struct shmid_ds status;
    if ((flags & SHM_REMAP)
        && !is_error(ptreclaim_syscall(SYS_shmctl, segment, IPC_STAT, (long)&status, 0, 0, 0))) {
        const struct range range = whole_pages(address, status.shm_segsz);
        ptreclaim_layout_clear(range.start, range.end);
    }
    return ptreclaim_syscall(SYS_shmat, segment, (long)address, flags, 0, 0, 0);
}

EXPORT void *shmat(int segment, const void *address, int flags) {
    return (void *)as_libc(attach(segment, (uintptr_t)address, flags));
}

// ---- the heap ---------------------------------------------------------------------------------

// glibc keeps where the heap ends, for itself and for who asks.
extern void *__curbrk __attribute__((weak));
extern void *__sbrk(intptr_t increment) __attribute__((weak));

static void heap_shrinks(uintptr_t from, uintptr_t to) {
    ptreclaim_layout_clear(page_up(to), page_up(from));
}

static void heap_has_grown(uintptr_t from, uintptr_t to) {
    record_for_fences_only();
    ptreclaim_layout_add(page_up(from), page_up(to));
}

/// The kernel's brk: returns where the heap ends now, whether it moved or not.
static uintptr_t move_break(uintptr_t wanted) {
    const uintptr_t before = (uintptr_t)ptreclaim_syscall(SYS_brk, 0, 0, 0, 0, 0, 0);
    if (wanted && wanted < before) {
        heap_shrinks(before, wanted);
    }
    const uintptr_t after = (uintptr_t)ptreclaim_syscall(SYS_brk, (long)wanted, 0, 0, 0, 0, 0);
    if (after > before) {
        heap_has_grown(before, after);
    }
    return after;
}

EXPORT int brk(void *end) {
    const uintptr_t now = move_break((uintptr_t)end);
    if (&__curbrk) {
        __curbrk = (void *)now;
    }
    if (now < (uintptr_t)end) {
        errno = ENOMEM;
        return -1;
    }
    return 0;
}

EXPORT void *sbrk(intptr_t increment) {
    if (!__sbrk) {
        errno = ENOMEM;
        return (void *)-1;
    }
    if (increment < 0) {
        const uintptr_t before = (uintptr_t)__sbrk(0);
        heap_shrinks(before, before + (uintptr_t)increment);
    }
    void *start = __sbrk(increment);
    if (increment > 0 && start != (void *)-1) {
        heap_has_grown((uintptr_t)start, (uintptr_t)start + (uintptr_t)increment);
    }
    return start;
}

// ---- purging ----------------------------------------------------------------------------------

static long advise(uintptr_t address, size_t byte_count, int advice) {
    const struct range range = whole_pages(address, byte_count);
    if (advice == DONT_FORK) {
        const uintptr_t span_mask = (2 << 20) - 1;
        (void)ptreclaim_layout_mark(
            range.start & ~span_mask, (range.end + span_mask) & ~span_mask,
            PTRECLAIM_MARK_DONTFORK, 0);
    }
    const long result = ptreclaim_madvise(address, byte_count, advice);
    if (!is_error(result)) {
        ptreclaim_reclaimer_purged(range.start, range.end, advice);
    }
    return result;
}

EXPORT int madvise(void *address, size_t byte_count, int advice) {
    return (int)as_libc(advise((uintptr_t)address, byte_count, advice));
}

/// Of which process does not matter: what is told is where to look.
static long
advise_vector(int pidfd, const struct iovec *ranges, size_t count, int advice, unsigned flags) {
    const long result =
        ptreclaim_syscall(SYS_process_madvise, pidfd, (long)ranges, (long)count, advice, flags, 0);
    size_t advised = is_error(result) ? 0 : (size_t)result;
    for (size_t i = 0; i < count && advised > 0; i++) {
        const size_t part = advised < ranges[i].iov_len ? advised : ranges[i].iov_len;
        const struct range range = whole_pages((uintptr_t)ranges[i].iov_base, part);
        ptreclaim_reclaimer_purged(range.start, range.end, advice);
        advised -= part;
    }
    return result;
}

EXPORT ssize_t process_madvise(
    int pidfd, const struct iovec *ranges, size_t count, int advice, unsigned flags) {
    return as_libc(advise_vector(pidfd, ranges, count, advice, flags));
}

// ---- an application's own userfaultfd ---------------------------------------------------------

static long control(int fd, unsigned long request, long argument) {
    // Whoever uses a userfaultfd begins with one of these. Our fences would give it EBUSY.
    if (request == PTRECLAIM_UFFDIO_API || request == PTRECLAIM_USERFAULTFD_IOC_NEW) {
        ptreclaim_reclaimer_give_way();
    }
    return ptreclaim_syscall(SYS_ioctl, fd, (long)request, argument, 0, 0, 0);
}

EXPORT int ioctl(int fd, unsigned long request, ...) {
    va_list more;
    va_start(more, request);
    const long argument = va_arg(more, long);
    va_end(more);
    return (int)as_libc(control(fd, request, argument));
}

// ---- any of them by its number ----------------------------------------------------------------

/// Any call by its number. The last argument is where a caller of syscall(2) has put it.
__attribute__((used, visibility("hidden"))) long ptreclaim_seen_syscall(
    long number, long a, long b, long c, long d, long e, long f) {
    switch (number) {
    case SYS_mmap:
        return as_libc(
            map((uintptr_t)a, (size_t)b, (int)c, (int)d, (int)e, f, __builtin_return_address(0)));
    case SYS_munmap: return as_libc(unmap((uintptr_t)a, (size_t)b));
    case SYS_mremap:
        return as_libc(remap((uintptr_t)a, (size_t)b, (size_t)c, (int)d, (uintptr_t)e));
    case SYS_remap_file_pages:
        return as_libc(remap_pages((uintptr_t)a, (size_t)b, (int)c, (size_t)d, (int)e));
    case SYS_shmat: return as_libc(attach((int)a, (uintptr_t)b, (int)c));
    case SYS_brk: return (long)move_break((uintptr_t)a);
    case SYS_madvise: return as_libc(advise((uintptr_t)a, (size_t)b, (int)c));
    case SYS_process_madvise:
        return as_libc(
            advise_vector((int)a, (const struct iovec *)b, (size_t)c, (int)d, (unsigned)e));
    case SYS_ioctl: return as_libc(control((int)a, (unsigned long)b, c));
    case SYS_userfaultfd:
        // It may go to another process, that goes on from here.
        ptreclaim_reclaimer_give_way();
        return as_libc(ptreclaim_syscall(number, a, 0, 0, 0, 0, 0));
    case SYS_exit:
        ptreclaim_leave_with_first_thread();
        return as_libc(ptreclaim_syscall(number, a, 0, 0, 0, 0, 0));
    case SYS_unshare: return as_libc(ptreclaim_unshare((int)a));
    case SYS_setns: return as_libc(ptreclaim_setns((int)a, (int)b));
    case SYS_prctl: return as_libc(ptreclaim_prctl(a, b, c, d, e));
    case SYS_seccomp: return as_libc(ptreclaim_seccomp(a, b, c));
    default: return as_libc(ptreclaim_syscall(number, a, b, c, d, e, f));
    }
}

__attribute__((used, visibility("hidden"))) long ptreclaim_failed_syscall(long result) {
    return as_libc(result);
}

#define TEXT_OF(number) #number
#define IF_BARE(number) "cmpq $" TEXT_OF(number) ", %rdi\n je 1f\n"

// A child that these make returns from here on a stack of its own, or on its parent's: for them there is
// no frame, as there is none in libc.
__asm__(".pushsection .text\n"
        ".globl syscall\n"
        ".type syscall, @function\n"
        "syscall:\n" IF_BARE(__NR_clone) IF_BARE(__NR_clone3) IF_BARE(__NR_vfork)
        "jmp ptreclaim_seen_syscall\n"
        "1: movq %rdi, %rax\n"
        "movq %rsi, %rdi\n"
        "movq %rdx, %rsi\n"
        "movq %rcx, %rdx\n"
        "movq %r8, %r10\n"
        "movq %r9, %r8\n"
        "movq 8(%rsp), %r9\n"
        "syscall\n"
        "cmpq $-4095, %rax\n"
        "jae 2f\n"
        "ret\n"
        "2: movq %rax, %rdi\n"
        "jmp ptreclaim_failed_syscall\n"
        ".size syscall, . - syscall\n"
        ".popsection\n");
