// SPDX-License-Identifier: Apache-2.0
//
// Seccomp filters, before the program starts and after.

#include "victim.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct call {
    const char *name;
    unsigned number;
    unsigned request; // 0: any
};

static const struct call calls[] = {
    {"userfaultfd", SYS_userfaultfd, 0},
    {"close_range", SYS_close_range, 0},
    {"memfd_create", SYS_memfd_create, 0},
    {"clone3", SYS_clone3, 0},
    {"futex", SYS_futex, 0},
    {"pagemap_scan", SYS_ioctl, 0xc0606610},
    {"procmap_query", SYS_ioctl, 0xc0686611},
    {"uffdio_api", SYS_ioctl, 0xc018aa3f},
    {"uffdio_register", SYS_ioctl, 0xc020aa00},
    {"uffdio_wake", SYS_ioctl, 0x8010aa02},
};

static unsigned action_of(const char *text) {
    return strncmp(text, "kill:", 5) == 0     ? SECCOMP_RET_KILL_PROCESS
           : strncmp(text, "EPERM:", 6) == 0  ? SECCOMP_RET_ERRNO | EPERM
           : strncmp(text, "ENOSYS:", 7) == 0 ? SECCOMP_RET_ERRNO | ENOSYS
                                              : (exit(USAGE), 0);
}

static const struct call *call_of(const char *text) {
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        if (strcmp(calls[i].name, text) == 0) {
            return &calls[i];
        }
    }
    exit(USAGE);
}

static long raw_syscall(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c)
                     : "rcx", "r11", "memory");
    return result;
}

enum { BY_PRCTL = ~0u };

void filter_from_now_on(const char *description, unsigned flags, bool raw) {
    const struct call *call = call_of(strchr(description, ':') + 1);
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call->number, 0, 2),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call->request, 1, call->request ? 0 : 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, action_of(description)),
    };
    const struct sock_fprog filter = {sizeof(program) / sizeof(program[0]), program};
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "prctl");
    if (flags == (unsigned)BY_PRCTL) {
        must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) == 0, "prctl");
    } else if (raw) {
        must(
            raw_syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, (long)&filter) == 0, "seccomp");
    } else {
        must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter) == 0, "seccomp");
    }
}

static void filter_later(const char *description, unsigned flags, bool raw) {
    serve_and_say("before", true);
    nap(30);
    filter_from_now_on(description, flags, raw);
    serve_and_say("after", false);
    serve_and_say("again", false);
}

static void by_prctl(const char *description) { filter_later(description, BY_PRCTL, false); }
static void by_seccomp(const char *description) { filter_later(description, 0, false); }

static void on_all_threads(const char *description) {
    filter_later(description, SECCOMP_FILTER_FLAG_TSYNC, false);
}

static void unseen(const char *description) {
    filter_later(description, SECCOMP_FILTER_FLAG_TSYNC, true);
}

/// A child that confines itself, and what it forks.
static void child(const char *description) {
    serve_and_say("before", true);
    fflush(stdout);
    const pid_t first = fork();
    if (first == 0) {
        filter_from_now_on(description, 0, false);
        serve_and_say("child.freed", false);
        struct epoll_event event;
        epoll_wait(-1, &event, 1, 0); // here the library would start a thread
        fflush(stdout);
        const pid_t second = fork();
        if (second == 0) {
            serve_and_say("grandchild.freed", false);
            fflush(stdout);
            _exit(0);
        }
        int status = -1;
        waitpid(second, &status, 0);
        say("grandchild.status", status);
        say_page("child.");
        fflush(stdout);
        _exit(0);
    }
    int status = -1;
    waitpid(first, &status, 0);
    say("child.status", status);
    serve_and_say("after", true);
}

/// What libseccomp does to learn what there is: nothing changes by it.
static void asks(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL, 0, 0);
    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, NULL);
    serve_and_say("after", true);
}

const struct act filter_acts[] = {
    {"filter-by-prctl", by_prctl},
    {"filter-by-seccomp", by_seccomp},
    {"filter-all-threads", on_all_threads},
    {"filter-unseen", unseen},
    {"filter-in-child", child},
    {"filter-asked-for", asks},
    {NULL, NULL},
};
