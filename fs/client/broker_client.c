/* libpmfs's side of the broker's socket: see broker.h. */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include "broker.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "internal.h"

#define ANSWER_SECONDS 10 /* as long as a token is good */

/* A broker runs as root, or is the caller's own; anybody else at that path is an impostor. */
static int check_broker(int socket) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return -errno;
    return peer.uid == 0 || peer.uid == geteuid() ? 0 : -EPERM;
}

static int ask(int socket, const struct pmfs_io_grant *grant) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const size_t size = strnlen(grant->broker, sizeof grant->broker);
    if (size == 0 || size >= sizeof address.sun_path) return -EPROTO;
    memcpy(address.sun_path, grant->broker, size);

    const struct timeval limit = {.tv_sec = ANSWER_SECONDS};
    if (setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0 ||
        setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) != 0)
        return -errno;
    int result;
    do {
        result = connect(socket, (const struct sockaddr *)&address, sizeof address);
    } while (result != 0 && errno == EINTR);
    if (result != 0) return errno == EAGAIN ? -ETIMEDOUT : -errno;
    if ((result = check_broker(socket)) != 0) return result;

    struct pmfs_broker_ask packet = {
        .magic = PMFS_BROKER_MAGIC, .version = PMFS_BROKER_VERSION, .grant = grant->grant};
    memcpy(packet.token, grant->token, sizeof packet.token);
    ssize_t sent;
    do {
        sent = send(socket, &packet, sizeof packet, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    /* EPIPE, ECONNRESET: refused already; the answer that says why is there to be read. */
    return sent < 0 && errno != EPIPE && errno != ECONNRESET ? -errno : 0;
}

int pmfs_broker_connect(const struct pmfs_io_grant *grant) {
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    const int result = ask(fd, grant);
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

/* Would the device that came hold the volume?  A shorter one would be a SIGBUS later. */
static int check_device(int device, const struct pmfs_io_grant *grant) {
    struct stat status;
    if (fstat(device, &status) != 0) return -errno;
    if (S_ISREG(status.st_mode) && (uint64_t)status.st_size < grant->device_size) return -EIO;
    return 0;
}

int pmfs_broker_receive(int broker, const struct pmfs_io_grant *grant) {
    struct pmfs_broker_answer answer;
    struct iovec piece = {.iov_base = &answer, .iov_len = sizeof answer};
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
        /* Told once that our packet was not read; the answer stands behind it. */
    } while (got < 0 && (errno == EINTR || (errno == ECONNRESET && resets++ == 0)));
    if (got < 0) return errno == EAGAIN ? -ETIMEDOUT : -errno;
    const int device = take_descriptor(&message);
    const bool wanted = (grant->flags & PMFS_GRANT_MAP) != 0;
    int result = 0;
    if (got != sizeof answer || answer.magic != PMFS_BROKER_MAGIC ||
        answer.version != PMFS_BROKER_VERSION)
        result = got == 0 ? -ECONNRESET : -EPROTO;
    else if (answer.error != 0)
        result = answer.error > 0 ? -answer.error : -EPROTO;
    else if (wanted && device < 0)
        result = -EMFILE; /* the kernel drops a descriptor that has no room in our table */
    else if (wanted)
        result = check_device(device, grant);
    if (result == 0 && wanted) return device;
    if (device >= 0) close(device);
    return result;
}

int pmfs_broker_event(int broker, struct pmfs_event *out) {
    struct pmfs_broker_event packet;
    *out = (struct pmfs_event){.kind = PMFS_EVENT_ENDED};
    for (;;) {
        const ssize_t got = recv(broker, &packet, sizeof packet, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) return -EAGAIN;
        if (got <= 0) return 0; /* the other end is gone, and so is the grant */
        /* What a later server may say besides is not for us. */
        if ((size_t)got < sizeof packet || packet.magic != PMFS_BROKER_MAGIC ||
            packet.version != PMFS_BROKER_VERSION || packet.kind != PMFS_BROKER_EVENT_BREAK)
            continue;
        out->kind = PMFS_EVENT_BREAK;
        out->milliseconds = packet.milliseconds;
        out->grant = packet.grant;
        return 0;
    }
}
