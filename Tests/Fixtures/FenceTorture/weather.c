// SPDX-License-Identifier: Apache-2.0
//
// What else a process does while fences go up and down in it.

#include "torture.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }

static bool was_felt(const char *what, unsigned long count) {
    if (count == 0) {
        fprintf(stderr, "%s: it never came to %s\n", options.weather->name, what);
    }
    return count != 0;
}

// ---- children ----------------------------------------------------------------------------------

static void wait_for_child(struct worker *worker, pid_t child) {
    const double end = now() + CHILD_SECONDS;
    int status = 0;
    for (pid_t ended; (ended = waitpid(child, &status, WNOHANG)) != child;) {
        if (ended < 0 && errno != EINTR) {
            perror("waitpid");
            _exit(USAGE);
        }
        if (now() > end) {
            fprintf(stderr, "hang: child %d has not ended\n", (int)child);
            kill(child, SIGKILL);
            _exit(HUNG);
        }
        nap();
        advance(worker);
    }
    atomic_fetch_add(&counters->children, 1);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != RIGHT) {
        fprintf(stderr, "child %d ended with status %#x\n", (int)child, (unsigned)status);
        atomic_fetch_add(&counters->wrong_children, 1);
    }
}

/// A child has the memory to itself: where writers of the parent had a span each, it makes empty
/// tables, and its own call must free them all.
static bool reclaims_as_child(struct worker *worker) {
    struct value values[64];
    for (unsigned i = 0; i < options.thread_count; i++) {
        char *span = memory + (size_t)(options.shared_span_count + i) * SPAN_BYTES;
        *(volatile char *)span = 1;
        purge(worker, span, PAGES_PER_SPAN / 2);
        purge(worker, span + SPAN_BYTES / 2, PAGES_PER_SPAN / 2);
    }
    const struct ptreclaim_report report = call_once();
    if (report.tables_freed < options.thread_count) {
        fprintf(stderr, "a child's call freed %lu tables of %u\n",
                (unsigned long)report.tables_freed, options.thread_count);
        return false;
    }
    bool is_right = true;
    for (unsigned i = 0; i < options.thread_count; i++) {
        char *span = memory + (size_t)(options.shared_span_count + i) * SPAN_BYTES;
        values[i] = write_value(worker, span);
        is_right &= check_value(worker, &values[i], "in a child, after its call");
    }
    (void)call_once();
    for (unsigned i = 0; i < options.thread_count; i++) {
        is_right &= check_value(worker, &values[i], "in a child, after its second call");
    }
    return is_right;
}

enum { MARKS = 2 };

struct marks {
    struct value values[MARKS];
};

/// Values that stand in the lowest span while a child is made.
static struct marks set_marks(struct worker *worker) {
    const struct pages block = block_of(worker, 0);
    struct marks marks;
    for (unsigned i = 0; i < MARKS; i++) {
        marks.values[i] = write_value(worker, block.start + i * PAGE_BYTES);
    }
    return marks;
}

static bool check_marks(struct worker *worker, const struct marks *marks, const char *when) {
    bool is_right = true;
    for (unsigned i = 0; i < MARKS; i++) {
        is_right &= check_value(worker, &marks->values[i], when);
    }
    return is_right;
}

static _Noreturn void live_as_child(struct worker *worker, const struct marks *marks, bool calls) {
    descriptors_are_safe = false; // the pipes are the parent's
    bool is_right = check_marks(worker, marks, "in a child");
    if (calls) {
        is_right = reclaims_as_child(worker) && is_right;
        is_right = check_marks(worker, marks, "in a child that called") && is_right;
    }
    _exit(is_right ? RIGHT : LOST);
}

static void fork_once(struct worker *worker, bool calls) {
    const struct marks marks = set_marks(worker);
    const pid_t child = fork();
    if (child == 0) {
        live_as_child(worker, &marks, calls);
    }
    if (child < 0) {
        perror("fork");
        _exit(USAGE);
    }
    wait_for_child(worker, child);
    check_marks(worker, &marks, "after a fork");
    purge(worker, block_of(worker, 0).start, MARKS);
    atomic_fetch_add(&counters->weather, 1);
}

static void fork_and_check(struct worker *worker) {
    fork_once(worker, next(&worker->random) % 8 == 0);
}

