// SPDX-License-Identifier: Apache-2.0
//
// What programs do to their processes: descriptors, limits, children, threads, privileges.

#include "victim.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

// ---- descriptors -------------------------------------------------------------------------------

static void closes(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    fflush(stdout);
    must(syscall(SYS_close_range, 0, ~0u, 0) == 0, "close_range");
    const long freed = serve(8000);
    reopen_output();
    say("after", freed);
}

static void dups(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    fflush(stdout);
    const int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 1024; fd++) {
        dup2(null, fd);
    }
    const long freed = serve(8000);
    reopen_output();
    say("after", freed);
}

static void uses_up(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    while (open("/dev/null", O_RDONLY) >= 0) {
    }
    must(errno == EMFILE, "there still is a number");
    serve_and_say("after", true);
}

static void no_files(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    must(setrlimit(RLIMIT_NOFILE, &(struct rlimit){0, 0}) == 0, "setrlimit");
    serve_and_say("after", true);
}

// ---- a userfaultfd of the program's own --------------------------------------------------------

static int open_userfaultfd(bool by_device) {
    int fd;
    if (by_device) {
        const int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        must(device >= 0, "/dev/userfaultfd");
        fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC);
        close(device);
    } else {
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    }
    must(fd >= 0, "userfaultfd");
    return fd;
}

/// Registers and unregisters what the library may be fencing right now. Returns errno.
static int use_userfaultfd(bool by_device, char *start, size_t count) {
    const int fd = open_userfaultfd(by_device);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register registration = {
        .range = {(uintptr_t)start, count}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    const int error = ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &registration)
                          ? errno
                          : 0;
    if (!error) {
        ioctl(fd, UFFDIO_UNREGISTER, &registration.range);
    }
    close(fd);
    return error;
}

static void own_userfaultfd(const char *argument) {
    serve_and_say("before", true);
    char *start = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    say("errno", use_userfaultfd(strcmp(argument, "device") == 0, start, 4 << 20));
    serve_and_say("after", false);
}

/// In children, as the library gives way once in a process: each begins to be served, and takes its
/// memory while the first fences are up.
static void userfaultfd_races(const char *argument) {
    const long count = strtol(argument, NULL, 0);
    long refused = 0, broken = 0, served = 0;
    const size_t bytes = 16 << 20;
    char *mapped = mmap(
        NULL, bytes + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *start = (char *)(((uintptr_t)mapped + (2 << 20) - 1) & ~(uintptr_t)((2 << 20) - 1));
    for (long i = 0; i < count; i++) {
        const pid_t child = fork();
        if (child == 0) {
            madvise(start, bytes, MADV_NOHUGEPAGE);
            for (size_t at = 0; at < bytes; at += 2 << 20) {
                start[at] = 1;
                madvise(start + at, 4096, MADV_DONTNEED);
            }
            start_a_thread();
            usleep((useconds_t)(i * 37 % 2000));
            // Whether one was freed already.
            unsigned char resident;
            (void)mincore(start, 1, &resident);
            _exit(use_userfaultfd(i % 2, start, bytes));
        }
        int status = -1;
        waitpid(child, &status, 0);
        refused += WIFEXITED(status) && WEXITSTATUS(status) == EBUSY;
        broken += !WIFEXITED(status) || (WEXITSTATUS(status) && WEXITSTATUS(status) != EBUSY);
        served++;
    }
    say("tries", served);
    say("busy", refused);
    say("broken", broken);
}

// ---- mappings, files, memory -------------------------------------------------------------------

static void many_mappings(const char *argument) {
    (void)argument;
    const long pages = 70000;
    char limit[32] = "";
    FILE *file = fopen("/proc/sys/vm/max_map_count", "r");
    if (!file || !fgets(limit, sizeof(limit), file) || strtol(limit, NULL, 10) > 2 * pages) {
        skip("needs vm.max_map_count below 140000");
    }
    serve_and_say("before", true);
    char *start = mmap(
        NULL, (size_t)pages * 2 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
        0);
    for (long i = 0; i < pages && mprotect(start + i * 8192 + 4096, 4096, PROT_READ) == 0; i++) {
    }
    void *more[4];
    int count = 0;
    while (count < 4
           && (more[count] = mmap(NULL, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0))
                  != MAP_FAILED) {
        count++;
    }
    serve_and_say("full", false);
    munmap(start, (size_t)pages * 2 * 4096);
    serve_and_say("after", true);
}

static void loses_procfs(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)
        || umount2("/proc", MNT_DETACH)) {
        skip("needs CAP_SYS_ADMIN");
    }
    must(access("/proc/self/maps", F_OK) != 0, "procfs is still there");
    serve_and_say("after", true);
}

