/* The plain calls of libpmfs: one ioctl each. */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>

#include "internal.h"

/* One step of pmfs_prepare: a whole number of units, and short enough that others get their turn.
 */
#define PREPARE_STEP ((uint64_t)64 << 20)

#define PAUSE_MAX_MS 16 /* between two checks whether a lease is gone */

int pmfs_ioctl(int fd, unsigned long command, void *io) {
    int result;
    do {
        result = ioctl(fd, command, io);
    } while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}

int pmfs_ioctl_waiting(int fd, unsigned long command, void *io, bool wait) {
    long milliseconds = 1;
    while (ioctl(fd, command, io) != 0) {
        if (errno != EAGAIN || !wait) return -errno;
        /* A signal could not end an ioctl that waits in the kernel, so the wait is here. */
        const int flags = fcntl(fd, F_GETFL);
        if (flags < 0 || (flags & O_NONBLOCK) != 0) return -EAGAIN;
        const struct timespec pause = {.tv_nsec = milliseconds * 1000000};
        if (nanosleep(&pause, NULL) != 0) return -EINTR;
        if (milliseconds < PAUSE_MAX_MS) milliseconds *= 2;
    }
    return 0;
}

PMFS_EXPORT int pmfs_open(const char *path, int flags, mode_t mode) {
    const int fd = open(path, flags | O_DIRECT | O_CLOEXEC, mode);
    return fd < 0 ? -errno : fd;
}

PMFS_EXPORT int pmfs_query(int fd, struct pmfs_info *out) {
    memset(out, 0, sizeof *out);
    out->version = PMFS_ABI_VERSION;
    return pmfs_ioctl(fd, PMFS_IOC_INFO, out);
}

PMFS_EXPORT int pmfs_query_volume(int fd, struct pmfs_volume *out) {
    memset(out, 0, sizeof *out);
    out->version = PMFS_ABI_VERSION;
    return pmfs_ioctl(fd, PMFS_IOC_VOLUME, out);
}

PMFS_EXPORT int pmfs_prepare(int fd, off_t offset, size_t length, size_t unit) {
    struct stat status;
    if (fstat(fd, &status) != 0) return -errno;
    if (offset < 0) return -EINVAL;
    struct pmfs_io_prepare io = {.version = PMFS_ABI_VERSION, .offset = (uint64_t)offset};
    io.unit = unit;
    uint64_t end = (uint64_t)status.st_size;
    if (length != 0 && __builtin_add_overflow((uint64_t)offset, length, &end)) return -EINVAL;
    do {
        /* To the next multiple of the step, so that no unit is cut in two. */
        const uint64_t next = (io.offset / PREPARE_STEP + 1) * PREPARE_STEP;
        io.length = (next < end ? next : end) - io.offset;
        if (unit > PREPARE_STEP) io.length = length; /* all of it in one */
        const int result = pmfs_ioctl_waiting(fd, PMFS_IOC_PREPARE, &io, true);
        if (result != 0) return result;
        io.offset = next;
    } while (unit <= PREPARE_STEP && io.offset < end);
    return 0;
}

PMFS_EXPORT int pmfs_prepare_contiguous(int fd, off_t offset, size_t length) {
    const int result = pmfs_check_range(offset, length);
    if (result != 0) return result;
    struct pmfs_io_prepare io = {.version = PMFS_ABI_VERSION,
                                 .flags = PMFS_PREPARE_CONTIGUOUS,
                                 .offset = (uint64_t)offset,
                                 .length = length};
    return pmfs_ioctl_waiting(fd, PMFS_IOC_PREPARE, &io, true);
}

PMFS_EXPORT int pmfs_seal(int fd, unsigned level) {
    struct pmfs_io_seal io = {.version = PMFS_ABI_VERSION, .level = level};
    return pmfs_ioctl(fd, PMFS_IOC_SEAL, &io);
}

PMFS_EXPORT int pmfs_unseal(int fd) {
    struct pmfs_io_unseal io = {.version = PMFS_ABI_VERSION};
    return pmfs_ioctl(fd, PMFS_IOC_UNSEAL, &io);
}

/* The rules for the seal modes of FUSE_FALLOCATE (docs/seal.md), for kernels that refuse them. */
static int seal_by_ioctl(int fd, int mode, off_t offset, off_t length) {
    struct stat status;
    if (fstat(fd, &status) != 0) return -errno;
    const int seal_mode = mode & ~FALLOC_FL_KEEP_SIZE;
    if (mode == seal_mode || offset != 0 || length < status.st_size) return -EINVAL;
    if (seal_mode == PMFS_FALLOC_FL_SEAL_BLOCK_MAP) return pmfs_seal(fd, PMFS_SEAL_FULL);
    if (seal_mode == PMFS_FALLOC_FL_UNSEAL_BLOCK_MAP) return pmfs_unseal(fd);
    return -EINVAL;
}

PMFS_EXPORT int pmfs_fallocate(int fd, int mode, off_t offset, off_t length) {
    if (fallocate(fd, mode, offset, length) == 0) return 0;
    const int error = -errno;
    const int seal_modes = PMFS_FALLOC_FL_SEAL_BLOCK_MAP | PMFS_FALLOC_FL_UNSEAL_BLOCK_MAP;
    if (error != -EOPNOTSUPP || (mode & seal_modes) == 0) return error;
    const int result = seal_by_ioctl(fd, mode, offset, length);
    return result == -ENOTTY ? -EOPNOTSUPP : result;
}
