// SPDX-License-Identifier: Apache-2.0

#include "player.h"

#include "player_wait.h"

#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/// All of the player's own memory, but for the shared page and its stack.
static struct {
    struct ptreclaim_player_page *page;
    ptreclaim_reclaim_call reclaim;
    int userfaultfd;
    uint64_t features;
    sigjmp_buf out_of_fault;
} self;

static uint8_t signal_stack[64 << 10] __attribute__((aligned(16)));

// ---- one byte ---------------------------------------------------------------------------------

/// A fault that userfaultfd would have to answer comes as SIGBUS (UFFD_FEATURE_SIGBUS).
static void on_fault(int number) { siglongjmp(self.out_of_fault, number); }

static int touch(uintptr_t address, bool writes, uint8_t byte) {
    switch (sigsetjmp(self.out_of_fault, 0)) {
    case 0: break;
    case SIGBUS: return EAGAIN;
    default: return EFAULT;
    }
    volatile uint8_t *place = (volatile uint8_t *)address;
    if (writes) {
        *place = byte;
    } else {
        (void)*place;
    }
    return 0;
}

static void catch_faults(void) {
    stack_t stack = {.ss_sp = signal_stack, .ss_size = sizeof(signal_stack)};
    sigaltstack(&stack, 0);
    // NODEFER: the handler is left by a jump that restores no mask.
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_ONSTACK | SA_NODEFER};
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
}

// ---- userfaultfd ------------------------------------------------------------------------------

enum {
    FEATURE_MISSING_HUGETLBFS = 1 << 4,
    FEATURE_MISSING_SHMEM = 1 << 5,
    FEATURE_SIGBUS = 1 << 7,
    FEATURE_WP_HUGETLBFS_SHMEM = 1 << 12,
    FEATURE_WP_UNPOPULATED = 1 << 13,
};

#define UFFDIO_WRITEPROTECT_NUMBER 0xc018aa06ul // _IOWR(0xAA, 0x06, struct uffdio_writeprotect)

static int open_userfaultfd(uint64_t features, uint64_t *offered) {
    int fd = (int)ptreclaim_syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK, 0, 0, 0, 0, 0);
    struct ptreclaim_uffd_api api = {.api = PTRECLAIM_UFFD_API, .features = features};
    long result = fd < 0 ? fd : ptreclaim_ioctl(fd, PTRECLAIM_UFFDIO_API, &api);
    if (fd >= 0 && result < 0) {
        ptreclaim_close(fd);
    }
    *offered = api.features;
    return result < 0 ? (int)result : fd;
}

/// A kernel refuses features that it does not know.
static void find_features(void) {
    uint64_t offered = 0;
    int fd = open_userfaultfd(0, &offered);
    if (fd >= 0) {
        ptreclaim_close(fd);
    }
    const uint64_t wanted = FEATURE_SIGBUS | FEATURE_MISSING_HUGETLBFS | FEATURE_MISSING_SHMEM |
        FEATURE_WP_HUGETLBFS_SHMEM | FEATURE_WP_UNPOPULATED;
    self.features = offered & wanted;
}

static long renew_userfaultfd(void) {
    if (self.userfaultfd >= 0) {
        ptreclaim_close(self.userfaultfd);
    }
    uint64_t offered;
    self.userfaultfd = open_userfaultfd(self.features, &offered);
    return self.userfaultfd < 0 ? self.userfaultfd : 0;
}

static long userfault_call(unsigned long request, const struct ptreclaim_command *command) {
    // uffdio_range, uffdio_register and uffdio_writeprotect begin alike.
    struct ptreclaim_uffd_register argument = {
        .range = {command->start, command->byte_count}, .mode = command->argument[0]};
    return ptreclaim_ioctl(self.userfaultfd, request, &argument);
}

// ---- fork -------------------------------------------------------------------------------------

/// The grandchild: whoever looks at it after `grandchild_ready` finds its tables at rest.
__attribute__((noreturn)) static void sleep_as_grandchild(struct ptreclaim_player_page *page) {
    ptreclaim_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0, 0);
    ptreclaim_shared_wait(&page->grandchild_release, 1, 1); // returns at once: touches the code
    __atomic_store_n(&page->grandchild_ready, 1, __ATOMIC_RELEASE);
    ptreclaim_shared_wake(&page->grandchild_ready);
    while (!__atomic_load_n(&page->grandchild_release, __ATOMIC_ACQUIRE)) {
        ptreclaim_shared_wait(&page->grandchild_release, 0, -1);
    }
    for (;;) {
        ptreclaim_syscall(SYS_exit_group, 0, 0, 0, 0, 0, 0);
    }
}

static long play_fork(struct ptreclaim_player_page *page) {
    page->grandchild_ready = 0;
    page->grandchild_release = 0;
    // The raw call: glibc's would lock its heap, and free what other threads left behind.
    long pid = ptreclaim_syscall(SYS_fork, 0, 0, 0, 0, 0, 0);
    if (pid == 0) {
        sleep_as_grandchild(page);
    }
    if (pid < 0) {
        return pid;
    }
    page->grandchild = (int32_t)pid;
    while (!__atomic_load_n(&page->grandchild_ready, __ATOMIC_ACQUIRE)) {
        ptreclaim_shared_wait(&page->grandchild_ready, 0, -1);
    }
    return 0;
}

static long play_reap(struct ptreclaim_player_page *page) {
    __atomic_store_n(&page->grandchild_release, 1, __ATOMIC_RELEASE);
    ptreclaim_shared_wake(&page->grandchild_release);
    int status;
    long ended = ptreclaim_syscall(SYS_wait4, page->grandchild, (long)&status, 0, 0, 0, 0);
    return ended < 0 ? ended : 0;
}