static void fork_and_call(struct worker *worker) { fork_once(worker, true); }

// ---- a fence that fails ------------------------------------------------------------------------

static const unsigned unregister_request = 0x8010aa01, wake_request = 0x8010aa02;

/// From now on these ioctls get EPERM, in every thread.
static void forbid(unsigned first, unsigned second) {
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, first, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, second, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog filter = {sizeof(program) / sizeof(program[0]), program};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
        || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter) != 0) {
        perror("seccomp");
        _exit(USAGE);
    }
}

static struct {
    unsigned long freed, unavailable;
    bool is_broken;
    pid_t child;
    struct marks marks;
} fence;

static void remember_counts(void) {
    fence.freed = counters->freed;
    fence.unavailable = counters->kept[PTRECLAIM_KEPT_FENCE_UNAVAILABLE];
}

/// Until the end of the round; a child killed by the end of its parent is none of its own.
static _Noreturn void sleep_as_child(struct worker *worker) {
    sigset_t end;
    sigemptyset(&end);
    sigaddset(&end, SIGUSR2);
    int signal;
    descriptors_are_safe = false;
    bool is_right = check_marks(worker, &fence.marks, "in a child, before it sleeps");
    sigwait(&end, &signal);
    is_right = check_marks(worker, &fence.marks, "in a child, after it slept") && is_right;
    _exit(is_right ? RIGHT : LOST);
}

static void fork_a_sleeper(struct worker *worker) {
    sigset_t end;
    sigemptyset(&end);
    sigaddset(&end, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &end, NULL);
    fence.marks = set_marks(worker);
    fence.child = fork();
    if (fence.child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        sleep_as_child(worker);
    }
}

static void break_fence(struct worker *worker, unsigned first, unsigned second, bool has_child) {
    // In the middle: fences have gone up and down.
    if (fence.is_broken || counters->freed < fence.freed + 5) {
        nap();
        return;
    }
    if (has_child) {
        fork_a_sleeper(worker);
    }
    forbid(first, second);
    fence.is_broken = true;
    atomic_fetch_add(&counters->weather, 1);
}

static void break_unregister(struct worker *worker) {
    break_fence(worker, unregister_request, unregister_request, false);
}

static void break_wake(struct worker *worker) {
    break_fence(worker, wake_request, wake_request, false);
}

static void break_both(struct worker *worker) {
    break_fence(worker, unregister_request, wake_request, false);
}

static void break_both_beside_child(struct worker *worker) {
    break_fence(worker, unregister_request, wake_request, true);
}

/// The child outlives every writer: with it would go what keeps one of them waiting.
static void end_sleeper(struct worker *worker) {
    for (unsigned i = 0; i < worker_count; i++) {
        while (&workers[i] != worker && !atomic_load(&workers[i].has_ended)) {
            nap();
            advance(worker);
        }
    }
    if (fence.child > 0) {
        check_marks(worker, &fence.marks, "beside a sleeping child");
        kill(fence.child, SIGUSR2);
        wait_for_child(worker, fence.child);
    }
}

static bool fence_broke(void) {
    return was_felt("a call without its fence",
                    counters->kept[PTRECLAIM_KEPT_FENCE_UNAVAILABLE] - fence.unavailable);
}

// ---- an application that closes all descriptors ------------------------------------------------

static void expect_closes(void) { descriptors_are_safe = false; }

static void close_everything(struct worker *worker) {
    (void)worker;
    if (close_range(3, ~0u, 0) != 0) {
        perror("close_range");
        _exit(USAGE);
    }
    atomic_fetch_add(&counters->weather, 1);
    sched_yield();
}

// ---- setuid: every thread must take glibc's signal ---------------------------------------------

static void change_identity(struct worker *worker) {
    const bool is_even = next(&worker->random) % 2 == 0;
    if ((is_even ? setuid(getuid()) : setresgid(getgid(), getegid(), (gid_t)-1)) != 0) {
        perror("setuid");
        _exit(USAGE);
    }
    atomic_fetch_add(&counters->weather, 1);
}

// ---- signals -----------------------------------------------------------------------------------

static void on_signal(void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    if (sigaction(SIGUSR1, &action, NULL) != 0) {
        perror("sigaction");
        _exit(USAGE);
    }
}

