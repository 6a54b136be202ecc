/* Grants without a mapping: taken and given back by an ioctl each.  pmfs_pin is one of them. */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>

#include "internal.h"

int pmfs_take_grant(int fd, struct pmfs_io_grant *grant) {
    grant->version = PMFS_ABI_VERSION;
    return pmfs_ioctl_waiting(fd, PMFS_IOC_GRANT, grant, (grant->flags & PMFS_GRANT_NOWAIT) == 0);
}

static int give_back(int fd, uint64_t grant) {
    struct pmfs_io_release_grant io = {.version = PMFS_ABI_VERSION, .grant = grant};
    return pmfs_ioctl(fd, PMFS_IOC_RELEASE_GRANT, &io);
}

void pmfs_give_back(int fd, uint64_t grant) {
    (void)give_back(fd, grant);
}

int pmfs_check_range(off_t offset, size_t length) {
    uint64_t end;
    if (offset < 0 || __builtin_add_overflow((uint64_t)offset, (uint64_t)length, &end) ||
        end > INT64_MAX)
        return -EINVAL;
    return 0;
}

PMFS_EXPORT int pmfs_grant(int fd, unsigned kind, off_t offset, size_t length, unsigned flags,
                           uint64_t *grant) {
    *grant = 0;
    if ((flags & ~(PMFS_GRANT_STORE | PMFS_GRANT_NOWAIT)) != 0) return -EINVAL;
    struct pmfs_io_grant io = {
        .flags = flags, .kind = kind, .offset = (uint64_t)offset, .length = length};
    int result = pmfs_check_range(offset, length);
    if (result == 0) result = pmfs_take_grant(fd, &io);
    if (result == 0) *grant = io.grant;
    return result;
}

PMFS_EXPORT int pmfs_release(int fd, uint64_t grant) {
    return give_back(fd, grant);
}

PMFS_EXPORT int pmfs_pin(int fd, off_t offset, size_t length, uint64_t *pin) {
    return pmfs_grant(fd, PMFS_GRANT_PIN, offset, length, 0, pin);
}

PMFS_EXPORT int pmfs_unpin(int fd, uint64_t pin) {
    return give_back(fd, pin);
}
