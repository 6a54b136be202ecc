/*
 * libpmfs-preload.so: lets a program that knows only fallocate(2) seal and unseal files (and map
 * them directly: preload_maps.c).
 *
 *     LD_PRELOAD=libpmfs-preload.so PROGRAM
 *
 * No stock kernel passes the seal modes of docs/seal.md to a filesystem.  This library intercepts
 * the C library's fallocate(2) and uses the ioctl instead, with the rules of the kernel patch: for
 * these modes, on a pmfs mount, and for nothing else.
 */
#undef _FILE_OFFSET_BITS /* both functions are defined here, so neither may be named as the other  \
                          */
#define _GNU_SOURCE      /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pmfs_ioctl.h"

typedef int (*fallocate_function)(int, int, off64_t, off64_t);

/* The next definition: the C library's, or another preloaded library's. */
static int next_fallocate(const char *name, fallocate_function *known, int fd, int mode,
                          off64_t offset, off64_t length) {
    fallocate_function next = __atomic_load_n(known, __ATOMIC_RELAXED);
    if (next == NULL) {
        /* ISO C has no conversion between the two kinds of pointers; POSIX promises this one. */
        *(void **)&next = dlsym(RTLD_NEXT, name);
        if (next == NULL) {
            errno = ENOSYS;
            return -1;
        }
        __atomic_store_n(known, next, __ATOMIC_RELAXED);
    }
    return next(fd, mode, offset, length);
}

/* As the kernel would: fd and file first, then the mode's rules.  0, or an errno value. */
static int seal_by_ioctl(int fd, int mode, off64_t offset, off64_t length) {
    struct stat64 status;
    if (fstat64(fd, &status) != 0) return errno;
    const int seal_mode = mode & ~FALLOC_FL_KEEP_SIZE;
    if (mode == seal_mode || offset != 0 || length < status.st_size) return EINVAL;
    int result;
    if (seal_mode == PMFS_FALLOC_FL_SEAL_BLOCK_MAP) {
        struct pmfs_io_seal io = {.version = PMFS_ABI_VERSION, .level = PMFS_SEAL_FULL};
        result = ioctl(fd, PMFS_IOC_SEAL, &io);
    } else if (seal_mode == PMFS_FALLOC_FL_UNSEAL_BLOCK_MAP) {
        struct pmfs_io_unseal io = {.version = PMFS_ABI_VERSION};
        result = ioctl(fd, PMFS_IOC_UNSEAL, &io);
    } else {
        return EINVAL;
    }
    return result == 0 ? 0 : errno;
}

/* Whether this file is on a pmfs; it changes nothing. */
static bool on_pmfs(int fd) {
    struct pmfs_info info = {.version = PMFS_ABI_VERSION};
    return ioctl(fd, PMFS_IOC_INFO, &info) == 0;
}

static int seal_or_next(const char *name, fallocate_function *known, int fd, int mode,
                        off64_t offset, off64_t length) {
    const int before = errno;
    const int result = next_fallocate(name, known, fd, mode, offset, length);
    const int modes = PMFS_FALLOC_FL_SEAL_BLOCK_MAP | PMFS_FALLOC_FL_UNSEAL_BLOCK_MAP;
    /* A kernel that knows the modes has done it, or has returned its reason. */
    if (result == 0 || errno != EOPNOTSUPP || (mode & modes) == 0) return result;
    int error = EOPNOTSUPP;
    if (on_pmfs(fd)) error = seal_by_ioctl(fd, mode, offset, length);
    errno = error == 0 ? before : error;
    return error == 0 ? 0 : -1;
}

__attribute__((visibility("default"))) int fallocate64(int fd, int mode, off64_t offset,
                                                       off64_t length) {
    static fallocate_function known;
    return seal_or_next("fallocate64", &known, fd, mode, offset, length);
}

__attribute__((visibility("default"))) int fallocate(int fd, int mode, off_t offset, off_t length) {
    static fallocate_function known;
    /* Where off_t is narrow, only the other one has our function's type. */
    const char *name = sizeof offset == sizeof(off64_t) ? "fallocate" : "fallocate64";
    return seal_or_next(name, &known, fd, mode, offset, length);
}
