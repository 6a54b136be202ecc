/*
 * uring_socket - network I/O straight out of a file, and straight into it.
 *
 *     uring_socket FILE-ON-PMFS
 *
 * FILE is sealed full (or prepared) and at least 128 KiB long; its second half is overwritten.  The
 * program maps it by libpmfs, registers the mapping with io_uring, and over a TCP connection on
 * this machine sends its first half (SEND_ZC: the network card's driver reads the medium) and
 * receives that into its second half (READ_FIXED: the kernel puts what it received on the medium).
 * There is no buffer in between.  Then read(2) on the mount must give the same bytes twice.  For
 * disk files see uring_fixed.c.  The medium must be device-DAX or memory: the kernel pins nothing
 * else.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netinet/in.h>
#include <pmfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE ((size_t)64 << 10)
#define HALF_MAX ((size_t)16 << 20)
enum { SENDING = 1, RECEIVING = 2 }; /* what a completion is of */

static int fail(const char *what, int error) {
    fprintf(stderr, "uring_socket: %s: %s\n", what, strerror(error));
    return 1;
}

/* Both ends of a TCP connection on this machine; 0 or -errno. */
static int connect_ends(int ends[2]) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || ends[0] < 0 || bind(listener, (struct sockaddr *)&here, size) != 0 ||
        listen(listener, 1) != 0 || getsockname(listener, (struct sockaddr *)&here, &size) != 0 ||
        connect(ends[0], (struct sockaddr *)&here, size) != 0)
        return -errno;
    ends[1] = accept(listener, NULL, NULL);
    close(listener);
    return ends[1] < 0 ? -errno : 0;
}

struct stream {
    struct io_uring ring;
    int ends[2];
    char *from, *to;
    size_t length, sent, received;
    unsigned pending; /* notifications that the kernel has let go of what was sent */
};

static void start_send(struct stream *s) {
    const size_t left = s->length - s->sent;
    struct io_uring_sqe *entry = io_uring_get_sqe(&s->ring);
    io_uring_prep_send_zc_fixed(entry, s->ends[0], s->from + s->sent, left < PIECE ? left : PIECE,
                                0, 0, 0);
    io_uring_sqe_set_data64(entry, SENDING);
}

static void start_receive(struct stream *s) {
    const size_t left = s->length - s->received;
    struct io_uring_sqe *entry = io_uring_get_sqe(&s->ring);
    io_uring_prep_read_fixed(entry, s->ends[1], s->to + s->received,
                             (unsigned)(left < PIECE ? left : PIECE), 0, 0);
    io_uring_sqe_set_data64(entry, RECEIVING);
}

/* One completion; 0 or -errno. */
static int take(struct stream *s, const struct io_uring_cqe *completion) {
    if ((completion->flags & IORING_CQE_F_NOTIF) != 0) {
        s->pending--;
        return 0;
    }
    if ((completion->flags & IORING_CQE_F_MORE) != 0) s->pending++;
    if (completion->res <= 0) return completion->res < 0 ? completion->res : -ECONNRESET;
    const size_t done = (size_t)completion->res;
    if (completion->user_data == SENDING) {
        s->sent += done;
        if (s->sent < s->length) start_send(s);
    } else {
        s->received += done;
        if (s->received < s->length) start_receive(s);
    }
    return 0;
}

static int move(struct stream *s) {
    start_send(s);
    start_receive(s);
    int result = 0;
    while (result == 0 && (s->received < s->length || s->sent < s->length || s->pending != 0)) {
        struct io_uring_cqe *completion;
        result = io_uring_submit_and_wait(&s->ring, 1);
        if (result >= 0) result = io_uring_wait_cqe(&s->ring, &completion);
        if (result != 0) break;
        const struct io_uring_cqe copy = *completion;
        io_uring_cqe_seen(&s->ring, completion);
        result = take(s, &copy);
    }
    return result;
}

/* What an ordinary reader of the file sees now. */
static int check(int file, size_t length) {
    char *first = aligned_alloc(4096, length), *second = aligned_alloc(4096, length);
    int failed = 0;
    if (first == NULL || second == NULL)
        failed = fail("memory", ENOMEM);
    else if (pread(file, first, length, 0) != (ssize_t)length ||
             pread(file, second, length, (off_t)length) != (ssize_t)length)
        failed = fail("reading the file", errno);
    else if (memcmp(first, second, length) != 0)
        failed = fail("what came is not what was sent", EIO);
    free(first);
    free(second);
    return failed;
}

int main(int argc, char **argv) {
    if (argc != 2 || argv[1][0] == '-') {
        fprintf(stderr, "usage: uring_socket FILE-ON-PMFS\n");
        return 2;
    }
    struct stream s = {.ends = {-1, -1}};
    struct pmfs_map *map;
    const int file = pmfs_open(argv[1], O_RDWR, 0);
    if (file < 0) return fail(argv[1], -file);
    int result = pmfs_map(file, 0, 0, PROT_READ | PROT_WRITE, 0, &map);
    if (result != 0) return fail("mapping the file", -result);
    s.length = pmfs_map_length(map) / 2 / PIECE * PIECE;
    if (s.length > HALF_MAX) s.length = HALF_MAX;
    if (s.length == 0) return fail("the file is too small: 128 KiB at least", EINVAL);
    s.from = pmfs_map_address(map);
    s.to = s.from + s.length;

    const struct iovec buffer = {.iov_base = s.from, .iov_len = 2 * s.length};
    result = io_uring_queue_init(8, &s.ring, 0);
    if (result == 0) result = io_uring_register_buffers(&s.ring, &buffer, 1);
    if (result != 0) return fail("registering the mapping", -result);
    result = connect_ends(s.ends);
    if (result == 0) result = move(&s);
    io_uring_queue_exit(&s.ring); /* and with it the pin */
    if (result != 0) return fail("moving bytes", -result);
    result = pmfs_persist(map, s.length, s.length);
    if (result != 0) return fail("making them durable", -result);
    const int failed = check(file, s.length);
    if (!failed) printf("%zu bytes: file -> socket -> file, and the mount agrees\n", s.length);
    pmfs_unmap(map);
    close(file);
    return failed;
}
