// SPDX-License-Identifier: Apache-2.0
//
// Other processes that look in, futexes, signals, threads, and memory management itself.

#include "paths.h"

#include "linux_mm.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// ---- from another process ----------------------------------------------------------------------

enum question { READ_VM, WRITE_VM, READ_MEM, WRITE_MEM, PEEK, POKE };

static char copy[BUFFER_BYTES];

static long look_in(enum question question, pid_t process, pid_t thread, char *buffer) {
    struct iovec here = {copy, BUFFER_BYTES}, there = {buffer, BUFFER_BYTES};
    char name[64];
    snprintf(name, sizeof(name), "/proc/%d/mem", process);
    int status;
    long result = 0;
    if (question == READ_VM || question == READ_MEM) {
        memset(copy, 1, sizeof(copy));
    } else {
        memcpy(copy, pattern, sizeof(copy));
    }
    switch (question) {
    case READ_VM: return told(process_vm_readv(process, &here, 1, &there, 1, 0));
    case WRITE_VM: return told(process_vm_writev(process, &here, 1, &there, 1, 0));
    case READ_MEM:
    case WRITE_MEM: {
        int fd = open(name, O_RDWR);
        result = told(
            question == READ_MEM ? pread(fd, copy, BUFFER_BYTES, (off_t)(uintptr_t)buffer)
                                 : pwrite(fd, copy, BUFFER_BYTES, (off_t)(uintptr_t)buffer));
        close(fd);
        return result;
    }
    default: break;
    }
    if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) < 0
        || ptrace(PTRACE_INTERRUPT, thread, NULL, NULL) < 0
        || waitpid(thread, &status, __WALL) != thread) {
        give_up("ptrace");
    }
    errno = 0;
    if (question == PEEK) {
        long word = ptrace(PTRACE_PEEKDATA, thread, buffer, NULL);
        result = errno ? -errno : word;
    } else {
        long word;
        memcpy(&word, pattern, sizeof(word));
        result = told(ptrace(PTRACE_POKEDATA, thread, buffer, word));
    }
    ptrace(PTRACE_DETACH, thread, NULL, NULL);
    return result;
}

struct wish {
    enum question question;
    pid_t process, thread;
    char *buffer;
};

static const char *start_helper(struct stage *stage) {
    int questions[2], answers[2];
    if (pipe(questions) < 0 || pipe(answers) < 0) {
        give_up("pipe");
    }
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    stage->helper = fork();
    if (stage->helper == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(questions[1]);
        struct wish wish;
        while (read(questions[0], &wish, sizeof(wish)) == sizeof(wish)) {
            long result = look_in(wish.question, wish.process, wish.thread, wish.buffer);
            if (write(answers[1], &result, sizeof(result)) != sizeof(result)) {
                break;
            }
        }
        _exit(0);
    }
    stage->ask = questions[1];
    stage->answer = answers[0];
    return NULL;
}

static long ask(struct stage *stage, enum question question) {
    struct wish wish = {question, getpid(), stage->accessor, stage->buffer};
    long result = 0;
    if (write(stage->ask, &wish, sizeof(wish)) != sizeof(wish)
        || read(stage->answer, &result, sizeof(result)) != sizeof(result)) {
        give_up("helper");
    }
    return result;
}

static long call_vm_read(struct stage *stage) { return ask(stage, READ_VM); }
static long call_vm_write(struct stage *stage) { return ask(stage, WRITE_VM); }
static long call_mem_read(struct stage *stage) { return ask(stage, READ_MEM); }
static long call_mem_write(struct stage *stage) { return ask(stage, WRITE_MEM); }
static long call_peek(struct stage *stage) { return ask(stage, PEEK); }
static long call_poke(struct stage *stage) { return ask(stage, POKE); }

static bool has_word(struct stage *stage) {
    return memcmp(stage->buffer, pattern, sizeof(long)) == 0;
}

// ---- futexes -----------------------------------------------------------------------------------

static uint32_t *word_of(struct stage *stage) {
    return (uint32_t *)(void *)stage->buffer;
}

