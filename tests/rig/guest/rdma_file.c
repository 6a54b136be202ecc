/*
 * rdma_file - a file on pmfs as the target of RDMA, by two processes.
 *
 *     rdma_file serve FILE SOCKET     maps FILE by libpmfs, registers the mapping, waits for
 * clients rdma_file client FILE SOCKET    writes into it and reads from it by RDMA, compares with
 * read(2) rdma_file end FILE SOCKET       ends the server, which unregisters and unmaps
 *
 * FILE is prepared or sealed full.  The client overwrites most of it.  After a client the server
 * makes the whole mapping durable (pmfs_persist): a remote write ends in this machine's caches.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <fcntl.h>
#include <pmfs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "verbs.h"

#define EDGE ((size_t)4096)
#define ALIGN ((size_t)4096)

static int fail(const char *what, int error) {
    fprintf(stderr, "rdma_file: %s: %s\n", what, strerror(error));
    return 1;
}

static int make_socket(const char *path, bool listening) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    const struct sockaddr *at = (const struct sockaddr *)&address;
    if (listening ? bind(fd, at, sizeof address) == 0 && listen(fd, 4) == 0
                  : connect(fd, at, sizeof address) == 0)
        return fd;
    const int error = errno;
    close(fd);
    return -error;
}

/* --- the server */

/* 0: a client was served.  1: it failed.  -1: it asked for the end. */
static int serve_one(struct verbs *verbs, const struct ibv_mr *region, struct pmfs_map *map,
                     int client) {
    struct verbs_address peer;
    if (recv(client, &peer, sizeof peer, 0) != (ssize_t)sizeof peer) return -1;
    struct ibv_qp *pair = verbs_queue_pair(verbs);
    if (pair == NULL) return fail("queue pair", errno);
    const struct verbs_address mine = {.gid = verbs->gid,
                                       .queue_pair = pair->qp_num,
                                       .key = region->rkey,
                                       .start = (uint64_t)(uintptr_t)region->addr,
                                       .length = region->length};
    int result = verbs_connect(verbs, pair, &peer);
    int failed = result != 0 ? fail("connecting", -result) : 0;
    char done = 0;
    if (!failed && send(client, &mine, sizeof mine, 0) != (ssize_t)sizeof mine)
        failed = fail("answering", errno);
    if (!failed && recv(client, &done, 1, 0) != 1) failed = fail("the client", ECONNRESET);
    result = failed ? 0 : pmfs_persist(map, 0, pmfs_map_length(map));
    if (result != 0) failed = fail("pmfs_persist", -result);
    if (!failed && send(client, &done, 1, 0) != 1) failed = fail("answering", errno);
    ibv_destroy_qp(pair);
    return failed;
}

static int serve_all(struct verbs *verbs, struct pmfs_map *map, const char *path) {
    struct ibv_mr *region = verbs_register(verbs, pmfs_map_address(map), pmfs_map_length(map));
    if (region == NULL) return fail("ibv_reg_mr on the mapping", errno);
    printf("registered %zu bytes\n", pmfs_map_length(map));
    const int listener = make_socket(path, true);
    int state = listener < 0 ? fail(path, -listener) : 0;
    while (state == 0) {
        const int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        state = client < 0 ? fail("accept", errno) : serve_one(verbs, region, map, client);
        if (client >= 0) close(client);
    }
    /* Before the mapping goes: a pin that outlives its device takes the kernel with it. */
    if (ibv_dereg_mr(region) != 0) state = fail("ibv_dereg_mr", errno);
    if (listener >= 0) close(listener);
    return state > 0;
}

static int serve(const char *file_path, const char *path) {
    const int file = pmfs_open(file_path, O_RDWR, 0);
    if (file < 0) return fail(file_path, -file);
    struct pmfs_map *map;
    int result = pmfs_map(file, 0, 0, PROT_READ | PROT_WRITE, 0, &map);
    close(file);
    if (result != 0) return fail("pmfs_map", -result);
    struct verbs verbs;
    result = verbs_open(&verbs);
    const int failed =
        result != 0 ? fail("the RDMA device", -result) : serve_all(&verbs, map, path);
    verbs_close(&verbs);
    pmfs_unmap(map);
    return failed;
}

/* --- the client */

static int read_all(int file, char *bytes, size_t length, size_t offset) {
    for (size_t at = 0; at < length;) {
        const ssize_t got = pread(file, bytes + at, length - at, (off_t)(offset + at));
        if (got <= 0) return fail("read(2)", got < 0 ? errno : EIO);
        at += (size_t)got;
    }
    return 0;
}

