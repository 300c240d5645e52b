// SPDX-License-Identifier: Apache-2.0

#include "stats.h"

#include "linux_mm.h"
#include "live_state.h"
#include "probe.h"

#include <sys/stat.h>
#include <time.h>

#ifndef MFD_CLOEXEC
#define MFD_CLOEXEC 1u
#endif
#ifndef MFD_ALLOW_SEALING
#define MFD_ALLOW_SEALING 2u
#endif

enum {
    PAGE_BYTES = 4096,
    /// Out of the way of programs that expect small numbers.
    LOWEST_DESCRIPTOR = 500,
};

/// In owner_pid: a thread of this process is making the page. No PID: 1 is one, in containers.
static const uint64_t MAKING = UINT64_MAX;

static struct ptreclaim_stats_page *page; // keeps its address for ever
static struct ptreclaim_stats_page scrap; // counts that belong nowhere

static bool has_memfd;
static bool is_filtered; // what makes a page may be forbidden

// The descriptor stays open so that others find the page; never used again but to close it in a
// forked child, and only while it still is what it was: applications close numbers and reuse them.
static int descriptor = -1;
static uint64_t descriptor_inode, descriptor_device;

static long file_identity(int fd, uint64_t *inode, uint64_t *device) {
    struct stat status; // the kernel's layout on x86-64
    long result = ptreclaim_syscall(SYS_fstat, fd, (long)&status, 0, 0, 0, 0);
    *inode = status.st_ino;
    *device = status.st_dev;
    return result;
}

static void close_inherited(void) {
    uint64_t inode, device;
    if (descriptor >= 0 && file_identity(descriptor, &inode, &device) == 0
        && inode == descriptor_inode && device == descriptor_device) {
        ptreclaim_close(descriptor);
    }
    descriptor = -1;
}

/// A memfd of one page, mode 0600, at a high number. -errno where the kernel or seccomp says no.
static int make_file(void) {
    if (!has_memfd) {
        return -EPERM;
    }
    int fd = (int)ptreclaim_syscall(
        SYS_memfd_create, (long)PTRECLAIM_STATS_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING, 0, 0, 0,
        0);
    if (fd < 0) {
        return fd;
    }
    int high = (int)ptreclaim_syscall(
        SYS_fcntl, fd, F_DUPFD_CLOEXEC, LOWEST_DESCRIPTOR, 0, 0, 0);
    if (high >= 0) {
        ptreclaim_close(fd);
        fd = high;
    }
    ptreclaim_syscall(SYS_fchmod, fd, 0600, 0, 0, 0, 0);
    if (ptreclaim_syscall(SYS_ftruncate, fd, PAGE_BYTES, 0, 0, 0, 0) < 0) {
        ptreclaim_close(fd);
        return -1;
    }
    // Who made it shorter would end this process, or a reader, with SIGBUS. Where a filter forbids
    // it the library goes on, and readers do not map it.
    ptreclaim_syscall(
        SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, 0, 0, 0);
    return fd;
}

/// Maps a fresh page at `page`, or anywhere the first time. Without a memfd the page is private:
/// counted, but not to be seen from outside.
static void map_fresh_page(uint32_t mode, uint32_t backend, uint64_t arenas_hooked) {
    close_inherited();
    int fd = make_file();
    int flags = (page ? MAP_FIXED : 0) | (fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
    long address =
        ptreclaim_mmap((uintptr_t)page, PAGE_BYTES, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (address < 0) {
        if (fd >= 0) {
            ptreclaim_close(fd);
        }
        return;
    }
    if (fd >= 0) {
        descriptor = fd;
        (void)file_identity(fd, &descriptor_inode, &descriptor_device);
    }
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_BOOTTIME, &now);
    struct ptreclaim_stats_page *fresh = (struct ptreclaim_stats_page *)address;
    fresh->version = PTRECLAIM_STATS_VERSION;
    fresh->byte_count = sizeof(*fresh);
    fresh->pid = ptreclaim_getpid();
    fresh->mode = mode;
    fresh->backend = backend;
    fresh->start_time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    fresh->arenas_hooked = arenas_hooked;
    // A reader that sees the magic sees the rest.
    ptreclaim_store_release(&fresh->magic, PTRECLAIM_STATS_MAGIC);
    page = fresh;
}

void ptreclaim_stats_start(uint32_t mode, uint32_t backend) {
    struct ptreclaim_live_state *state = ptreclaim_live_state();
    if (ptreclaim_map_wiped_on_fork(state) < 0) {
        return;
    }
    has_memfd = ptreclaim_probe_memfd();
    map_fresh_page(mode, backend, 0);
    if (page) {
        ptreclaim_store_release(
            &state->wiped_on_fork->owner_pid, (uint64_t)ptreclaim_getpid());
    }
}

struct ptreclaim_stats_page *ptreclaim_stats(void) {
    struct ptreclaim_live_state *state = ptreclaim_live_state();
    if (!page) {
        return &scrap;
    }
    uint64_t owner = ptreclaim_load_acquire(&state->wiped_on_fork->owner_pid);
    if (__builtin_expect(owner != 0 && owner != MAKING, 1)) {
        return page;
    }
    // A forked child: `page` is still its parent's.
    if (owner == MAKING || __atomic_load_n(&is_filtered, __ATOMIC_RELAXED)
        || !ptreclaim_compare_exchange(&state->wiped_on_fork->owner_pid, 0, MAKING)) {
        return &scrap;
    }
    const uint32_t is_off = page->control.is_off;
    map_fresh_page(page->mode, page->backend, page->arenas_hooked);
    page->control.is_off = is_off;
    ptreclaim_store_release(&state->wiped_on_fork->owner_pid, (uint64_t)ptreclaim_getpid());
    return page;
}

void ptreclaim_stats_filtered(void) {
    (void)ptreclaim_stats();
    __atomic_store_n(&is_filtered, true, __ATOMIC_RELAXED);
}
