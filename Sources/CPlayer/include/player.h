// SPDX-License-Identifier: Apache-2.0
//
// A child process that plays one operation at a time, as a program would, and does nothing else:
// it allocates nothing, and all it needs was touched before the first operation, so whatever
// changes in its page tables is the operation's doing.
//
// Commands go through a page that is shared with the runner, who waits with a limit: a kernel that
// does not return from an operation must not take the runner along.

#ifndef PTRECLAIM_PLAYER_H
#define PTRECLAIM_PLAYER_H

#include "linux_mm.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

/// Where everything is played: nothing else is ever mapped in these 1 TiB.
#define PTRECLAIM_FIELD_START (1ull << 44)
#define PTRECLAIM_FIELD_BYTES (1ull << 40)

/// What a command does, with what in `argument`.
enum ptreclaim_verb {
    PTRECLAIM_PLAY_MMAP = 1, // protection, flags, fd, offset
    PTRECLAIM_PLAY_MUNMAP,
    PTRECLAIM_PLAY_MREMAP, // bytes, flags, address
    PTRECLAIM_PLAY_MPROTECT, // protection
    PTRECLAIM_PLAY_MADVISE, // advice
    PTRECLAIM_PLAY_MLOCK, // flags of mlock2
    PTRECLAIM_PLAY_MUNLOCK,
    PTRECLAIM_PLAY_READ,
    PTRECLAIM_PLAY_WRITE, // byte
    PTRECLAIM_PLAY_REGISTER, // mode
    PTRECLAIM_PLAY_UNREGISTER,
    PTRECLAIM_PLAY_WRITE_PROTECT, // mode
    PTRECLAIM_PLAY_RECLAIM,
    /// Forks a child that sleeps until PTRECLAIM_PLAY_REAP.
    PTRECLAIM_PLAY_FORK,
    PTRECLAIM_PLAY_REAP,
    /// Unmaps the field, and opens a new userfaultfd.
    PTRECLAIM_PLAY_RESET,
};

struct ptreclaim_command {
    uint32_t verb;
    uint64_t start;
    uint64_t byte_count;
    uint64_t argument[4];
};

/// The shared page. Words that are waited at are futexes.
struct ptreclaim_player_page {
    uint32_t request; // number of the command that was posted last
    uint32_t answer;  // number of the command that was answered last
    int32_t result;   // errno of that, 0 for none
    int32_t grandchild;
    uint32_t grandchild_ready;
    uint32_t grandchild_release;
    struct ptreclaim_command command;
};

/// `ptReclaim(range:access: .owned)`: errno, 0 for none.
typedef int32_t (*ptreclaim_reclaim_call)(uintptr_t start, uintptr_t end);

struct ptreclaim_player {
    int32_t pid;
    struct ptreclaim_player_page *_Nullable page;
};

/// Forks a player that keeps the descriptors of `files` open and no other, and posts the command
/// that it answers when it is ready. Returns 0 or -errno.
int ptreclaim_player_start(
    struct ptreclaim_player *player, ptreclaim_reclaim_call reclaim, const int32_t *files,
    size_t file_count);

/// Hands over a command. Before the last one is answered that is an error of the caller.
void ptreclaim_player_post(
    struct ptreclaim_player *player, const struct ptreclaim_command *command);

/// Waits for the answer. Returns 1 when it has come, 0 when time ran out, and where the player
/// has ended -1 - its wait status.
int ptreclaim_player_await(struct ptreclaim_player *player, long milliseconds);

/// Errno of the last answer.
static inline int32_t ptreclaim_player_result(const struct ptreclaim_player *player) {
    return player->page->result;
}

/// The child of the last PTRECLAIM_PLAY_FORK.
static inline int32_t ptreclaim_player_grandchild(const struct ptreclaim_player *player) {
    return player->page->grandchild;
}

/// Kills the player and waits for its end, but not for ever; true when it has ended. A kernel
/// that does not let go of it keeps it, and its page.
bool ptreclaim_player_stop(struct ptreclaim_player *player);

// ---- what the runner needs besides ------------------------------------------------------------

/// A file of a whole field's size that holds nothing, or -errno.
int ptreclaim_new_field_file(void);

/// Forgets everything that was written into `file`. Returns 0 or -errno.
int ptreclaim_empty_field_file(int file);

/// The page frames of the page of zeros and of the huge page of zeros, 0 where unknown. The huge
/// one is held on to from now on, so that its frame stays what it is.
struct ptreclaim_zero_frames {
    uint64_t page;
    uint64_t huge;
};
struct ptreclaim_zero_frames ptreclaim_find_zero_frames(void);

/// From now on SIGINT, SIGTERM, SIGHUP and SIGPIPE are only remembered.
void ptreclaim_remember_signals(void);

/// The signal that came, or 0.
int ptreclaim_remembered_signal(void);

/// Starts a keeper: a process that writes `values` into the files at `paths` as soon as the caller
/// is gone, in whatever way, and until then keeps one process on khugepaged's list, because
/// khugepaged wakes up when the list gets its first. Returns its process ID or -errno.
///
/// `lock` stays open in the keeper: what it is a lock of stays locked until all is put back.
int ptreclaim_keeper_start(
    const char *_Nonnull const *_Nonnull paths, const char *_Nonnull const *_Nonnull values,
    size_t count, int lock);

/// Lets the keeper put everything back, and waits for that.
void ptreclaim_keeper_stop(int pid);

/// Takes a lock that is held as long as the descriptor is open, here or in a child. Returns the
/// descriptor or -errno: EWOULDBLOCK where somebody else has it.
int ptreclaim_take_lock(const char *path);

/// `release` of uname(2), cut off after `byte_count` - 1 bytes.
void ptreclaim_kernel_release(char *text, size_t byte_count);

void ptreclaim_sleep_milliseconds(long milliseconds);

#pragma clang assume_nonnull end

#endif