static long futex(
    uint32_t *word, int operation, uint32_t value, const void *time, uint32_t *other,
    uint32_t third) {
    return told(syscall(SYS_futex, word, operation, value, time, other, third));
}

static const struct timespec soon = {0, 100000};

static long call_futex_wait(struct stage *stage) {
    return futex(word_of(stage), FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0); // EAGAIN: it is 0
}

static long call_futex_wait_timeout(struct stage *stage) {
    return futex(word_of(stage), FUTEX_WAIT_PRIVATE, 0, &soon, NULL, 0);
}

static long call_futex_wait_shared(struct stage *stage) {
    return futex(word_of(stage), FUTEX_WAIT, 1, NULL, NULL, 0);
}

static long call_futex_wake(struct stage *stage) {
    return futex(word_of(stage), FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static long call_futex_wake_shared(struct stage *stage) {
    return futex(word_of(stage), FUTEX_WAKE, 1, NULL, NULL, 0);
}

static long call_futex_requeue(struct stage *stage) {
    static uint32_t other;
    return futex(word_of(stage), FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)1, &other, 0);
}

static long call_futex_wake_op(struct stage *stage) {
    static uint32_t first;
    int add_one = FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_EQ, 0);
    return futex(
        &first, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, word_of(stage), (uint32_t)add_one);
}

static bool word_is_one(struct stage *stage) {
    return *word_of(stage) == 1;
}

static long call_futex_lock_pi(struct stage *stage) {
    return futex(word_of(stage), FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0);
}

static long call_futex_trylock_pi(struct stage *stage) {
    return futex(word_of(stage), FUTEX_TRYLOCK_PI_PRIVATE, 0, NULL, NULL, 0);
}

static long call_futex_unlock_pi(struct stage *stage) {
    return futex(word_of(stage), FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0); // EPERM: not ours
}

static bool word_is_ours(struct stage *stage) {
    return (*word_of(stage) & FUTEX_TID_MASK) == (uint32_t)stage->accessor;
}

static long call_futex_requeue_pi(struct stage *stage) {
    static uint32_t first;
    // Nobody waits on `first`, so all that is done with the second word is to find its key.
    return futex(&first, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, (void *)1, word_of(stage), 0);
}

static long call_futex_waitv(struct stage *stage) {
    struct { uint64_t value, address; uint32_t flags, reserved; } one = {
        1, (uintptr_t)stage->buffer, FUTEX_32 | FUTEX_PRIVATE_FLAG, 0};
    return told(syscall(SYS_futex_waitv, &one, 1, 0, NULL, 0));
}

// ---- signals -----------------------------------------------------------------------------------

static atomic_uint handled;

static void on_alternate_stack(int signal) {
    (void)signal;
    atomic_fetch_add(&handled, 1);
}

static const char *move_signal_stack(struct stage *stage) {
    stack_t stack = {.ss_sp = stage->buffer, .ss_size = 16 * PAGE_BYTES};
    struct sigaction action = {.sa_handler = on_alternate_stack, .sa_flags = SA_ONSTACK};
    if (sigaltstack(&stack, NULL) < 0 || sigaction(SIGUSR2, &action, NULL) < 0) {
        give_up("sigaltstack");
    }
    return NULL;
}

static long call_signal(struct stage *stage) {
    unsigned before = atomic_load(&handled);
    syscall(SYS_tgkill, getpid(), stage->accessor, SIGUSR2);
    return (long)(atomic_load(&handled) - before);
}

static long call_sigpending(struct stage *stage) {
    return told(syscall(SYS_rt_sigpending, stage->buffer, 8));
}

// ---- threads -----------------------------------------------------------------------------------

static const char *unregister_rseq(struct stage *stage) {
    (void)stage;
    char *own = (char *)__builtin_thread_pointer() + __rseq_offset;
    if (syscall(SYS_rseq, own, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) < 0) {
        return "the C library has no rseq";
    }
    return NULL;
}

