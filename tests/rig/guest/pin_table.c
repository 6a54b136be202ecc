/*
 * pin_table - who lets a mapping be pinned for as long as its user likes?
 *
 *     pin_table NAME=pmfs:FILE NAME=file:FILE NAME=anonymous: ...
 *
 * Maps each one shared for reading and writing (pmfs: by libpmfs from the device; file: by mmap(2);
 * anonymous: private memory), and tries to register 1 MiB of it, first as an io_uring buffer, then
 * with RDMA.  One line each: `ROW NAME IO_URING RDMA`, with "ok" or the name of the errno.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pmfs.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "verbs.h"

#define LENGTH ((size_t)1 << 20)

static const char *word(int error) {
    return error == 0 ? "ok" : strerrorname_np(error);
}

static int try_uring(void *start) {
    struct io_uring ring;
    int result = io_uring_queue_init(2, &ring, 0);
    if (result != 0) return -result;
    const struct iovec buffer = {.iov_base = start, .iov_len = LENGTH};
    result = io_uring_register_buffers(&ring, &buffer, 1);
    if (result == 0) result = io_uring_unregister_buffers(&ring);
    io_uring_queue_exit(&ring);
    return -result;
}

static int try_rdma(struct verbs *verbs, void *start) {
    struct ibv_mr *region = verbs_register(verbs, start, LENGTH);
    if (region == NULL) return errno;
    return ibv_dereg_mr(region);
}

static void show(struct verbs *verbs, const char *name, void *start) {
    const int uring = try_uring(start), rdma = try_rdma(verbs, start);
    printf("ROW %s %s %s\n", name, word(uring), word(rdma));
}

static int show_pmfs(struct verbs *verbs, const char *name, const char *path) {
    const int file = pmfs_open(path, O_RDWR, 0);
    if (file < 0) return -file;
    struct pmfs_map *map;
    const int result = pmfs_map(file, 0, LENGTH, PROT_READ | PROT_WRITE, 0, &map);
    close(file);
    if (result != 0) return -result;
    show(verbs, name, pmfs_map_address(map));
    pmfs_unmap(map);
    return 0;
}

static int show_plain(struct verbs *verbs, const char *name, const char *path) {
    int file = -1, how = MAP_PRIVATE | MAP_ANONYMOUS;
    if (path != NULL) {
        file = open(path, O_RDWR | O_CLOEXEC);
        how = MAP_SHARED;
        if (file < 0) return errno;
    }
    void *start = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, how, file, 0);
    const int error = errno;
    if (file >= 0) close(file);
    if (start == MAP_FAILED) return error;
    show(verbs, name, start);
    munmap(start, LENGTH);
    return 0;
}

int main(int argc, char **argv) {
    struct verbs verbs;
    const int opened = verbs_open(&verbs);
    if (opened != 0) {
        fprintf(stderr, "pin_table: the RDMA device: %s\n", strerror(-opened));
        return 1;
    }
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        char *kind = strchr(argv[i], '='), *path = kind == NULL ? NULL : strchr(kind, ':');
        if (path == NULL) return 2;
        *kind++ = 0;
        *path++ = 0;
        int error;
        if (strcmp(kind, "pmfs") == 0)
            error = show_pmfs(&verbs, argv[i], path);
        else
            error = show_plain(&verbs, argv[i], strcmp(kind, "file") == 0 ? path : NULL);
        if (error != 0) {
            fprintf(stderr, "pin_table: %s cannot be mapped: %s\n", argv[i], strerror(error));
            failed = 1;
        }
    }
    verbs_close(&verbs);
    return failed;
}