static void fork_and_say(const char *prefix, bool wanted) {
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        char name[64];
        start_a_thread();
        (void)serve(1); // something is mapped or purged: there is need
        start_a_thread();
        snprintf(name, sizeof(name), "%sfreed", prefix);
        serve_and_say(name, wanted);
        say_page(prefix);
        fflush(stdout);
        _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    printf("%sstatus: %d\n", prefix, status);
}

static void changes_root(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    char directory[] = "/tmp/mode-victim-XXXXXX";
    must(mkdtemp(directory) != NULL, "mkdtemp");
    must(chdir(directory) == 0 && rmdir(directory) == 0, "chdir"); // nothing is left behind
    if (chroot(".")) {
        skip("needs CAP_SYS_CHROOT");
    }
    serve_and_say("after", true);
    fork_and_say("child.", false);
}

static long resident_kib(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    long total = 0, resident = 0;
    must(file && fscanf(file, "%ld %ld", &total, &resident) == 2, "statm");
    fclose(file);
    return resident * 4;
}

static void locks_all(const char *argument) {
    (void)argument;
    if (mlockall(MCL_CURRENT | MCL_FUTURE)) {
        skip("needs CAP_IPC_LOCK");
    }
    start_a_thread();
    nap(200);
    say("resident_kib", resident_kib());
    munlockall();
    serve_and_say("after", true);
}

static void address_space_ends(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    must(setrlimit(RLIMIT_AS, &(struct rlimit){4096, 4096}) == 0, "setrlimit");
    must(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED, "limit");
    serve_and_say("after", true);
}

/// In a group of memory at its limit; the argument is its directory.
static void memory_ends(const char *group) {
    char path[256];
    serve_and_say("before", true);
    snprintf(path, sizeof(path), "%s/cgroup.procs", group);
    FILE *file = fopen(path, "w");
    must(file && fprintf(file, "%d\n", (int)getpid()) > 0 && fclose(file) == 0, "cgroup.procs");
    // Of a file, so that the kernel has something to take back whenever it needs to.
    const int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    must(fd >= 0, "O_TMPFILE");
    static char block[1 << 20];
    for (int i = 0; i < 48; i++) {
        (void)!write(fd, block, sizeof(block));
    }
    serve_and_say("after", true);
}

/// As who has a libc of his own does it: no library sees that.
static void *bare_mremap(void *old, size_t old_count, size_t new_count, int flags, ...) {
    register long fourth __asm__("r10") = flags;
    void *result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(SYS_mremap), "D"(old), "S"(old_count), "d"(new_count), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
}

