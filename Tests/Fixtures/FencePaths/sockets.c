// SPDX-License-Identifier: Apache-2.0
//
// Sockets.

#include "paths.h"

#include <arpa/inet.h>
#include <linux/if_xdp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static struct sockaddr_in bind_to_loopback(int fd) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    if (bind(fd, (struct sockaddr *)&address, length) < 0
        || getsockname(fd, (struct sockaddr *)&address, &length) < 0) {
        give_up("bind");
    }
    return address;
}

void open_socket_pair(struct stage *stage) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0) {
        give_up("socketpair");
    }
    stage->in = ends[0];
    stage->out = ends[1];
}

static const char *open_unix(struct stage *stage) {
    open_socket_pair(stage);
    return NULL;
}

static const char *open_tcp(struct stage *stage) {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = bind_to_loopback(listener);
    stage->in = socket(AF_INET, SOCK_STREAM, 0);
    if (listen(listener, 1) < 0
        || connect(stage->in, (struct sockaddr *)&address, sizeof(address)) < 0
        || (stage->out = accept(listener, NULL, NULL)) < 0) {
        return "no loopback";
    }
    int one = 1;
    setsockopt(stage->out, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return NULL;
}

static const char *open_udp(struct stage *stage) {
    stage->in = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in address = bind_to_loopback(stage->in);
    stage->out = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in other = bind_to_loopback(stage->out);
    return connect(stage->out, (struct sockaddr *)&address, sizeof(address)) < 0
                   || connect(stage->in, (struct sockaddr *)&other, sizeof(other)) < 0
               ? "no loopback"
               : NULL;
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
    int count = 0;
    for (int tries = 0; tries < 1000; ++tries) {
        if (ioctl(stage->in, FIONREAD, &count) == 0 && count >= BUFFER_BYTES) {
            return;
        }
        usleep(100);
    }
}

static void drain_out(struct stage *stage) {
    drain(stage->out);
}

static long call_recv(struct stage *stage) {
    return told(recv(stage->in, stage->buffer, BUFFER_BYTES, 0));
}

static long call_recv_dontwait(struct stage *stage) {
    return told(recv(stage->in, stage->buffer, BUFFER_BYTES, MSG_DONTWAIT));
}

static long call_recvmsg(struct stage *stage) {
    struct iovec parts[] = {{stage->buffer, 100}, {stage->buffer + 100, BUFFER_BYTES - 100}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    return told(recvmsg(stage->in, &message, 0));
}

static long call_recvmmsg(struct stage *stage) {
    struct iovec part = {stage->buffer, BUFFER_BYTES};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};
    long result = told(recvmmsg(stage->in, &message, 1, 0, NULL));
    return result == 1 ? (long)message.msg_len : result;
}

/// The headers are in the span: no parts, so the datagram is dropped.
static long call_recvmmsg_headers(struct stage *stage) {
    return told(
        recvmmsg(stage->in, (struct mmsghdr *)(void *)stage->buffer, 1, MSG_DONTWAIT, NULL));
}

static long call_send(struct stage *stage) {
    return told(send(stage->in, stage->buffer, BUFFER_BYTES, 0));
}

static long call_sendmmsg(struct stage *stage) {
    struct iovec part = {stage->buffer, BUFFER_BYTES};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};
    long result = told(sendmmsg(stage->in, &message, 1, 0));
    return result == 1 ? (long)message.msg_len : result;
}

static long call_send_zerocopy(struct stage *stage) {
    return told(send(stage->in, stage->buffer, BUFFER_BYTES, MSG_ZEROCOPY));
}

static void collect_notices(struct stage *stage) {
    char control[256];
    struct msghdr message = {.msg_control = control, .msg_controllen = sizeof(control)};
    while (recvmsg(stage->in, &message, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0) {
        message.msg_controllen = sizeof(control);
    }
    drain(stage->out);
}

static const char *open_tcp_zerocopy(struct stage *stage) {
    int one = 1;
    const char *reason = open_tcp(stage);
    if (!reason && setsockopt(stage->in, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) < 0) {
        reason = "no SO_ZEROCOPY";
    }
    return reason;
}

static const char *open_udp_zerocopy(struct stage *stage) {
    int one = 1;
    const char *reason = open_udp(stage);
    if (!reason && setsockopt(stage->in, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) < 0) {
        reason = "no SO_ZEROCOPY";
    }
    return reason;
}

static long call_getsockopt(struct stage *stage) {
    socklen_t length = sizeof(int);
    return told(getsockopt(stage->in, SOL_SOCKET, SO_RCVBUF, stage->buffer, &length));
}

static const char *open_xdp(struct stage *stage) {
    int probe = socket(AF_XDP, SOCK_RAW, 0);
    stage->in = probe;
    return probe < 0 ? "no AF_XDP" : NULL;
}

/// pin_user_pages(FOLL_LONGTERM) of the memory of packets.
static long call_xdp_umem(struct stage *stage) {
    int fd = socket(AF_XDP, SOCK_RAW, 0);
    struct xdp_umem_reg umem = {
        .addr = (unsigned long)stage->buffer, .len = BUFFER_BYTES, .chunk_size = PAGE_BYTES};
    long result = told(setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)));
    close(fd);
    return result;
}

const struct path socket_paths[] = {
    {"recv-unix", open_unix, fill, call_recv, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"recv-tcp", open_tcp, fill, call_recv, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"recv-tcp-signal", open_tcp, fill, call_recv, BUFFER_BYTES, buffer_has_pattern, 1, 0},
    {"recv-tcp-dontwait", open_tcp, fill, call_recv_dontwait, BUFFER_BYTES, buffer_has_pattern, 0,
     0},
    {"recv-udp", open_udp, fill, call_recv, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"recvmsg-tcp", open_tcp, fill, call_recvmsg, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"recvmmsg-udp", open_udp, fill, call_recvmmsg, BUFFER_BYTES, buffer_has_pattern, 0, 0},
    {"recvmmsg-headers", open_udp, fill, call_recvmmsg_headers, 1, NULL, 0, 0},
    {"send-unix", open_unix, drain_out, call_send, BUFFER_BYTES, out_has_zeros, 0, 0},
    {"send-tcp", open_tcp, drain_out, call_send, BUFFER_BYTES, out_has_zeros, 0, 0},
    {"send-udp", open_udp, drain_out, call_send, BUFFER_BYTES, out_has_zeros, 0, 0},
    {"sendmmsg-udp", open_udp, drain_out, call_sendmmsg, BUFFER_BYTES, out_has_zeros, 0, 0},
    {"send-zerocopy-tcp", open_tcp_zerocopy, collect_notices, call_send_zerocopy, BUFFER_BYTES,
     out_has_zeros, 0, 0},
    {"send-zerocopy-udp", open_udp_zerocopy, collect_notices, call_send_zerocopy, BUFFER_BYTES,
     out_has_zeros, 0, 0},
    {"getsockopt", open_unix, NULL, call_getsockopt, 0, NULL, 0, 0},
    {"xdp-umem", open_xdp, NULL, call_xdp_umem, 0, NULL, 0, 0},
    {0},
};
