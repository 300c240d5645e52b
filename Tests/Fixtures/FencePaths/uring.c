// SPDX-License-Identifier: Apache-2.0
//
// io_uring: in the submitting thread, in task work, in a worker, in the SQPOLL thread.

#include "paths.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define SETUP_NO_MMAP (1u << 14) // since 6.5: the rings are in memory of the caller's

static struct {
    int fd;
    unsigned flags;
    _Atomic unsigned *submission_tail, *completion_head, *completion_tail, *submission_flags;
    unsigned submission_mask, completion_mask, *submission_array;
    struct io_uring_sqe *submissions;
    struct io_uring_cqe *completions;
} ring;

static const char *open_ring(unsigned flags) {
    struct io_uring_params parameters = {.flags = flags};
    ring.flags = flags;
    ring.fd = (int)syscall(SYS_io_uring_setup, 8, &parameters);
    if (ring.fd < 0) {
        return errno == EINVAL ? "this kernel has no such ring" : "no io_uring";
    }
    int protection = PROT_READ | PROT_WRITE, shared = MAP_SHARED | MAP_POPULATE;
    char *rings = mmap(NULL, 1 << 16, protection, shared, ring.fd, IORING_OFF_SQ_RING);
    if (rings == MAP_FAILED) {
        size_t bytes = parameters.cq_off.cqes + parameters.cq_entries * sizeof(struct io_uring_cqe);
        rings = mmap(NULL, bytes, protection, shared, ring.fd, IORING_OFF_SQ_RING);
    }
    ring.submissions = mmap(
        NULL, parameters.sq_entries * sizeof(struct io_uring_sqe), protection, shared, ring.fd,
        IORING_OFF_SQES);
    if (rings == MAP_FAILED || ring.submissions == MAP_FAILED) {
        give_up("mmap of a ring");
    }
    ring.submission_tail = (_Atomic unsigned *)(void *)(rings + parameters.sq_off.tail);
    ring.submission_flags = (_Atomic unsigned *)(void *)(rings + parameters.sq_off.flags);
    ring.submission_mask = *(unsigned *)(void *)(rings + parameters.sq_off.ring_mask);
    ring.submission_array = (unsigned *)(void *)(rings + parameters.sq_off.array);
    ring.completion_head = (_Atomic unsigned *)(void *)(rings + parameters.cq_off.head);
    ring.completion_tail = (_Atomic unsigned *)(void *)(rings + parameters.cq_off.tail);
    ring.completion_mask = *(unsigned *)(void *)(rings + parameters.cq_off.ring_mask);
    ring.completions = (struct io_uring_cqe *)(void *)(rings + parameters.cq_off.cqes);
    return NULL;
}

static void queue(struct io_uring_sqe submission) {
    unsigned tail = atomic_load(ring.submission_tail);
    ring.submissions[tail & ring.submission_mask] = submission;
    ring.submission_array[tail & ring.submission_mask] = tail & ring.submission_mask;
    atomic_store(ring.submission_tail, tail + 1);
}

static long enter(unsigned submit, unsigned complete) {
    unsigned flags = complete ? IORING_ENTER_GETEVENTS : 0;
    if (ring.flags & IORING_SETUP_SQPOLL) {
        atomic_thread_fence(memory_order_seq_cst);
        if (atomic_load(ring.submission_flags) & IORING_SQ_NEED_WAKEUP) {
            flags |= IORING_ENTER_SQ_WAKEUP;
        }
    }
    long result;
    do {
        result = told(syscall(SYS_io_uring_enter, ring.fd, submit, complete, flags, NULL, 0));
        submit = result == -EINTR ? 0 : submit;
    } while (result == -EINTR);
    return result;
}

