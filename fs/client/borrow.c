/* pmfs_borrow: a grant and a descriptor of the device for the program that is executed next. */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

static int borrow(int fd, const struct pmfs_io_grant *grant) {
    struct pmfs_bound bound = {.channel = -1};
    /* The grant belongs to the open file description, which this descriptor keeps open over the
     * exec. */
    const int file = pmfs_duplicate(fd, true);
    const int device = file >= 0 ? pmfs_bind(grant, &bound) : file;
    int result = device < 0 ? device : pmfs_keep_over_exec(device);
    if (result == 0) result = pmfs_bound_keep_over_exec(&bound);
    if (result == 0) return device; /* `bound` keeps the connection for ever */
    if (device >= 0) close(device);
    pmfs_give_back(fd, grant->grant);
    pmfs_unbind(&bound);
    if (file >= 0) close(file);
    return result;
}

PMFS_EXPORT int pmfs_borrow(int fd, off_t offset, size_t length) {
    struct pmfs_io_grant grant;
    int result = pmfs_map_request(offset, length, PROT_READ, PMFS_MAP_FORK, &grant);
    grant.flags |= PMFS_GRANT_CHUNKS; /* a virtual machine maps in huge pages */
    if (result == 0) result = pmfs_take_grant(fd, &grant);
    if (result != 0) return result;
    const int cancel = pmfs_disable_cancel();
    result = borrow(fd, &grant);
    pmfs_restore_cancel(cancel);
    return result;
}