// ---- the loop ---------------------------------------------------------------------------------

static long reset(void) {
    long result = ptreclaim_munmap(PTRECLAIM_FIELD_START, PTRECLAIM_FIELD_BYTES);
    return result < 0 ? result : renew_userfaultfd();
}

/// The kernel's result, or -errno.
static long play(const struct ptreclaim_command *command) {
    const uintptr_t start = command->start;
    const size_t count = command->byte_count;
    const uint64_t *argument = command->argument;
    switch (command->verb) {
    case PTRECLAIM_PLAY_MMAP:
        return ptreclaim_mmap(
            start, count, (int)argument[0], (int)argument[1], (int)argument[2], (off_t)argument[3]);
    case PTRECLAIM_PLAY_MUNMAP: return ptreclaim_munmap(start, count);
    case PTRECLAIM_PLAY_MREMAP:
        return ptreclaim_mremap(start, count, argument[0], (int)argument[1], argument[2]);
    case PTRECLAIM_PLAY_MPROTECT:
        return ptreclaim_syscall(
            SYS_mprotect, (long)start, (long)count, (long)argument[0], 0, 0, 0);
    case PTRECLAIM_PLAY_MADVISE: return ptreclaim_madvise(start, count, (int)argument[0]);
    case PTRECLAIM_PLAY_MLOCK:
        return ptreclaim_syscall(SYS_mlock2, (long)start, (long)count, (long)argument[0], 0, 0, 0);
    case PTRECLAIM_PLAY_MUNLOCK:
        return ptreclaim_syscall(SYS_munlock, (long)start, (long)count, 0, 0, 0, 0);
    case PTRECLAIM_PLAY_READ: return -touch(start, false, 0);
    case PTRECLAIM_PLAY_WRITE: return -touch(start, true, (uint8_t)argument[0]);
    case PTRECLAIM_PLAY_REGISTER: return userfault_call(PTRECLAIM_UFFDIO_REGISTER, command);
    case PTRECLAIM_PLAY_UNREGISTER: return userfault_call(PTRECLAIM_UFFDIO_UNREGISTER, command);
    case PTRECLAIM_PLAY_WRITE_PROTECT: return userfault_call(UFFDIO_WRITEPROTECT_NUMBER, command);
    case PTRECLAIM_PLAY_RECLAIM: return -self.reclaim(start, start + count);
    case PTRECLAIM_PLAY_FORK: return play_fork(self.page);
    case PTRECLAIM_PLAY_REAP: return play_reap(self.page);
    case PTRECLAIM_PLAY_RESET: return reset();
    default: return -ENOSYS;
    }
}

static long play_now(
    uint32_t verb, uint64_t start, uint64_t byte_count, uint64_t first, uint64_t second) {
    struct ptreclaim_command command = {verb, start, byte_count, {first, second, -1ull, 0}};
    return play(&command);
}

__attribute__((noinline)) static void touch_stack(void) {
    volatile uint8_t far_end[512 << 10];
    for (size_t i = 0; i < sizeof(far_end); i += 4096) {
        far_end[i] = 0;
    }
}

/// Goes every way once that operations will go: what they touch of the player is then there.
static void warm_up(void) {
    const uint64_t span = 2 << 20;
    const uint64_t start = PTRECLAIM_FIELD_START + 16 * span;
    touch_stack();
    find_features();
    reset();
    play_now(PTRECLAIM_PLAY_READ, start, 1, 0, 0);
    play_now(PTRECLAIM_PLAY_WRITE, start, 1, 0, 0);
    play_now(
        PTRECLAIM_PLAY_MMAP, start, 2 * span, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED);
    // More than once: the first call chooses how tables are freed, and maps what that takes.
    for (int i = 0; i < 3; i++) {
        play_now(PTRECLAIM_PLAY_WRITE, start + span, 1, 1, 0);
        play_now(PTRECLAIM_PLAY_MADVISE, start + span, 4096, PTRECLAIM_MADV_DONTNEED, 0);
        play_now(PTRECLAIM_PLAY_RECLAIM, start, 2 * span, 0, 0);
    }
    play_now(PTRECLAIM_PLAY_REGISTER, start, span, PTRECLAIM_UFFD_REGISTER_MISSING, 0);
    play_now(PTRECLAIM_PLAY_READ, start, 1, 0, 0);
    if (play_now(PTRECLAIM_PLAY_FORK, 0, 0, 0, 0) >= 0) {
        play_now(PTRECLAIM_PLAY_REAP, 0, 0, 0, 0);
    }
    reset();
}

__attribute__((noreturn)) void ptreclaim_player_run(
    struct ptreclaim_player_page *page, ptreclaim_reclaim_call reclaim) {
    self.page = page;
    self.reclaim = reclaim;
    self.userfaultfd = -1;
    catch_faults();
    warm_up();
    for (uint32_t done = 0;;) {
        uint32_t request;
        while ((request = __atomic_load_n(&page->request, __ATOMIC_ACQUIRE)) == done) {
            ptreclaim_shared_wait(&page->request, done, -1);
        }
        long result = play(&page->command);
        // An address is a result, too.
        page->result = result < 0 && result >= -4095 ? (int32_t)-result : 0;
        done = request;
        __atomic_store_n(&page->answer, done, __ATOMIC_RELEASE);
        ptreclaim_shared_wake(&page->answer);
    }
}
