// SPDX-License-Identifier: Apache-2.0
//
// Files, pipes, terminals, and calls that fill in a struct.

#include "paths.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <poll.h>
#include <pty.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <termios.h>
#include <unistd.h>

// ---- files -------------------------------------------------------------------------------------

static const char *open_cached(struct stage *stage) {
    stage->in = open_file(0);
    stage->out = stage->in;
    return NULL;
}

static const char *open_direct(struct stage *stage) {
    stage->in = open_file(O_DIRECT);
    return stage->in < 0 ? "no O_DIRECT here" : NULL;
}

static void rewind_file(struct stage *stage) {
    lseek(stage->in, 0, SEEK_SET);
}

static void restore_file(struct stage *stage) {
    // From the span: an O_DIRECT descriptor wants an aligned buffer.
    memcpy(stage->buffer, pattern, BUFFER_BYTES);
    if (pwrite(stage->in, stage->buffer, BUFFER_BYTES, 0) != BUFFER_BYTES) {
        give_up("pwrite");
    }
    rewind_file(stage);
}

static long call_read(struct stage *stage) {
    return told(read(stage->in, stage->buffer, BUFFER_BYTES));
}

static long call_pread(struct stage *stage) {
    return told(pread(stage->in, stage->buffer, BUFFER_BYTES, 0));
}

static long call_readv(struct stage *stage) {
    struct iovec parts[] = {{stage->buffer, 100}, {stage->buffer + 100, BUFFER_BYTES - 100}};
    return told(preadv(stage->in, parts, 2, 0));
}

static long call_pread_nowait(struct stage *stage) {
    struct iovec part = {stage->buffer, BUFFER_BYTES};
    return told(preadv2(stage->in, &part, 1, 0, RWF_NOWAIT));
}

static long call_pwrite(struct stage *stage) {
    return told(pwrite(stage->in, stage->buffer, BUFFER_BYTES, 0));
}

static long call_write(struct stage *stage) {
    return told(write(stage->in, stage->buffer, BUFFER_BYTES));
}

static bool file_has_zeros(struct stage *stage) {
    return pread(stage->in, stage->buffer, BUFFER_BYTES, 0) == BUFFER_BYTES
           && buffer_is_zero(stage);
}

static long call_sendfile(struct stage *stage) {
    // Only the offset is in the span: zero, and BUFFER_BYTES afterwards.
    return told(sendfile(stage->out, stage->in, (off_t *)(void *)stage->buffer, BUFFER_BYTES));
}

static bool offset_is_right(struct stage *stage) {
    return *(off_t *)(void *)stage->buffer == BUFFER_BYTES;
}

static const char *open_file_and_null(struct stage *stage) {
    stage->in = open_file(0);
    stage->out = open("/dev/null", O_WRONLY);
    return NULL;
}

static long call_splice(struct stage *stage) {
    int ends[2];
    if (pipe(ends) < 0) {
        give_up("pipe");
    }
    long result = told(
        splice(stage->in, (off_t *)(void *)stage->buffer, ends[1], NULL, BUFFER_BYTES, 0));
    close(ends[0]);
    close(ends[1]);
    return result;
}

// ---- pipes and terminals -----------------------------------------------------------------------

static const char *open_pipe(struct stage *stage) {
    int ends[2];
    if (pipe(ends) < 0) {
        give_up("pipe");
    }
    stage->in = ends[0];
    stage->out = ends[1];
    return NULL;
}

static const char *open_pipe_nonblocking(struct stage *stage) {
    open_pipe(stage);
    fcntl(stage->in, F_SETFL, O_NONBLOCK);
    return NULL;
}

static const char *open_pipe_to_write(struct stage *stage) {
    open_pipe(stage);
    int in = stage->in;
    stage->in = stage->out;
    stage->out = in;
    return NULL;
}

static void fill_pipe(struct stage *stage) {
    if (write(stage->out, pattern, BUFFER_BYTES) != BUFFER_BYTES) {
        give_up("write");
    }
}

