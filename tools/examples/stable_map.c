/*
 * stable_map - a second process, which may not open the device, writes through a map that is handed
 * to it.
 *
 *     stable_map FILE-ON-PMFS [UID]
 *
 * Run it as root (or as a user that may map).  FILE is prepared (or sealed full) and at least 64
 * KiB long; it is overwritten.  The first process opens the file and makes a ticket: the grant that
 * keeps its blocks where they are is taken in its name.  A second one, which has dropped to UID
 * (default: 65534) and was given nothing else, gets the file's descriptor and the ticket over a
 * unix socket, maps, and writes slots in a random order, as a swap device is written.  The first
 * one reads them.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pmfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLOT ((size_t)4096)

static int fail(const char *what, int error) {
    fprintf(stderr, "stable_map: %s: %s\n", what, strerror(error));
    return 1;
}

/* The descriptor and the ticket in one message; the first two steps of handing over. */
static int send_ticket(int socket, int file, const struct pmfs_ticket *ticket) {
    char control[CMSG_SPACE(sizeof file)] = {0};
    struct iovec piece = {.iov_base = (void *)ticket, .iov_len = sizeof *ticket};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof file);
    memcpy(CMSG_DATA(header), &file, sizeof file);
    return sendmsg(socket, &message, MSG_NOSIGNAL) == (ssize_t)sizeof *ticket ? 0 : -errno;
}

static int receive_ticket(int socket, int *file, struct pmfs_ticket *ticket) {
    char control[CMSG_SPACE(sizeof *file)];
    struct iovec piece = {.iov_base = ticket, .iov_len = sizeof *ticket};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    const ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    const struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (got != (ssize_t)sizeof *ticket || header == NULL) return -EPROTO;
    memcpy(file, CMSG_DATA(header), sizeof *file);
    return 0;
}

/* The second process: no privileges, and only what comes over the socket. */
static int second(int socket, uid_t uid) {
    if (setgroups(0, NULL) != 0 || setresgid(uid, uid, uid) != 0 || setresuid(uid, uid, uid) != 0)
        return fail("dropping privileges", errno);
    int file;
    struct pmfs_ticket ticket;
    struct pmfs_map *map;
    int result = receive_ticket(socket, &file, &ticket);
    if (result == 0) result = pmfs_map_ticket(file, &ticket, &map);
    if (result != 0) return fail("mapping by the ticket", -result);
    const size_t slots = pmfs_map_length(map) / SLOT;
    char *base = pmfs_map_address(map);
    /* Every slot once, in an order that jumps: slots is no multiple of this prime. */
    for (size_t i = 0, slot = 0; i < slots; i++, slot = (slot + 7919) % slots) {
        memset(base + slot * SLOT, (int)(slot & 0x7f) + 1, SLOT);
        result = pmfs_persist(map, slot * SLOT, SLOT);
        if (result != 0) return fail("making a slot durable", -result);
    }
    printf("user %u wrote %zu slots through the map it was handed\n", (unsigned)getuid(), slots);
    fflush(stdout);
    /* Done; and a ticket is good once. */
    struct pmfs_map *again;
    if (pmfs_map_ticket(file, &ticket, &again) == 0)
        return fail("the ticket was good a second time", EIO);
    pmfs_unmap(map);
    return 0;
}

/* The first process: hands over, waits, and reads what was written. */
static int first(const char *path, int socket, pid_t child) {
    const int file = pmfs_open(path, O_RDWR, 0);
    if (file < 0) return fail(path, -file);
    struct pmfs_info info;
    struct pmfs_ticket ticket;
    int result = pmfs_query(file, &info);
    if (result != 0) return fail(path, -result);
    const size_t length = info.size / SLOT * SLOT;
    if (length < 16 * SLOT || length / SLOT % 7919 == 0)
        return fail("the file is too small: 64 KiB at least", EINVAL);
    result = pmfs_make_ticket(file, 0, length, PROT_READ | PROT_WRITE, 0, &ticket);
    if (result == 0) result = send_ticket(socket, file, &ticket);
    if (result != 0) return fail("handing over", -result);

    int status;
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return fail("the second process failed", ECANCELED);
    char *slot = aligned_alloc(SLOT, SLOT);
    if (slot == NULL) return fail("memory", ENOMEM);
    size_t right = 0;
    for (size_t i = 0; i < length / SLOT; i++) {
        if (pread(file, slot, SLOT, (off_t)(i * SLOT)) != (ssize_t)SLOT) break;
        const char wanted = (char)((i & 0x7f) + 1);
        if (slot[0] != wanted || memcmp(slot, slot + 1, SLOT - 1) != 0) break;
        right++;
    }
    free(slot);
    if (right != length / SLOT) return fail("a slot does not hold what was written", EIO);
    printf("all %zu of them are read back through the mount\n", right);
    close(file);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3 || argv[1][0] == '-') {
        fprintf(stderr, "usage: stable_map FILE-ON-PMFS [UID]\n");
        return 2;
    }
    const uid_t uid = argc == 3 ? (uid_t)strtoul(argv[2], NULL, 10) : 65534;
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return fail("a socket", errno);
    const pid_t child = fork();
    if (child < 0) return fail("a process", errno);
    if (child == 0) {
        close(ends[0]);
        const int failed = second(ends[1], uid);
        fflush(NULL);
        _exit(failed);
    }
    close(ends[1]);
    const int failed = first(argv[1], ends[0], child);
    close(ends[0]); /* ends the wait of a second process that is still there */
    return failed;
}