static long next_completion(void) {
    for (;;) {
        unsigned head = atomic_load(ring.completion_head);
        if (head != atomic_load(ring.completion_tail)) {
            struct io_uring_cqe completion = ring.completions[head & ring.completion_mask];
            atomic_store(ring.completion_head, head + 1);
            if (!(completion.flags & IORING_CQE_F_NOTIF)) {
                return completion.res;
            }
            continue;
        }
        long result = enter(0, 1);
        if (result < 0) {
            return result;
        }
    }
}

static long do_one(struct io_uring_sqe submission) {
    queue(submission);
    long result = enter(1, 0);
    return result < 0 ? result : next_completion();
}

static struct io_uring_sqe to_buffer(struct stage *stage, int operation) {
    return (struct io_uring_sqe){
        .opcode = (unsigned char)operation, .fd = stage->in, .len = BUFFER_BYTES,
        .addr = (uintptr_t)stage->buffer};
}

// ---- rings and files ---------------------------------------------------------------------------

static const char *open_cached(struct stage *stage) {
    stage->in = open_file(0);
    return open_ring(0);
}

static const char *open_direct(struct stage *stage) {
    stage->in = open_file(O_DIRECT);
    return stage->in < 0 ? "no O_DIRECT here" : open_ring(0);
}

static const char *open_deferred(struct stage *stage) {
    stage->in = open_file(O_DIRECT);
    return open_ring(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
}

static const char *open_polled(struct stage *stage) {
    stage->in = open_file(0);
    return open_ring(IORING_SETUP_SQPOLL);
}

static const char *open_polled_direct(struct stage *stage) {
    stage->in = open_file(O_DIRECT);
    return open_ring(IORING_SETUP_SQPOLL);
}

static const char *open_iopoll(struct stage *stage) {
    stage->in = open_file(O_DIRECT);
    const char *reason = open_ring(IORING_SETUP_IOPOLL);
    if (!reason && do_one(to_buffer(stage, IORING_OP_READ)) == -EOPNOTSUPP) {
        reason = "the disk has no poll queues";
    }
    return reason;
}

static const char *open_pair(struct stage *stage) {
    open_socket_pair(stage);
    return open_ring(0);
}

static const char *open_pair_polled(struct stage *stage) {
    open_pair(stage);
    return open_ring(IORING_SETUP_SQPOLL);
}

static const char *open_pair_deferred(struct stage *stage) {
    open_pair(stage);
    return open_ring(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
}

static void restore_file(struct stage *stage) {
    memcpy(stage->buffer, pattern, BUFFER_BYTES);
    if (pwrite(stage->in, stage->buffer, BUFFER_BYTES, 0) != BUFFER_BYTES) {
        give_up("pwrite");
    }
}

static void drain(int fd) {
    char bytes[BUFFER_BYTES];
    while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
    }
}

static void fill(struct stage *stage) {
    drain(stage->in);
    if (send(stage->out, pattern, BUFFER_BYTES, 0) != BUFFER_BYTES) {
        give_up("send");
    }
}

static void drain_in(struct stage *stage) {
    drain(stage->in);
}

static void drain_out(struct stage *stage) {
    drain(stage->out);
}

static bool file_has_zeros(struct stage *stage) {
    return pread(stage->in, stage->buffer, BUFFER_BYTES, 0) == BUFFER_BYTES
           && buffer_is_zero(stage);
}

// ---- accesses ----------------------------------------------------------------------------------

static long call_read(struct stage *stage) {
    return do_one(to_buffer(stage, IORING_OP_READ));
}

static long call_write(struct stage *stage) {
    return do_one(to_buffer(stage, IORING_OP_WRITE));
}

static long call_readv(struct stage *stage) {
    static struct iovec part;
    part = (struct iovec){stage->buffer, BUFFER_BYTES};
    struct io_uring_sqe submission = to_buffer(stage, IORING_OP_READV);
    submission.addr = (uintptr_t)&part;
    submission.len = 1;
    return do_one(submission);
}

static long call_read_async(struct stage *stage) {
    struct io_uring_sqe submission = to_buffer(stage, IORING_OP_READ);
    submission.flags = IOSQE_ASYNC;
    return do_one(submission);
}

static long call_write_async(struct stage *stage) {
    struct io_uring_sqe submission = to_buffer(stage, IORING_OP_WRITE);
    submission.flags = IOSQE_ASYNC;
    return do_one(submission);
}

static long call_recv(struct stage *stage) {
    return do_one(to_buffer(stage, IORING_OP_RECV));
}

static long call_send(struct stage *stage) {
    return do_one(to_buffer(stage, IORING_OP_SEND));
}

static long call_recv_async(struct stage *stage) {
    struct io_uring_sqe submission = to_buffer(stage, IORING_OP_RECV);
    submission.flags = IOSQE_ASYNC;
    return do_one(submission);
}

/// The data arrives later: the copy is task work.
static long call_recv_later(struct stage *stage) {
    queue(to_buffer(stage, IORING_OP_RECV));
    long result = enter(1, 0);
    if (result < 0) {
        return result;
    }
    if (send(stage->out, pattern, BUFFER_BYTES, 0) != BUFFER_BYTES) {
        give_up("send");
    }
    return next_completion();
}

static long call_recv_provided(struct stage *stage) {
    struct io_uring_sqe provide = {
        .opcode = IORING_OP_PROVIDE_BUFFERS, .fd = 1, .addr = (uintptr_t)stage->buffer,
        .len = BUFFER_BYTES, .buf_group = 7};
    long result = do_one(provide);
    if (result < 0) {
        return result;
    }
    struct io_uring_sqe submission = to_buffer(stage, IORING_OP_RECV);
    submission.addr = 0;
    submission.flags = IOSQE_BUFFER_SELECT;
    submission.buf_group = 7;
    return do_one(submission);
}

static const char *open_tcp_pair(struct stage *stage) {
    for (const struct path *other = socket_paths; other->name; ++other) {
        if (strcmp(other->name, "send-tcp") == 0) {
            const char *reason = other->prepare(stage);
            return reason ? reason : open_ring(0);
        }
    }
    return "no TCP";
}

static long call_send_zerocopy(struct stage *stage) {
    return do_one(to_buffer(stage, IORING_OP_SEND_ZC));
}

/// The buffers of READ_FIXED are pinned here, and by this address never again.
static long call_register_buffers(struct stage *stage) {
    struct iovec part = {stage->buffer, BUFFER_BYTES};
    long result =
        told(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &part, 1));
    if (result == 0) {
        struct io_uring_sqe submission = to_buffer(stage, IORING_OP_READ_FIXED);
        result = do_one(submission);
        syscall(SYS_io_uring_register, ring.fd, IORING_UNREGISTER_BUFFERS, NULL, 0);
    }
    return result;
}