static void drain_out(struct stage *stage) {
    int count = 0;
    char bytes[BUFFER_BYTES];
    while (ioctl(stage->out, FIONREAD, &count) == 0 && count > 0
           && read(stage->out, bytes, sizeof(bytes)) > 0) {
    }
}

static void refill_pipe(struct stage *stage) {
    int count = 0;
    char bytes[BUFFER_BYTES];
    while (ioctl(stage->in, FIONREAD, &count) == 0 && count > 0
           && read(stage->in, bytes, sizeof(bytes)) > 0) {
    }
    fill_pipe(stage);
}

static long call_vmsplice(struct stage *stage) {
    struct iovec part = {stage->buffer, BUFFER_BYTES};
    return told(vmsplice(stage->in, &part, 1, 0));
}

static long call_vmsplice_gift(struct stage *stage) {
    struct iovec part = {stage->buffer, BUFFER_BYTES};
    return told(vmsplice(stage->in, &part, 1, SPLICE_F_GIFT));
}

static long call_vmsplice_out(struct stage *stage) {
    struct iovec part = {stage->buffer, BUFFER_BYTES};
    return told(vmsplice(stage->in, &part, 1, 0));
}

static const char *open_terminal(struct stage *stage) {
    if (openpty(&stage->out, &stage->in, NULL, NULL, NULL) < 0) {
        return "no pseudo terminal";
    }
    struct termios raw;
    tcgetattr(stage->in, &raw);
    cfmakeraw(&raw);
    tcsetattr(stage->in, TCSANOW, &raw);
    return NULL;
}

static void fill_terminal(struct stage *stage) {
    tcflush(stage->in, TCIOFLUSH);
    if (write(stage->out, pattern, 512) != 512) {
        give_up("write to a terminal");
    }
    int count = 0;
    for (int tries = 0; count < 512 && tries < 1000; ++tries) {
        ioctl(stage->in, FIONREAD, &count);
        usleep(100);
    }
}

static long call_read_512(struct stage *stage) {
    return told(read(stage->in, stage->buffer, 512));
}

static bool starts_with_pattern(struct stage *stage) {
    return memcmp(stage->buffer, pattern, 512) == 0;
}

static const char *open_terminal_to_write(struct stage *stage) {
    const char *reason = open_terminal(stage);
    fcntl(stage->out, F_SETFL, O_NONBLOCK);
    return reason;
}

/// FIONREAD does not tell of what is on its way from one end to the other.
static void flush_terminal(struct stage *stage) {
    char bytes[BUFFER_BYTES];
    while (read(stage->out, bytes, sizeof(bytes)) > 0) {
    }
}

static long call_write_512(struct stage *stage) {
    return told(write(stage->in, stage->buffer, 512));
}

// ---- structs -----------------------------------------------------------------------------------

static const char *open_eventfd(struct stage *stage) {
    stage->in = eventfd(0, EFD_NONBLOCK);
    return NULL;
}

static void signal_eventfd(struct stage *stage) {
    eventfd_write(stage->in, 1);
}

static long call_read_8(struct stage *stage) {
    return told(read(stage->in, stage->buffer, 8));
}

static const char *open_epoll(struct stage *stage) {
    stage->out = eventfd(1, 0);
    stage->in = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 77};
    epoll_ctl(stage->in, EPOLL_CTL_ADD, stage->out, &event);
    return NULL;
}

static long call_epoll_wait(struct stage *stage) {
    return told(epoll_wait(stage->in, (struct epoll_event *)(void *)stage->buffer, 8, 0));
}

static bool event_is_right(struct stage *stage) {
    struct epoll_event event;
    memcpy(&event, stage->buffer, sizeof(event));
    return event.data.u64 == 77;
}

static long call_poll(struct stage *stage) {
    struct pollfd *none = (struct pollfd *)(void *)stage->buffer; // descriptor 0, no events
    return told(poll(none, 1, 0)) >= 0 ? 0 : -errno;
}