static void write_in_handler(int number) {
    (void)number;
    static _Thread_local uint64_t sequence;
    struct worker *worker = self;
    if (!worker) {
        return;
    }
    const int saved = errno;
    const unsigned span = (unsigned)(++sequence % options.shared_span_count);
    char *page = page_of_handler(worker, span);
    volatile uint64_t *word = (volatile uint64_t *)(void *)page;
    *word = sequence;
    for (unsigned i = 0; i < 100; i++) {
        if (*word != sequence) {
            atomic_fetch_add(&counters->lost, 1);
            break;
        }
    }
    madvise(page, PAGE_BYTES, MADV_DONTNEED);
    atomic_fetch_add(&counters->writes_of_handlers, 1);
    errno = saved;
}

static void expect_signals(void) { on_signal(write_in_handler); }

/// To each thread, a thousand times a second.
static void storm(struct worker *worker) {
    for (unsigned i = 0; i < atomic_load(&started_count); i++) {
        if (&workers[i] != worker && pthread_kill(workers[i].thread, SIGUSR1) == 0) {
            atomic_fetch_add(&counters->weather, 1);
        }
    }
    nap();
}

static bool handlers_ran(void) {
    return was_felt("a write of a handler", counters->writes_of_handlers);
}

// ---- fork in a signal handler, out of a call ---------------------------------------------------

_Thread_local volatile bool is_inside_call;
static volatile sig_atomic_t is_child;
static atomic_int handlers_child;
static struct marks callers_marks;

static void fork_in_handler(int number) {
    (void)number;
    const int saved = errno;
    const bool was_inside = is_inside_call;
    const pid_t child = fork();
    if (child == 0) {
        is_child = true;
    } else {
        if (was_inside) {
            atomic_fetch_add(&counters->forks_inside_calls, 1);
        }
        atomic_store(&handlers_child, child);
    }
    errno = saved;
}

static void expect_forks_in_handlers(void) { on_signal(fork_in_handler); }

void become_caller(struct worker *worker) {
    if (options.weather->prepare == expect_forks_in_handlers) {
        callers_marks = set_marks(worker);
    }
}

void leave_if_child(struct worker *worker) {
    if (is_child) {
        live_as_child(worker, &callers_marks, true);
    }
}

static void interrupt_caller(struct worker *worker) {
    struct worker *caller = worker + 1;
    if (atomic_load(&started_count) == 0 || atomic_load(&caller->progress) == 0) {
        // The first call, which starts the service thread, is one to interrupt, too.
        if (next(&worker->random) % 4) {
            sched_yield();
            return;
        }
        if (atomic_load(&started_count) == 0) {
            return;
        }
    }
    atomic_store(&handlers_child, 0);
    if (pthread_kill(caller->thread, SIGUSR1) != 0) {
        return;
    }
    int child;
    while ((child = atomic_load(&handlers_child)) == 0) {
        if (atomic_load(&caller->has_ended)) {
            return;
        }
        sched_yield();
    }
    if (child < 0) {
        perror("fork in a handler");
        _exit(USAGE);
    }
    wait_for_child(worker, child);
    atomic_fetch_add(&counters->weather, 1);
}

static bool forked_inside(void) {
    return was_felt("a fork inside a call", counters->forks_inside_calls);
}

// ---- fork after each instruction of a call -----------------------------------------------------

// The processor's trap flag stops the thread after each instruction that it executes; the handler
// forks at the instruction that is due. So a child is made at every place of a call where a signal
// may come, and each must find its way out.
static struct {
    unsigned long due;    // fork after so many instructions
    unsigned long passed; // by this call
    unsigned long length; // of a call that nobody interrupted
    bool ends;
    pid_t child;
} step;
static const greg_t trap_flag = 0x100;

static void begin_to_step(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] |= trap_flag;
}

