// SPDX-License-Identifier: Apache-2.0

#include "player.h"

#include "player_wait.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static bool is_one_of(int fd, const int32_t *files, size_t file_count) {
    for (size_t i = 0; i < file_count; i++) {
        if (files[i] == fd) {
            return true;
        }
    }
    return false;
}

/// Whatever a player that never ends holds open would keep others waiting: readers of the runner's
/// output, the next runner.
static void close_all_but(const int32_t *files, size_t file_count) {
    for (int fd = 0; fd < 1024; fd++) {
        if (!is_one_of(fd, files, file_count)) {
            ptreclaim_close(fd);
        }
    }
}

int ptreclaim_player_start(
    struct ptreclaim_player *player, ptreclaim_reclaim_call reclaim, const int32_t *files,
    size_t file_count) {
    long page = ptreclaim_mmap(
        0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (page < 0) {
        return (int)page;
    }
    player->page = (struct ptreclaim_player_page *)page;
    pid_t runner = getpid();
    pid_t pid = fork();
    if (pid < 0) {
        int error = errno;
        ptreclaim_munmap((uintptr_t)page, 4096);
        player->page = 0;
        return -error;
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != runner) {
            _exit(1);
        }
        prctl(PR_SET_NAME, "ptreclaim-play");
        signal(SIGINT, SIG_IGN);
        signal(SIGTERM, SIG_IGN);
        signal(SIGHUP, SIG_IGN);
        close_all_but(files, file_count);
        ptreclaim_player_run(player->page, reclaim);
    }
    player->pid = pid;
    // Nothing to unmap yet: its answer says that the player is ready.
    ptreclaim_player_post(player, &(struct ptreclaim_command){.verb = PTRECLAIM_PLAY_RESET});
    return 0;
}

void ptreclaim_player_post(
    struct ptreclaim_player *player, const struct ptreclaim_command *command) {
    player->page->command = *command;
    __atomic_fetch_add(&player->page->request, 1, __ATOMIC_RELEASE);
    ptreclaim_shared_wake(&player->page->request);
}

int ptreclaim_player_await(struct ptreclaim_player *player, long milliseconds) {
    struct ptreclaim_player_page *page = player->page;
    const uint64_t deadline =
        ptreclaim_monotonic_nanoseconds() + (uint64_t)milliseconds * 1000000;
    for (;;) {
        uint32_t answer = __atomic_load_n(&page->answer, __ATOMIC_ACQUIRE);
        if (answer == page->request) {
            return 1;
        }
        // A player that died wakes nobody.
        ptreclaim_shared_wait(&page->answer, answer, 200);
        if (__atomic_load_n(&page->answer, __ATOMIC_ACQUIRE) == page->request) {
            return 1;
        }
        int status;
        if (waitpid(player->pid, &status, WNOHANG) == player->pid) {
            player->pid = 0;
            return -1 - status;
        }
        if (ptreclaim_monotonic_nanoseconds() > deadline) {
            return 0;
        }
    }
}

bool ptreclaim_player_stop(struct ptreclaim_player *player) {
    bool ended = player->pid <= 0;
    if (!ended) {
        kill(player->pid, SIGKILL);
        for (int tries = 0; tries < 2000 && !ended; tries++) {
            ended = waitpid(player->pid, 0, WNOHANG) != 0;
            if (!ended) {
                ptreclaim_sleep_milliseconds(1);
            }
        }
    }
    if (ended && player->page) {
        ptreclaim_munmap((uintptr_t)player->page, 4096);
    }
    player->pid = 0;
    player->page = 0;
    return ended;
}

// ---- files ------------------------------------------------------------------------------------

int ptreclaim_new_field_file(void) {
    int fd = ptreclaim_memfd(PTRECLAIM_FIELD_BYTES);
    return fd;
}

int ptreclaim_empty_field_file(int file) {
    const int punch_hole = 2 | 1; // FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    return (int)ptreclaim_syscall(
        SYS_fallocate, file, punch_hole, 0, (long)PTRECLAIM_FIELD_BYTES, 0, 0);
}

// ---- zeros ------------------------------------------------------------------------------------

/// The frame at `address` if kpageflags calls it a page of zeros (KPF_ZERO_PAGE), else 0.
static uint64_t zero_frame_at(uintptr_t address) {
    uint64_t entry = 0, flags = 0;
    int pagemap = ptreclaim_open_self_pagemap();
    int kpageflags = ptreclaim_open("/proc/kpageflags", O_RDONLY);
    long count = ptreclaim_pread(pagemap, &entry, 8, (off_t)(address / 4096 * 8));
    uint64_t frame = count == 8 && entry >> 63 ? entry & ((1ull << 55) - 1) : 0;
    count = ptreclaim_pread(kpageflags, &flags, 8, (off_t)(frame * 8));
    ptreclaim_close(pagemap);
    ptreclaim_close(kpageflags);
    return count == 8 && flags >> 24 & 1 ? frame : 0;
}

struct ptreclaim_zero_frames ptreclaim_find_zero_frames(void) {
    static struct ptreclaim_zero_frames found;
    if (found.page) {
        return found;
    }
    const size_t span = 2 << 20;
    const int dontfork = 10, hugepage = 14, nohugepage = 15;
    long start = ptreclaim_mmap(
        0, 3 * span, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start < 0) {
        return found;
    }
    uintptr_t aligned = ((uintptr_t)start + span - 1) & ~(span - 1);
    ptreclaim_madvise((uintptr_t)start, 3 * span, dontfork);
    ptreclaim_madvise(aligned, span, hugepage);
    ptreclaim_madvise(aligned + span, 4096, nohugepage);
    (void)*(volatile uint8_t *)aligned;
    (void)*(volatile uint8_t *)(aligned + span);
    found.page = zero_frame_at(aligned + span);
    found.huge = zero_frame_at(aligned);
    if (found.huge == found.page) {
        found.huge = 0; // no huge page was to be had
    }
    return found;
}

// ---- signals and other small things -----------------------------------------------------------

static volatile sig_atomic_t remembered_signal;

static void remember(int number) { remembered_signal = number; }

void ptreclaim_remember_signals(void) {
    struct sigaction action = {.sa_handler = remember};
    sigaction(SIGINT, &action, 0);
    sigaction(SIGTERM, &action, 0);
    sigaction(SIGHUP, &action, 0);
    sigaction(SIGPIPE, &action, 0);
}

int ptreclaim_remembered_signal(void) { return remembered_signal; }

void ptreclaim_sleep_milliseconds(long milliseconds) {
    struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&pause, 0);
}