static long call_getrandom(struct stage *stage) {
    return told(syscall(SYS_getrandom, stage->buffer, BUFFER_BYTES, 0));
}

static bool buffer_is_not_zero(struct stage *stage) {
    return !buffer_is_zero(stage);
}

static long call_readlink(struct stage *stage) {
    return told(readlink("/proc/self/exe", stage->buffer, PAGE_BYTES)) > 0 ? 1 : -errno;
}

static long call_stat(struct stage *stage) {
    return told(syscall(SYS_newfstatat, AT_FDCWD, "/", stage->buffer, 0));
}

static long call_getdents(struct stage *stage) {
    int directory = open("/", O_RDONLY | O_DIRECTORY);
    long result = told(syscall(SYS_getdents64, directory, stage->buffer, BUFFER_BYTES));
    close(directory);
    return result > 0 ? 1 : result;
}

static long call_open_name(struct stage *stage) {
    return told(open(stage->buffer, O_RDONLY)); // an empty name
}

static long call_proc_read(struct stage *stage) {
    int fd = open("/proc/self/status", O_RDONLY);
    long result = told(read(fd, stage->buffer, 100));
    close(fd);
    return result;
}

static long call_pagemap_read(struct stage *stage) {
    int fd = open("/proc/self/pagemap", O_RDONLY);
    off_t offset = (off_t)((unsigned long)stage->span / PAGE_BYTES * 8);
    long result = told(pread(fd, stage->buffer, 4096, offset));
    close(fd);
    return result;
}

