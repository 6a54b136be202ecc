/* libpmfs's side of the broker's socket: see broker_protocol.h. */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include "broker_protocol.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "internal.h"

#define ANSWER_SECONDS 10 /* as long as a token is valid */

/* A broker runs as root or as the caller's user; any other process at that path is an impostor. */
static int check_broker(int socket) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return -errno;
    return peer.uid == 0 || peer.uid == geteuid() ? 0 : -EPERM;
}

int pmfs_broker_connect(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const size_t size = strnlen(path, sizeof address.sun_path);
    if (size == 0 || size >= sizeof address.sun_path) return -EPROTO;
    memcpy(address.sun_path, path, size);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    fd = pmfs_move_up(fd);
    if (fd < 0) return fd;
    const struct timeval limit = {.tv_sec = ANSWER_SECONDS};
    int result = 0;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) != 0)
        result = -errno;
    while (result == 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) != 0)
        if (errno != EINTR) result = errno == EAGAIN ? -ETIMEDOUT : -errno;
    if (result == 0) result = check_broker(fd);
    if (result == 0) return fd;
    close(fd);
    return result;
}

/* The first descriptor of a message; others, which no broker sends, are closed. */
static int take_descriptor(struct msghdr *message) {
    int fd = -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int got;
            memcpy(&got, CMSG_DATA(c) + i * sizeof got, sizeof got);
            if (fd < 0)
                fd = got;
            else
                close(got);
        }
    }
    return fd;
}

/* EPIPE, ECONNRESET: refused already; the answer with the reason can be read. */
static int send_packet(int broker, const struct pmfs_broker_ask *packet) {
    ssize_t sent;
    do {
        sent = send(broker, packet, sizeof *packet, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0 || errno == EPIPE || errno == ECONNRESET) return 0;
    return errno == EAGAIN ? -ETIMEDOUT : -errno;
}

int pmfs_broker_talk(int broker, const struct pmfs_broker_ask *packet,
                     struct pmfs_broker_answer *answer) {
    const int undelivered = send_packet(broker, packet);
    if (undelivered != 0) return undelivered;
    struct iovec piece = {.iov_base = answer, .iov_len = sizeof *answer};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message;
    ssize_t got;
    int resets = 0;
    do {
        message = (struct msghdr){.msg_iov = &piece,
                                  .msg_iovlen = 1,
                                  .msg_control = &control,
                                  .msg_controllen = sizeof control};
        got = recvmsg(broker, &message, MSG_CMSG_CLOEXEC);
        /* The first error says that our packet was not read; the answer comes after it. */
    } while (got < 0 && (errno == EINTR || (errno == ECONNRESET && resets++ == 0)));
    if (got < 0) return errno == EAGAIN ? -ETIMEDOUT : -errno;
    const int fd = take_descriptor(&message);
    int result = 0;
    if (got != sizeof *answer || answer->magic != PMFS_BROKER_MAGIC ||
        answer->version != PMFS_BROKER_VERSION)
        result = got == 0 ? -ECONNRESET : -EPROTO;
    else if (answer->error != 0)
        result = answer->error > 0 ? -answer->error : -EPROTO;
    else if (fd < 0)
        return PMFS_BROKER_NO_DESCRIPTOR;
    if (result == 0) return fd;
    if (fd >= 0) close(fd);
    return result;
}

int pmfs_broker_event(int channel, struct pmfs_event *out) {
    struct pmfs_broker_event packet;
    *out = (struct pmfs_event){.kind = PMFS_EVENT_ENDED};
    for (;;) {
        const ssize_t got = recv(channel, &packet, sizeof packet, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) return -EAGAIN;
        if (got <= 0) return 0; /* the other end is gone, and so is the grant */
        /* Ignores what a later server may send in addition. */
        if ((size_t)got < sizeof packet || packet.magic != PMFS_BROKER_MAGIC ||
            packet.version != PMFS_BROKER_VERSION || packet.kind != PMFS_BROKER_EVENT_BREAK)
            continue;
        out->kind = PMFS_EVENT_BREAK;
        out->milliseconds = packet.milliseconds;
        out->grant = packet.grant;
        return 0;
    }
}