static void after_instruction(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    greg_t *flags = &((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL];
    if (step.ends) {
        *flags &= ~trap_flag;
    } else if (is_inside_call && ++step.passed == step.due) {
        *flags &= ~trap_flag;
        const int saved = errno;
        step.child = fork();
        if (step.child == 0) {
            is_child = true;
        }
        errno = saved;
    }
}

static void expect_traps(void) {
    struct sigaction action = {.sa_sigaction = begin_to_step, .sa_flags = SA_RESTART | SA_SIGINFO};
    struct sigaction trap = {
        .sa_sigaction = after_instruction, .sa_flags = SA_RESTART | SA_SIGINFO};
    if (sigaction(SIGUSR1, &action, NULL) != 0 || sigaction(SIGTRAP, &trap, NULL) != 0) {
        perror("sigaction");
        _exit(USAGE);
    }
}

static void take_steps(unsigned long due) {
    step.due = due;
    step.passed = 0;
    step.ends = false;
    step.child = 0;
    raise(SIGUSR1);
    (void)call_once();
    step.ends = true;
}

static void step_through_call(struct worker *worker) {
    if (step.length == 0) {
        (void)call_once(); // starts the service thread, with signals blocked
        take_steps(ULONG_MAX);
        step.length = step.passed;
        step.due = 0;
    }
    const struct marks marks = set_marks(worker);
    take_steps(step.due + 1);
    if (is_child) {
        // Its call has come to an end; now and then it makes more of its own.
        live_as_child(worker, &marks, step.due % 32 == 0);
    }
    if (step.child > 0) {
        wait_for_child(worker, step.child);
    } else {
        atomic_store(&stop, true); // the call was shorter: all of it has been gone through
    }
    check_marks(worker, &marks, "after a step");
    purge(worker, block_of(worker, 0).start, MARKS);
    atomic_fetch_add(&counters->weather, 1);
}

/// All of a call; its last steps are loops whose length depends on the service thread.
static bool went_through(void) {
    fprintf(stderr, "went through %lu of about %lu instructions\n", step.due, step.length);
    return was_felt("the end of a call", step.due >= step.length / 2);
}

// ---- a mapping that grows ----------------------------------------------------------------------

static char *growing; // one span, and holes around it that nobody else looks into

static void map_growing_by(int flags) {
    char *const place = (char *)0x300000000000;
    growing = mmap(place, SPAN_BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | flags, -1, 0);
    if (growing != place) {
        perror("mmap");
        _exit(USAGE);
    }
}

static void map_growing(void) { map_growing_by(0); }

static void map_stack(void) { map_growing_by(MAP_GROWSDOWN); }

/// One thread calls for the mapping, the others let it grow.
static bool has_called_for_it(const struct worker *worker) {
    if (worker->owner % 2 == 0) {
        return false;
    }
    struct ptreclaim_report report = {.size = sizeof(report)};
    (void)reclaim(growing, SPAN_BYTES, PTRECLAIM_SHARED, &report);
    return true;
}

/// Makes the table an empty one, and gives the other thread the time to put up a fence.
static void empty(struct worker *worker, char *page) {
    *page = 1;
    madvise(page, PAGE_BYTES, MADV_DONTNEED);
    for (volatile uint64_t i = next(&worker->random) % 8192; i > 0; i--) {
    }
}

/// Grows by mremap, and writes to what has grown.
static void grow(struct worker *worker) {
    if (has_called_for_it(worker)) {
        return;
    }
    char *const end = growing + SPAN_BYTES, *const last = end - PAGE_BYTES;
    empty(worker, last);
    // Where a fence is being put up it is two mappings for a moment.
    if (mremap(last, PAGE_BYTES, 2 * PAGE_BYTES, 0) == last) {
        *end = 1;
        atomic_fetch_add(&counters->weather, 1);
        if (mremap(last, 2 * PAGE_BYTES, PAGE_BYTES, 0) != last) {
            perror("mremap");
            _exit(USAGE);
        }
    }
}

/// A stack grows by the write itself.
static void grow_down(struct worker *worker) {
    if (has_called_for_it(worker)) {
        return;
    }
    empty(worker, growing);
    char *const beneath = growing - PAGE_BYTES;
    *(volatile char *)beneath = 1;
    atomic_fetch_add(&counters->weather, 1);
    if (munmap(beneath, PAGE_BYTES) != 0) {
        perror("munmap");
        _exit(USAGE);
    }
}

// ---- a neighbour that the application has registered ------------------------------------------

static int open_userfaultfd(void) {
    const int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API};
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0) {
        perror("userfaultfd");
        _exit(SKIPPED);
    }
    return fd;
}