/// The last span of a mapping is empty and may be fenced when the mapping grows: again and again, until
/// there have been so many fences. Returns the last page.
static char *grow_beside_fences(
    unsigned long fence_count,
    void *(*mremap)(void *old, size_t old_count, size_t new_count, int flags, ...)) {
    enum { SPAN_BYTES = 2 << 20, PAGE_BYTES = 4096 };
    // Where nobody else looks for room: the hole behind it stays one.
    char *const place = (char *)0x300000000000;
    char *const start = mmap(place, SPAN_BYTES, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    must(start == place && !madvise(start, SPAN_BYTES, MADV_NOHUGEPAGE), "mmap");
    char *const end = start + SPAN_BYTES, *const last = end - PAGE_BYTES;
    const double limit = now() + 30;
    double longest = 0;
    long grown = 0, refused = 0;
    for (long i = 0; fences() < fence_count && now() < limit; i++) {
        *last = 1;
        madvise(last, PAGE_BYTES, MADV_DONTNEED);
        nap(i % 50); // in mode scan two passes have to find it empty
        const double began = now();
        if (mremap(last, PAGE_BYTES, SPAN_BYTES, 0) != last) {
            refused++;
            continue;
        }
        *end = 1;
        const double length = now() - began;
        longest = length > longest ? length : longest;
        grown++;
        must(mremap(last, SPAN_BYTES, PAGE_BYTES, 0) == last, "mremap");
    }
    say("grown", grown);
    say("refused", refused);
    say("longest_ms", (long)(longest * 1e3));
    return last;
}

static void grows_beside_fences(const char *argument) {
    char *const page = grow_beside_fences(strtoul(argument, NULL, 10), mremap);
    const int no_flag = 0x100;
    must(mremap(page, 4096, 8192, no_flag) == MAP_FAILED && errno == EINVAL, "mremap");
}

static void grows_unseen_beside_fences(const char *argument) {
    grow_beside_fences(strtoul(argument, NULL, 10), bare_mremap);
}

// ---- children ----------------------------------------------------------------------------------

static void forks(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    fork_and_say("child.", true);
    long wrong = 0;
    for (int i = 0; i < 300; i++) {
        const pid_t child = fork();
        if (child == 0) {
            _exit(0);
        }
        int status = -1;
        waitpid(child, &status, 0);
        wrong += status != 0;
    }
    say("wrong_children", wrong);
    serve_and_say("after", true);
}

static void *fork_again_and_again(void *argument) {
    const atomic_bool *stop = argument;
    while (!atomic_load(stop)) {
        const pid_t child = fork();
        if (child == 0) {
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    return NULL;
}

/// While another thread forks almost all the time, as it has a lot to copy.
static void purges_beside_forks(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    const size_t count = 256 << 20;
    char *ballast = mmap(NULL, count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(ballast != MAP_FAILED && !madvise(ballast, count, MADV_NOHUGEPAGE), "mmap");
    memset(ballast, 1, count);
    static atomic_bool stop;
    pthread_t forker;
    must(pthread_create(&forker, NULL, fork_again_and_again, &stop) == 0, "pthread_create");
    long freed = 0;
    const long tries = 10;
    for (long i = 0; i < tries; i++) {
        freed += serve(2000);
    }
    atomic_store(&stop, true);
    pthread_join(forker, NULL);
    say("missed", tries * EMPTY - freed);
}

/// A child that is not to be served, and what it executes.
static void forks_alone(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    fork_and_say("child.", false);
    say("preload_is_in_environment", getenv("LD_PRELOAD") && *getenv("LD_PRELOAD"));
    fflush(stdout);
    char *const command[] = {
        "/bin/sh", "-c", "grep -c ptreclaim-preload /proc/self/maps | sed 's/^/executed: /'", NULL};
    pid_t child;
    must(posix_spawn(&child, command[0], NULL, NULL, command, environ) == 0, "posix_spawn");
    waitpid(child, NULL, 0);
}

static void spawns(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    long wrong = 0;
    char *const command[] = {"/bin/true", NULL};
    for (int i = 0; i < 60; i++) {
        pid_t child = -1;
        if (i % 2) {
            (void)serve(1);
            wrong += posix_spawn(&child, command[0], NULL, NULL, command, NULL) != 0;
        } else {
            child = vfork();
            if (child == 0) {
                execve(command[0], command, NULL);
                _exit(1);
            }
        }
        int status = -1;
        waitpid(child, &status, 0);
        wrong += status != 0;
    }
    say("wrong_children", wrong);
    serve_and_say("after", true);
}

static void becomes_a_daemon(const char *argument) {
    (void)argument;
    int ends[2];
    serve_and_say("before", true);
    fflush(stdout);
    must(pipe(ends) == 0, "pipe");
    const pid_t child = fork();
    if (child == 0) {
        must(daemon(1, 1) == 0, "daemon");
        (void)serve(1);
        const int epoll = epoll_create1(0);
        struct epoll_event event;
        epoll_wait(epoll, &event, 1, 0); // here a server of one thread gets its service thread
        serve_and_say("daemon.freed", true);
        say_page("daemon.");
        fflush(stdout);
        (void)!write(ends[1], "d", 1);
        _exit(0);
    }
    close(ends[1]);
    char done;
    say("daemon.is_done", read(ends[0], &done, 1) == 1);
    waitpid(child, NULL, 0);
}

// ---- the end -----------------------------------------------------------------------------------

static void *work_on(void *argument) {
    nap(300);
    printf("worker: 1\n"); // written by exit(3), when the last thread has left
    return argument;
}

static void first_thread_leaves(const char *argument) {
    serve_and_say("before", true);
    pthread_t thread;
    must(pthread_create(&thread, NULL, work_on, NULL) == 0, "pthread_create");
    if (strcmp(argument, "unseen") == 0) {
        fflush(stdout);
        syscall(SYS_exit, 0);
    }
    pthread_exit(NULL);
}

static void *end_process(void *how) {
    usleep(1000 + (useconds_t)((uintptr_t)how * 131 % 4000));
    switch ((uintptr_t)how % 3) {
    case 0: exit(7);
    case 1: _exit(7);
    default: abort();
    }
}

static void ends_in_the_middle(const char *argument) {
    (void)argument;
    long wrong = 0;
    serve_and_say("before", true);
    fflush(stdout);
    for (uintptr_t i = 0; i < 90; i++) {
        const pid_t child = fork();
        if (child == 0) {
            setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
            pthread_t thread;
            (void)serve(1);
            must(pthread_create(&thread, NULL, end_process, (void *)i) == 0, "pthread_create");
            for (;;) {
                (void)serve(3);
            }
        }
        int status = -1;
        waitpid(child, &status, 0);
        wrong += i % 3 == 2 ? !WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT
                            : !WIFEXITED(status) || WEXITSTATUS(status) != 7;
    }
    say("wrong_children", wrong);
}

static void *touch_and_unmap(void *how) {
    int before;
    pthread_setcanceltype(
        how ? PTHREAD_CANCEL_ASYNCHRONOUS : PTHREAD_CANCEL_DEFERRED, &before);
    for (;;) {
        char *start = mmap(
            NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (size_t at = 0; at < 8 << 20; at += 1 << 20) {
            start[at] = 1;
            madvise(start + at, 4096, MADV_DONTNEED);
        }
        usleep(500);
        for (size_t at = 0; at < 8 << 20; at += 1 << 20) {
            start[at] = 1;
        }
        munmap(start, 8 << 20);
        pthread_testcancel();
    }
    return NULL;
}

static void cancels(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    long wrong = 0;
    for (uintptr_t i = 0; i < 200; i++) {
        pthread_t thread;
        void *result = NULL;
        must(pthread_create(&thread, NULL, touch_and_unmap, (void *)(i % 2)) == 0, "pthread_create");
        usleep((useconds_t)(i * 53 % 3000));
        pthread_cancel(thread);
        pthread_join(thread, &result);
        wrong += result != PTHREAD_CANCELED;
    }
    say("wrong_results", wrong);
    serve_and_say("after", true);
}

// ---- privileges and namespaces -----------------------------------------------------------------

static void drops_privileges(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    for (int i = 0; i < 200; i++) {
        (void)serve(1);
        must(setresuid(0, 0, 0) == 0, "setresuid");
    }
    must(!setgroups(0, NULL) && !setgid(65534) && !setuid(65534), "setuid");
    serve_and_say("after", true);
    fork_and_say("child.", false);
}

static void namespaces(const char *argument) {
    (void)argument;
    serve_and_say("before", true);
    const int own = open("/proc/self/ns/mnt", O_RDONLY);
    say("setns", setns(own, CLONE_NEWNS) ? errno : 0);
    start_a_thread();
    serve_and_say("after_setns", true);
    const int first = unshare(CLONE_NEWUSER) ? errno : 0;
    say("unshare", first);
    start_a_thread();
    serve_and_say("after_unshare", false);
}

/// An allocator's traffic, of threads that end.
static void *allocate(void *seed) {
    void *blocks[64] = {NULL};
    for (uintptr_t i = 0; i < 6000; i++) {
        const uintptr_t at = (i * 2654435761u + (uintptr_t)seed * 40503u) >> 7;
        free(blocks[at % 64]);
        const size_t count = at % 16 == 0 ? (size_t)(1 + at % 3) << 20 : 64 + at % 32768;
        unsigned char *block = malloc(count);
        must(block != NULL, "malloc");
        block[0] = block[count - 1] = (unsigned char)i;
        blocks[at % 64] = block;
    }
    for (size_t i = 0; i < 64; i++) {
        free(blocks[i]);
    }
    return NULL;
}

static void allocates(const char *argument) {
    (void)argument;
    for (int round = 0; round < 2; round++) {
        pthread_t threads[3];
        for (uintptr_t i = 0; i < 3; i++) {
            must(pthread_create(&threads[i], NULL, allocate, (void *)i) == 0, "pthread_create");
        }
        for (int i = 0; i < 3; i++) {
            pthread_join(threads[i], NULL);
        }
    }
    serve_and_say("after", true);
}

const struct act process_acts[] = {
    {"closes", closes},
    {"dups", dups},
    {"uses-up-descriptors", uses_up},
    {"no-files", no_files},
    {"own-userfaultfd", own_userfaultfd},
    {"userfaultfd-races", userfaultfd_races},
    {"many-mappings", many_mappings},
    {"loses-procfs", loses_procfs},
    {"changes-root", changes_root},
    {"locks-all", locks_all},
    {"address-space-ends", address_space_ends},
    {"memory-ends", memory_ends},
    {"grows-beside-fences", grows_beside_fences},
    {"grows-unseen-beside-fences", grows_unseen_beside_fences},
    {"forks", forks},
    {"purges-beside-forks", purges_beside_forks},
    {"forks-alone", forks_alone},
    {"spawns", spawns},
    {"daemon", becomes_a_daemon},
    {"first-thread-leaves", first_thread_leaves},
    {"ends-in-the-middle", ends_in_the_middle},
    {"cancels", cancels},
    {"drops-privileges", drops_privileges},
    {"namespaces", namespaces},
    {"allocates", allocates},
    {NULL, NULL},
};
