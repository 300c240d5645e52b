// SPDX-License-Identifier: Apache-2.0

#include "player.h"

#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

/// The pipe whose other end the keeper reads: it ends when the runner does.
static int life_line = -1;

static void put_back(const char *path, const char *value) {
    int fd = ptreclaim_open(path, O_WRONLY);
    if (fd >= 0) {
        ptreclaim_write(fd, value, strlen(value));
        ptreclaim_close(fd);
    }
}

int ptreclaim_keeper_start(
    const char *const *paths, const char *const *values, size_t count, int lock) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return -errno;
    }
    pid_t pid = fork();
    if (pid < 0) {
        return -errno;
    }
    if (pid > 0) {
        ptreclaim_close(ends[0]);
        life_line = ends[1];
        return pid;
    }
    // What is to be put back must be, whatever the terminal says to the process group.
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    for (int fd = 0; fd < 1024; fd++) {
        if (fd != ends[0] && fd != lock) {
            ptreclaim_close(fd);
        }
    }
    const int hugepage = 14;
    long span = ptreclaim_mmap(
        0, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (span > 0) {
        ptreclaim_madvise((uintptr_t)span, 4 << 20, hugepage);
    }
    char byte;
    while (read(ends[0], &byte, 1) < 0 && errno == EINTR) {
    }
    for (size_t i = count; i > 0; i--) {
        put_back(paths[i - 1], values[i - 1]);
    }
    _exit(0);
}

void ptreclaim_keeper_stop(int pid) {
    ptreclaim_close(life_line);
    life_line = -1;
    while (waitpid(pid, 0, 0) < 0 && errno == EINTR) {
    }
}

int ptreclaim_take_lock(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return -errno;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int error = errno;
        ptreclaim_close(fd);
        return -error;
    }
    return fd;
}

void ptreclaim_kernel_release(char *text, size_t byte_count) {
    struct utsname name;
    text[0] = 0;
    if (uname(&name) == 0) {
        strncpy(text, name.release, byte_count - 1);
        text[byte_count - 1] = 0;
    }
}