/// Two pages behind the span, which nobody touches.
static int register_neighbor(int userfaultfd) {
    struct uffdio_register range = {
        .range = {(uintptr_t)growing + SPAN_BYTES, 2 * PAGE_BYTES},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };
    return ioctl(userfaultfd, UFFDIO_REGISTER, &range);
}

static int stranger; // may not have it

static void map_registered_neighbor(void) {
    map_growing();
    char *const end = growing + SPAN_BYTES;
    stranger = open_userfaultfd();
    if (mmap(end, 2 * PAGE_BYTES, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != end
        || register_neighbor(open_userfaultfd()) != 0) {
        perror("UFFDIO_REGISTER");
        _exit(USAGE);
    }
}

/// The neighbour becomes longer and shorter, and stays registered.
static void change_neighbor(struct worker *worker) {
    if (has_called_for_it(worker)) {
        return;
    }
    empty(worker, growing);
    const bool is_even = next(&worker->random) % 2 == 0;
    char *const second = growing + SPAN_BYTES + PAGE_BYTES;
    if (mprotect(second, PAGE_BYTES, is_even ? PROT_READ : PROT_READ | PROT_WRITE) != 0) {
        perror("mprotect");
        _exit(USAGE);
    }
    if (register_neighbor(stranger) == 0) {
        fprintf(stderr, "lost: the registration of a neighbour\n");
        atomic_fetch_add(&counters->lost, 1);
        _exit(LOST);
    }
    atomic_fetch_add(&counters->weather, 1);
}

// ---- the end of the process --------------------------------------------------------------------

void end_abruptly(void) {
    switch (options.seed % 3) {
    case 0: exit(RIGHT);
    case 1: _exit(RIGHT);
    default:
        setenv("FENCE_TORTURE_ENDS", "1", 1);
        execl("/proc/self/exe", "fence-torture", (char *)NULL);
        perror("execl");
        _exit(USAGE);
    }
}

// ---- the table ---------------------------------------------------------------------------------

static const struct weather weathers[] = {
    {.name = "none"},
    {.name = "forks", .thread_count = 4, .blow = fork_and_check},
    {.name = "children-call", .thread_count = 1, .blow = fork_and_call},
    {.name = "unregister-fails", .thread_count = 1, .prepare = remember_counts,
     .blow = break_unregister, .was_felt = fence_broke},
    {.name = "wake-fails", .thread_count = 1, .prepare = remember_counts, .blow = break_wake,
     .was_felt = fence_broke},
    {.name = "both-fail", .thread_count = 1, .prepare = remember_counts, .blow = break_both,
     .was_felt = fence_broke},
    {.name = "both-fail-beside-child", .thread_count = 1, .prepare = remember_counts,
     .blow = break_both_beside_child, .calm = end_sleeper, .was_felt = fence_broke},
    {.name = "closes", .thread_count = 1, .prepare = expect_closes, .blow = close_everything},
    {.name = "setuid", .thread_count = 1, .blow = change_identity},
    {.name = "signals", .thread_count = 1, .prepare = expect_signals, .blow = storm,
     .was_felt = handlers_ran},
    {.name = "fork-in-handler", .thread_count = 1, .prepare = expect_forks_in_handlers,
     .blow = interrupt_caller, .was_felt = forked_inside},
    {.name = "fork-at-each-step", .thread_count = 1, .prepare = expect_traps,
     .blow = step_through_call, .was_felt = went_through},
    {.name = "grows", .thread_count = 2, .prepare = map_growing, .blow = grow},
    {.name = "grows-down", .thread_count = 2, .prepare = map_stack, .blow = grow_down},
    {.name = "registered-neighbor", .thread_count = 2, .prepare = map_registered_neighbor,
     .blow = change_neighbor},
    {.name = "exit", .ends_abruptly = true},
};

const struct weather *find_weather(const char *name) {
    for (size_t i = 0; i < sizeof(weathers) / sizeof(weathers[0]); i++) {
        if (strcmp(weathers[i].name, name) == 0) {
            return &weathers[i];
        }
    }
    return NULL;
}

void print_weathers(void) {
    for (size_t i = 0; i < sizeof(weathers) / sizeof(weathers[0]); i++) {
        fprintf(stderr, " %s", weathers[i].name);
    }
    fputc('\n', stderr);
}