static long call_register_buffer_ring(struct stage *stage) {
    struct io_uring_buf_reg registration = {
        .ring_addr = (uintptr_t)stage->buffer, .ring_entries = 8, .bgid = 9};
    long result = told(
        syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_PBUF_RING, &registration, 1));
    if (result == 0) {
        struct io_uring_buf_reg off = {.bgid = 9};
        syscall(SYS_io_uring_register, ring.fd, IORING_UNREGISTER_PBUF_RING, &off, 1);
    }
    return result;
}

static long call_setup_in_span(struct stage *stage) {
    struct io_uring_params parameters = {.flags = SETUP_NO_MMAP};
    parameters.cq_off.resv2 = (uintptr_t)stage->buffer; // user_addr
    ((uint64_t *)(void *)&parameters.sq_off)[4] = (uintptr_t)stage->buffer + PAGE_BYTES;
    long fd = told(syscall(SYS_io_uring_setup, 8, &parameters));
    if (fd >= 0) {
        close((int)fd);
    }
    return fd >= 0 ? 0 : fd;
}

static const char *only_a_ring(struct stage *stage) {
    (void)stage;
    return open_ring(0);
}

/// More accesses than the submission can do at once: task work arrives while the first one waits.
static long call_read_while_work_arrives(struct stage *stage) {
    struct io_uring_sqe other = to_buffer(stage, IORING_OP_NOP);
    other.flags = IOSQE_ASYNC;
    for (int count = 0; count < 3; ++count) {
        queue(other);
    }
    struct io_uring_sqe submission = to_buffer(stage, IORING_OP_READ);
    submission.user_data = 1;
    queue(submission);
    long result = enter(4, 0);
    long right = 0;
    for (int count = 0; result >= 0 && count < 4; ++count) {
        result = next_completion();
        right = result > 0 ? result : right;
    }
    return result < 0 ? result : right;
}

