/*
 * uring_fixed - DMA straight into a file: a pmfs mapping as an io_uring fixed buffer.
 *
 *     uring_fixed FILE-ON-PMFS DIRECTORY-ON-A-DISK
 *
 * FILE is prepared (or sealed full) and at least 64 KiB long; its first bytes are overwritten.  The
 * program
 *   1. maps FILE by libpmfs and registers the mapping with io_uring: a long-term pin, what RDMA
 * needs, too;
 *   2. reads a disk file into it (READ_FIXED) and compares what read(2) on the mount gives;
 *   3. stores to it and writes it out to the disk file (WRITE_FIXED), and compares that;
 *   4. tries to register an ordinary mapping of the disk file, and one of a pmfs file through the
 * mount, which the kernel refuses: it cannot promise that those pages stay where they are. Exit
 * status 0: all of that happened.  The medium must be device-DAX or memory, not an image file,
 * whose pages are a disk filesystem's.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pmfs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TRANSFER_MAX ((size_t)1 << 20)
#define BUFFER_MAX ((size_t)1 << 30) /* io_uring's own limit */
#define ALIGN ((size_t)4096)

static int fail(const char *what, int error) {
    fprintf(stderr, "uring_fixed: %s: %s\n", what, strerror(error));
    return 1;
}

/* A ring with one fixed buffer; 0 or -errno. */
static int make_ring(struct io_uring *ring, void *address, size_t length) {
    const struct iovec buffer = {.iov_base = address, .iov_len = length};
    int result = io_uring_queue_init(4, ring, 0);
    if (result != 0) return result;
    result = io_uring_register_buffers(ring, &buffer, 1);
    if (result != 0) io_uring_queue_exit(ring);
    return result;
}

/* One READ_FIXED or WRITE_FIXED of the whole length; 0 or -errno. */
static int transfer(struct io_uring *ring, bool write, int disk, void *at, size_t length) {
    struct io_uring_sqe *entry = io_uring_get_sqe(ring);
    if (write)
        io_uring_prep_write_fixed(entry, disk, at, (unsigned)length, 0, 0);
    else
        io_uring_prep_read_fixed(entry, disk, at, (unsigned)length, 0, 0);
    int result = io_uring_submit_and_wait(ring, 1);
    struct io_uring_cqe *completion;
    if (result < 0 || (result = io_uring_wait_cqe(ring, &completion)) < 0) return result;
    result = completion->res;
    io_uring_cqe_seen(ring, completion);
    if (result < 0) return result;
    return (size_t)result == length ? 0 : -EIO;
}

static void fill(char *bytes, size_t length, unsigned seed) {
    for (size_t i = 0; i < length; i++) bytes[i] = (char)(i * 7 + (i >> 12) * 13 + seed);
}

/* Whether `path`, read in the ordinary way, holds these bytes. */
static bool holds(int fd, const char *bytes, size_t length) {
    char *got = aligned_alloc(ALIGN, length);
    const bool same = got != NULL && pread(fd, got, length, 0) == (ssize_t)length &&
                      memcmp(got, bytes, length) == 0;
    free(got);
    return same;
}

/* Steps 2 and 3. */
static int exchange(struct io_uring *ring, struct pmfs_map *map, int file, int disk) {
    char *mapped = pmfs_map_address(map);
    size_t length = pmfs_map_length(map);
    length = length < TRANSFER_MAX ? length / ALIGN * ALIGN : TRANSFER_MAX;
    char *bytes = aligned_alloc(ALIGN, length);
    if (bytes == NULL) return fail("memory", ENOMEM);
    fill(bytes, length, 1);
    int failed = 0;
    if (pwrite(disk, bytes, length, 0) != (ssize_t)length) failed = fail("disk file", errno);
    int result = failed ? 0 : transfer(ring, false, disk, mapped, length);
    if (result != 0) failed = fail("READ_FIXED", -result);
    if (!failed && !holds(file, bytes, length))
        failed = fail("read(2) on the mount does not give what was read into the mapping", EIO);
    if (!failed)
        printf("  disk -> file  READ_FIXED %zu bytes; read(2) on the mount agrees\n", length);

    fill(bytes, length, 101);
    if (!failed) {
        memcpy(mapped, bytes, length);
        result = transfer(ring, true, disk, mapped, length);
        if (result != 0) failed = fail("WRITE_FIXED", -result);
    }
    if (!failed && !holds(disk, bytes, length))
        failed = fail("the disk file does not hold what was stored", EIO);
    if (!failed) printf("  file -> disk  WRITE_FIXED %zu bytes; the disk file agrees\n", length);
    free(bytes);
    return failed;
}

/* Step 4: the kernel's answer to registering an ordinary shared mapping; 0 means it was accepted.
 */
static int try_ordinary(const char *path, int *refusal) {
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return fail(path, errno);
    void *mapped = MAP_FAILED;
    if (ftruncate(fd, (off_t)ALIGN) == 0)
        mapped = mmap(NULL, ALIGN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    const int error = errno;
    close(fd);
    unlink(path);
    if (mapped == MAP_FAILED) return fail(path, error);
    struct io_uring ring;
    *refusal = make_ring(&ring, mapped, ALIGN);
    if (*refusal == 0) io_uring_queue_exit(&ring);
    munmap(mapped, ALIGN);
    return 0;
}

static int show_refusal(const char *what, const char *directory, size_t directory_length) {
    char *path = NULL;
    int refusal = 0;
    if (asprintf(&path, "%.*s/.uring_fixed.%d", (int)directory_length, directory, (int)getpid()) <
        0)
        return fail("memory", ENOMEM);
    int failed = try_ordinary(path, &refusal);
    free(path);
    if (failed) return failed;
    printf("  %s: %s\n", what, refusal == 0 ? "accepted" : strerrorname_np(-refusal));
    if (refusal == 0) return fail("the kernel pinned what it was expected to refuse", EIO);
    return 0;
}

static int run(const char *path, const char *directory, int file, int disk, struct pmfs_map *map) {
    struct io_uring ring;
    size_t length = pmfs_map_length(map);
    if (length > BUFFER_MAX) length = BUFFER_MAX;
    const int result = make_ring(&ring, pmfs_map_address(map), length);
    if (result != 0) return fail("registering the mapping", -result);
    printf("  pmfs mapping of %zu bytes: registered as a fixed buffer\n", length);
    int failed = exchange(&ring, map, file, disk);
    io_uring_queue_exit(&ring);
    const char *slash = strrchr(path, '/');
    if (!failed)
        failed = show_refusal("mapping of a file in the directory on disk", directory,
                              strlen(directory));
    if (!failed)
        failed = show_refusal("mapping of a pmfs file through the mount  ", slash ? path : ".",
                              slash ? (size_t)(slash - path) : 1);
    return failed;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: uring_fixed FILE-ON-PMFS DIRECTORY-ON-A-DISK\n");
        return 2;
    }
    const int file = pmfs_open(argv[1], O_RDWR, 0);
    if (file < 0) return fail(argv[1], -file);
    const int disk = open(argv[2], O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (disk < 0) return fail(argv[2], errno);
    struct pmfs_map *map;
    const int result = pmfs_map(file, 0, 0, PROT_READ | PROT_WRITE, 0, &map);
    if (result != 0) return fail("mapping the file", -result);
    int failed = 0;
    if (pmfs_map_length(map) < 16 * ALIGN)
        failed = fail("the file is too small: 64 KiB at least", EINVAL);
    else
        failed = run(argv[1], argv[2], file, disk, map);
    pmfs_unmap(map);
    close(disk);
    close(file);
    return failed;
}