struct exchange {
    struct verbs verbs;
    struct ibv_qp *pair;
    struct ibv_mr *region;
    struct verbs_address peer;
    char *bytes, *seen;
    size_t length;
    int file, server;
};

static int exchange_all(struct exchange *x) {
    /* What the file holds comes by RDMA READ. */
    int result = verbs_transfer(&x->verbs, x->pair, IBV_WR_RDMA_READ, x->region, x->bytes, &x->peer,
                                EDGE, (uint32_t)x->length);
    if (result != 0) return fail("RDMA READ", -result);
    if (read_all(x->file, x->seen, x->length, EDGE) != 0) return 1;
    if (memcmp(x->bytes, x->seen, x->length) != 0) return fail("RDMA READ gave other bytes", EIO);
    printf("RDMA READ of %zu bytes: what read(2) gives\n", x->length);
    /* And the other way round. */
    for (size_t at = 0; at < x->length;) {
        const ssize_t got = getrandom(x->bytes + at, x->length - at, 0);
        if (got <= 0) return fail("getrandom", errno);
        at += (size_t)got;
    }
    result = verbs_transfer(&x->verbs, x->pair, IBV_WR_RDMA_WRITE, x->region, x->bytes, &x->peer,
                            EDGE, (uint32_t)x->length);
    if (result != 0) return fail("RDMA WRITE", -result);
    char done = 1; /* and it is durable when the answer comes */
    if (send(x->server, &done, 1, 0) != 1 || recv(x->server, &done, 1, 0) != 1)
        return fail("the server", ECONNRESET);
    if (read_all(x->file, x->seen, x->length, EDGE) != 0) return 1;
    if (memcmp(x->bytes, x->seen, x->length) != 0)
        return fail("read(2) does not give what RDMA WRITE wrote", EIO);
    printf("RDMA WRITE of %zu bytes: read(2) gives them\n", x->length);
    return 0;
}

static int meet(struct exchange *x) {
    int result = verbs_open(&x->verbs);
    if (result != 0) return fail("the RDMA device", -result);
    x->pair = verbs_queue_pair(&x->verbs);
    if (x->pair == NULL) return fail("queue pair", errno);
    const struct verbs_address mine = {.gid = x->verbs.gid, .queue_pair = x->pair->qp_num};
    if (send(x->server, &mine, sizeof mine, 0) != (ssize_t)sizeof mine ||
        recv(x->server, &x->peer, sizeof x->peer, 0) != (ssize_t)sizeof x->peer)
        return fail("the server", ECONNRESET);
    result = verbs_connect(&x->verbs, x->pair, &x->peer);
    if (result != 0) return fail("connecting", -result);
    /* All but the edges: what is beside it must stay. */
    x->length = (size_t)x->peer.length - 2 * EDGE;
    x->bytes = aligned_alloc(ALIGN, (x->length + ALIGN - 1) / ALIGN * ALIGN);
    x->seen = malloc(x->length);
    if (x->bytes == NULL || x->seen == NULL) return fail("memory", ENOMEM);
    x->region = verbs_register(&x->verbs, x->bytes, x->length);
    return x->region == NULL ? fail("ibv_reg_mr on plain memory", errno) : 0;
}

static int client(const char *file_path, const char *path) {
    struct exchange x = {0};
    x.file = open(file_path, O_RDONLY | O_CLOEXEC);
    if (x.file < 0) return fail(file_path, errno);
    x.server = make_socket(path, false);
    if (x.server < 0) return fail(path, -x.server);
    int failed = meet(&x);
    if (!failed) failed = exchange_all(&x);
    if (x.region != NULL) ibv_dereg_mr(x.region);
    if (x.pair != NULL) ibv_destroy_qp(x.pair);
    verbs_close(&x.verbs);
    free(x.bytes);
    free(x.seen);
    close(x.server);
    close(x.file);
    return failed;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 4 && strcmp(argv[1], "serve") == 0) return serve(argv[2], argv[3]);
    if (argc == 4 && strcmp(argv[1], "client") == 0) return client(argv[2], argv[3]);
    if (argc == 4 && strcmp(argv[1], "end") == 0) {
        const int fd = make_socket(argv[3], false);
        return fd < 0 ? fail(argv[3], -fd) : close(fd);
    }
    fprintf(stderr, "usage: rdma_file serve|client|end FILE SOCKET\n");
    return 2;
}