const struct path uring_paths[] = {
    {"uring-read", open_cached, NULL, call_read, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"uring-read-signal", open_cached, NULL, call_read, BUFFER_BYTES, buffer_has_pattern, 1, 0},
    {"uring-readv", open_cached, NULL, call_readv, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"uring-write", open_cached, restore_file, call_write, BUFFER_BYTES, file_has_zeros, 0, 0},
    {"uring-direct-read", open_direct, NULL, call_read, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"uring-direct-write", open_direct, restore_file, call_write, BUFFER_BYTES, file_has_zeros, 0,
     0},
    {"uring-deferred-read", open_deferred, NULL, call_read, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"uring-async-read", open_cached, NULL, call_read_async, BUFFER_BYTES, buffer_has_pattern, 0,
     0},
    {"uring-async-write", open_cached, restore_file, call_write_async, BUFFER_BYTES, file_has_zeros,
     0, 0},
    {"uring-async-direct-read", open_direct, NULL, call_read_async, BUFFER_BYTES,
     buffer_has_pattern, 0, 0},
    {"uring-async-recv", open_pair, fill, call_recv_async, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"uring-work-arrives", open_cached, NULL, call_read_while_work_arrives, BUFFER_BYTES,
     buffer_has_pattern, 0, 0},
    {"uring-recv", open_pair, fill, call_recv, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"uring-recv-task-work", open_pair, drain_in, call_recv_later, BUFFER_BYTES,
     buffer_has_pattern, 0, 0},
    {"uring-recv-deferred", open_pair_deferred, drain_in, call_recv_later, BUFFER_BYTES,
     buffer_has_pattern, 0, 0},
    {"uring-recv-provided", open_pair, fill, call_recv_provided, BUFFER_BYTES, buffer_has_pattern,
     0, 0},
    {"uring-send", open_pair, drain_out, call_send, BUFFER_BYTES, out_has_zeros, 0, 0},
    {"uring-send-zerocopy", open_tcp_pair, drain_out, call_send_zerocopy, BUFFER_BYTES,
     out_has_zeros, 0, 0},
    {"uring-sqpoll-read", open_polled, NULL, call_read, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"uring-sqpoll-write", open_polled, restore_file, call_write, BUFFER_BYTES, file_has_zeros, 0,
     0},
    {"uring-sqpoll-direct", open_polled_direct, NULL, call_read, BUFFER_BYTES, buffer_has_pattern,
     0, 0},
    {"uring-sqpoll-recv", open_pair_polled, drain_in, call_recv_later, BUFFER_BYTES,
     buffer_has_pattern, 0, 0},
    {"uring-iopoll-read", open_iopoll, NULL, call_read, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"uring-read-fixed", open_cached, NULL, call_register_buffers, BUFFER_BYTES,
     buffer_has_pattern, 0, 0},
    {"uring-buffer-ring", only_a_ring, NULL, call_register_buffer_ring, 0, NULL, 0, 0},
    {"uring-rings-in-span", only_a_ring, NULL, call_setup_in_span, 0, NULL, 0, 0},
    {0},
};