static long call_mincore(struct stage *stage) {
    static char page[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
    return told(syscall(SYS_mincore, page, PAGE_BYTES, stage->buffer));
}

static long call_fionread(struct stage *stage) {
    return told(ioctl(stage->in, FIONREAD, stage->buffer));
}

// ---- Linux AIO ---------------------------------------------------------------------------------

static long run_aio(struct stage *stage, int operation, struct io_event *event) {
    static aio_context_t context;
    if (!context && syscall(SYS_io_setup, 8, &context) < 0) {
        return -errno;
    }
    struct iocb block = {
        .aio_lio_opcode = (unsigned short)operation, .aio_fildes = (unsigned)stage->in,
        .aio_buf = (unsigned long)stage->buffer, .aio_nbytes = BUFFER_BYTES};
    struct iocb *blocks[] = {&block};
    if (syscall(SYS_io_submit, context, 1, blocks) != 1) {
        return -errno;
    }
    long got = told(syscall(SYS_io_getevents, context, 1, 1, event, NULL));
    return got == 1 ? 0 : got;
}

static long call_aio_read(struct stage *stage) {
    struct io_event event;
    long result = run_aio(stage, IOCB_CMD_PREAD, &event);
    return result < 0 ? result : (long)event.res;
}

static long call_aio_write(struct stage *stage) {
    struct io_event event;
    long result = run_aio(stage, IOCB_CMD_PWRITE, &event);
    return result < 0 ? result : (long)event.res;
}

/// Only the array of events is in the span.
static long call_aio_events(struct stage *stage) {
    struct stage elsewhere = *stage;
    static char buffer[BUFFER_BYTES] __attribute__((aligned(PAGE_BYTES)));
    elsewhere.buffer = buffer;
    return run_aio(&elsewhere, IOCB_CMD_PREAD, (struct io_event *)(void *)stage->buffer);
}

static bool aio_event_is_right(struct stage *stage) {
    return ((struct io_event *)(void *)stage->buffer)->res == BUFFER_BYTES;
}

const struct path file_paths[] = {
    {"read-file", open_cached, rewind_file, call_read, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"read-file-signal", open_cached, rewind_file, call_read, BUFFER_BYTES, buffer_has_pattern, 1,
     0},
    {"pread-file", open_cached, NULL, call_pread, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"readv-file", open_cached, NULL, call_readv, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"pread-nowait", open_cached, NULL, call_pread_nowait, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"write-file", open_cached, restore_file, call_pwrite, BUFFER_BYTES, file_has_zeros, 0, 0},
    {"write-file-signal", open_cached, restore_file, call_pwrite, BUFFER_BYTES, file_has_zeros, 1,
     0},
    {"direct-read", open_direct, NULL, call_pread, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"direct-read-signal", open_direct, NULL, call_pread, BUFFER_BYTES, buffer_has_pattern, 1, 0},
    {"direct-read-nowait", open_direct, NULL, call_pread_nowait, BUFFER_BYTES, buffer_has_pattern,
     0, 0},
    {"direct-write", open_direct, restore_file, call_pwrite, BUFFER_BYTES, file_has_zeros, 0, 0},
    {"sendfile-offset", open_file_and_null, NULL, call_sendfile, BUFFER_BYTES, offset_is_right, 0,
     0},
    {"splice-offset", open_file_and_null, NULL, call_splice, BUFFER_BYTES, offset_is_right, 0, 0},
    {"read-pipe", open_pipe, refill_pipe, call_read, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"read-pipe-signal", open_pipe, refill_pipe, call_read, BUFFER_BYTES, buffer_has_pattern, 1, 0},
    {"read-pipe-nonblocking", open_pipe_nonblocking, refill_pipe, call_read, BUFFER_BYTES,
     buffer_has_pattern, 0, 0},
    {"write-pipe", open_pipe_to_write, drain_out, call_write, BUFFER_BYTES, out_has_zeros, 0, 0},
    {"vmsplice-in", open_pipe_to_write, drain_out, call_vmsplice, BUFFER_BYTES, out_has_zeros, 0,
     0},
    {"vmsplice-gift", open_pipe_to_write, drain_out, call_vmsplice_gift, BUFFER_BYTES,
     out_has_zeros, 0, 0},
    {"vmsplice-out", open_pipe, refill_pipe, call_vmsplice_out, BUFFER_BYTES, buffer_has_pattern,
     0, 0},
    {"read-tty", open_terminal, fill_terminal, call_read_512, 512, starts_with_pattern, 0, 0},
    {"write-tty", open_terminal_to_write, flush_terminal, call_write_512, 512, NULL, 0, 0},
    {"read-eventfd", open_eventfd, signal_eventfd, call_read_8, 8, buffer_is_not_zero, 0, 0},
    {"epoll-wait-events", open_epoll, NULL, call_epoll_wait, 1, event_is_right, 0, 0},
    {"poll-array", NULL, NULL, call_poll, 0, NULL, 0, 0},
    {"getrandom", NULL, NULL, call_getrandom, BUFFER_BYTES, buffer_is_not_zero, 0, 0},
    {"readlink", NULL, NULL, call_readlink, 1, buffer_is_not_zero, 0, 0},
    {"stat", NULL, NULL, call_stat, 0, buffer_is_not_zero, 0, 0},
    {"getdents", NULL, NULL, call_getdents, 1, buffer_is_not_zero, 0, 0},
    {"open-name", NULL, NULL, call_open_name, -ENOENT, NULL, 0, 0},
    {"read-proc", NULL, NULL, call_proc_read, 100, buffer_is_not_zero, 0, 0},
    {"read-pagemap", NULL, NULL, call_pagemap_read, 4096, NULL, 0, 0},
    {"mincore-vector", NULL, NULL, call_mincore, 0, NULL, 0, 0},
    {"ioctl-fionread", open_pipe, NULL, call_fionread, 0, NULL, 0, 0},
    {"aio-read", open_cached, NULL, call_aio_read, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"aio-direct-read", open_direct, NULL, call_aio_read, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"aio-direct-write", open_direct, restore_file, call_aio_write, BUFFER_BYTES, file_has_zeros, 0,
     0},
    {"aio-events", open_direct, NULL, call_aio_events, 0, aio_event_is_right, 0, 0},
    {0},
};