static long call_rseq(struct stage *stage) {
    if (syscall(SYS_rseq, stage->buffer, 32, 0, RSEQ_SIG) < 0) {
        return -errno;
    }
    sched_yield();
    return 0;
}

static bool rseq_has_cpu(struct stage *stage) {
    uint32_t cpu = ((struct rseq *)(void *)stage->buffer)->cpu_id;
    syscall(SYS_rseq, stage->buffer, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
    return cpu < 4096;
}

static atomic_uint leave; // a futex word
static _Alignas(16) char small_stack[65536];

static int wait_and_leave(void *robust_head) {
    if (robust_head) {
        syscall(SYS_set_robust_list, robust_head, 24);
    }
    while (!atomic_load(&leave)) {
        syscall(SYS_futex, &leave, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    }
    return 0;
}

static pid_t leaver;

static void start_leaver(struct stage *stage, int flags, void *argument) {
    atomic_store(&leave, 0);
    leaver = clone(
        wait_and_leave, small_stack + sizeof(small_stack),
        CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | flags,
        argument, NULL, NULL, stage->buffer);
    if (leaver < 0) {
        give_up("clone");
    }
    usleep(1000); // it sets its robust list
}

static void start_clear_tid(struct stage *stage) {
    start_leaver(stage, CLONE_CHILD_CLEARTID, NULL);
}

static void start_robust(struct stage *stage) {
    start_leaver(stage, 0, stage->buffer);
}

static long call_leave(struct stage *stage) {
    (void)stage;
    atomic_store(&leave, 1);
    syscall(SYS_futex, &leave, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    while (syscall(SYS_tgkill, getpid(), leaver, 0) == 0) {
        sched_yield();
    }
    return 0;
}

// A joiner sleeps on a thread id, and the page that had it is discarded: the exit's wake is all
// that is left to it.
static pthread_t joiner;

static void *join_by_tid(void *word) {
    const struct timespec patience = {0, 50000000};
    return (void *)(intptr_t)futex(word, FUTEX_WAIT, (uint32_t)leaver, &patience, NULL, 0);
}

static void start_clear_tid_and_joiner(struct stage *stage) {
    start_leaver(stage, CLONE_CHILD_CLEARTID, NULL);
    *word_of(stage) = (uint32_t)leaver;
    if (pthread_create(&joiner, NULL, join_by_tid, word_of(stage))) {
        give_up("thread");
    }
    usleep(2000); // it sleeps
}

static long call_leave_and_join(struct stage *stage) {
    void *result;
    call_leave(stage);
    pthread_join(joiner, &result);
    return (long)(intptr_t)result;
}

static long call_set_tid(struct stage *stage) {
    atomic_store(&leave, 1);
    leaver = clone(
        wait_and_leave, small_stack + sizeof(small_stack),
        CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM
            | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID,
        NULL, stage->buffer, NULL, stage->buffer + PAGE_BYTES);
    while (leaver > 0 && syscall(SYS_tgkill, getpid(), leaver, 0) == 0) {
        sched_yield();
    }
    return leaver > 0 ? 0 : -errno;
}

static bool tids_are_set(struct stage *stage) {
    return *word_of(stage) == (uint32_t)leaver
           && *(uint32_t *)(void *)(stage->buffer + PAGE_BYTES) == (uint32_t)leaver;
}

/// The child shares the memory until it has become /bin/true. Its arguments are an empty array.
static int become_true(void *arguments) {
    execve("/bin/true", arguments, NULL);
    _exit(errno);
}

static long call_execve(struct stage *stage) {
    int status = 0;
    pid_t child = clone(
        become_true, small_stack + sizeof(small_stack), CLONE_VM | CLONE_VFORK | SIGCHLD,
        stage->buffer);
    if (child < 0 || waitpid(child, &status, 0) != child) {
        return -errno;
    }
    return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

// ---- the dump ----------------------------------------------------------------------------------

/// The dump is of the process that the fence is in, and ends it: so in a child with a fence of its
/// own. The span must be in it, as a hole or as zeros.
static long call_core_dump(struct stage *stage) {
    int status = 0;
    char directory[] = "/var/tmp/fence-paths-XXXXXX";
    if (!mkdtemp(directory)) {
        give_up("directory");
    }
    pid_t child = fork();
    if (child == 0) {
        struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
        int fd = ptreclaim_open_userfaultfd();
        struct ptreclaim_uffd_register registration = {
            .range = {(uintptr_t)stage->span, SPAN_BYTES},
            .mode = PTRECLAIM_UFFD_REGISTER_MISSING};
        alarm(5);
        signal(SIGABRT, SIG_DFL); // the Swift runtime may have put a backtrace there
        if (chdir(directory) < 0 || setrlimit(RLIMIT_CORE, &all) < 0
            || ptreclaim_ioctl(fd, PTRECLAIM_UFFDIO_REGISTER, &registration) < 0) {
            _exit(1);
        }
        abort();
    }
    waitpid(child, &status, 0);
    DIR *entries = opendir(directory);
    struct stat core = {0};
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (entry->d_name[0] != '.') {
            fstatat(dirfd(entries), entry->d_name, &core, 0);
            unlinkat(dirfd(entries), entry->d_name, 0);
        }
    }
    closedir(entries);
    rmdir(directory);
    if (!WIFSIGNALED(status) || !WCOREDUMP(status)) {
        return -EIO;
    }
    return core.st_size > SPAN_BYTES ? 0 : 1;
}

static const char *look_where_cores_go(struct stage *stage) {
    (void)stage;
    char core[8] = "";
    int fd = open("/proc/sys/kernel/core_pattern", O_RDONLY);
    ssize_t count = read(fd, core, sizeof(core) - 1);
    close(fd);
    if (count <= 0 || core[0] == '|' || core[0] == '/') {
        return "cores do not go to the working directory";
    }
    return NULL;
}

// ---- memory management -------------------------------------------------------------------------

static long call_mlock(struct stage *stage) {
    return told(mlock(stage->buffer, BUFFER_BYTES));
}

static bool unlock(struct stage *stage) {
    return buffer_is_zero(stage) && munlock(stage->buffer, BUFFER_BYTES) == 0;
}

static long call_mlock_onfault(struct stage *stage) {
    return told(syscall(SYS_mlock2, stage->buffer, BUFFER_BYTES, 1));
}

static long call_mlockall(struct stage *stage) {
    (void)stage;
    return told(mlockall(MCL_CURRENT));
}

static bool unlock_all(struct stage *stage) {
    return buffer_is_zero(stage) && munlockall() == 0;
}

static long call_populate_write(struct stage *stage) {
    return told(madvise(stage->buffer, BUFFER_BYTES, 23));
}

static long call_populate_read(struct stage *stage) {
    return told(madvise(stage->buffer, BUFFER_BYTES, 22));
}

static long call_move_pages(struct stage *stage) {
    void *pages[] = {stage->buffer};
    int node = 0, status = 0;
    long result = told(syscall(SYS_move_pages, 0, 1, pages, &node, &status, 2));
    return result < 0 ? result : status; // ENOENT: there is no page
}

static long call_move_pages_status(struct stage *stage) {
    void *pages[] = {&leave};
    return told(syscall(SYS_move_pages, 0, 1, pages, NULL, stage->buffer, 2));
}

static long call_migrate_pages(struct stage *stage) {
    (void)stage;
    unsigned long nodes = 1;
    return told(syscall(SYS_migrate_pages, 0, 8, &nodes, &nodes));
}

static long call_get_mempolicy(struct stage *stage) {
    int node = -1;
    long result = told(syscall(SYS_get_mempolicy, &node, NULL, 0, stage->buffer, 3));
    return result < 0 ? result : node;
}



const struct path process_paths[] = {
    {"process-vm-readv", start_helper, NULL, call_vm_read, BUFFER_BYTES, NULL, 0, 0},
    {"process-vm-writev", start_helper, NULL, call_vm_write, BUFFER_BYTES, buffer_has_pattern, 0,
     0},
    {"proc-mem-read", start_helper, NULL, call_mem_read, BUFFER_BYTES, NULL, 0, 0},
    {"proc-mem-write", start_helper, NULL, call_mem_write, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"ptrace-peek", start_helper, NULL, call_peek, 0, NULL, 0, 0},
    {"ptrace-poke", start_helper, NULL, call_poke, 0, has_word, 0, 0},
    {"futex-wait", NULL, NULL, call_futex_wait, -EAGAIN, NULL, 0, 0},
    {"futex-wait-timeout", NULL, NULL, call_futex_wait_timeout, -ETIMEDOUT, NULL, 0, 0},
    {"futex-wait-shared", NULL, NULL, call_futex_wait_shared, -EAGAIN, NULL, 0, 0},
    {"futex-wake", NULL, NULL, call_futex_wake, 0, NULL, 0, 0},
    {"futex-wake-shared", NULL, NULL, call_futex_wake_shared, 0, NULL, 0, 0},
    {"futex-cmp-requeue", NULL, NULL, call_futex_requeue, 0, NULL, 0, 0},
    {"futex-wake-op", NULL, NULL, call_futex_wake_op, 0, word_is_one, 0, 0},
    {"futex-lock-pi", NULL, NULL, call_futex_lock_pi, 0, word_is_ours, 0, 0},
    {"futex-trylock-pi", NULL, NULL, call_futex_trylock_pi, 0, word_is_ours, 0, 0},
    {"futex-unlock-pi", NULL, NULL, call_futex_unlock_pi, -EPERM, NULL, 0, 0},
    {"futex-cmp-requeue-pi", NULL, NULL, call_futex_requeue_pi, 0, NULL, 0, 0},
    {"futex-waitv", NULL, NULL, call_futex_waitv, -EAGAIN, NULL, 0, 0},
    {"signal-stack", move_signal_stack, NULL, call_signal, 1, NULL, 0, 0},
    {"sigpending", NULL, NULL, call_sigpending, 0, NULL, 0, 0},
    {"rseq", unregister_rseq, NULL, call_rseq, 0, rseq_has_cpu, 0, 0},
    {"set-tid", NULL, NULL, call_set_tid, 0, tids_are_set, 0, 0},
    {"clear-tid-at-exit", NULL, start_clear_tid, call_leave, 0, buffer_is_zero, 0, 0},
    {"clear-tid-wake", NULL, start_clear_tid_and_joiner, call_leave_and_join, 0, NULL, 0, 0},
    {"robust-list-at-exit", NULL, start_robust, call_leave, 0, buffer_is_zero, 0, 0},
    {"execve-arguments", NULL, NULL, call_execve, 0, NULL, 0, 0},
    {"mlock", NULL, NULL, call_mlock, 0, unlock, 0, 0},
    {"mlock-signal", NULL, NULL, call_mlock, 0, unlock, 1, 0},
    {"mlock-onfault", NULL, NULL, call_mlock_onfault, 0, unlock, 0, 0},
    {"mlockall", NULL, NULL, call_mlockall, 0, unlock_all, 0, 0},
    {"populate-write", NULL, NULL, call_populate_write, 0, buffer_is_zero, 0, 0},
    {"populate-write-signal", NULL, NULL, call_populate_write, 0, buffer_is_zero, 1, 0},
    {"populate-read", NULL, NULL, call_populate_read, 0, buffer_is_zero, 0, 0},
    {"move-pages", NULL, NULL, call_move_pages, -ENOENT, NULL, 0, 0},
    {"move-pages-status", NULL, NULL, call_move_pages_status, 0, NULL, 0, 0},
    {"migrate-pages", NULL, NULL, call_migrate_pages, 0, NULL, 0, 0},
    {"get-mempolicy", NULL, NULL, call_get_mempolicy, 0, NULL, 0, 0},
    {"core-dump", look_where_cores_go, NULL, call_core_dump, 0, NULL, 0, 0},
    {"kvm", NULL, NULL, NULL, 0, NULL, 0, "needs /dev/kvm"},
    {"vfio", NULL, NULL, NULL, 0, NULL, 0, "needs an IOMMU group"},
    {0},
};
