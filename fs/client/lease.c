/* pmfs_lease: a breakable lease that maps nothing, and the channel that reports when it is broken.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "internal.h"

struct pmfs_lease {
    int file; /* the grant lives as long as this */
    struct pmfs_identity file_is;
    struct pmfs_bound bound;
    uint64_t grant;
};

/* A lease of a grant that was taken on `fd`, which is given back on failure. */
static int begin(int fd, const struct pmfs_io_grant *grant, struct pmfs_lease **out) {
    struct pmfs_lease *lease = malloc(sizeof *lease);
    const int file = lease != NULL ? pmfs_duplicate(fd, false) : -ENOMEM;
    if (file < 0) {
        pmfs_give_back(fd, grant->grant);
        free(lease);
        return file;
    }
    *lease =
        (struct pmfs_lease){.file = file, .file_is = pmfs_identify(file), .grant = grant->grant};
    const int result = pmfs_bind(grant, &lease->bound);
    /* A lease is useless without its events, so it is refused if there is no channel. */
    const int channel = result == 0 ? pmfs_bound_channel(&lease->bound) : result;
    if (channel < 0) {
        pmfs_lease_end(lease);
        return channel;
    }
    *out = lease;
    return 0;
}

PMFS_EXPORT int pmfs_lease(int fd, off_t offset, size_t length, unsigned flags,
                           struct pmfs_lease **out) {
    *out = NULL;
    if ((flags & ~(PMFS_GRANT_STORE | PMFS_GRANT_NOWAIT)) != 0) return -EINVAL;
    int result = pmfs_check_range(offset, length);
    if (result != 0) return result;
    struct pmfs_io_grant grant = {.flags = flags | PMFS_GRANT_EVENTS,
                                  .kind = PMFS_GRANT_BREAKABLE,
                                  .offset = (uint64_t)offset,
                                  .length = length};
    result = pmfs_take_grant(fd, &grant); /* may wait, and a thread may be cancelled meanwhile */
    if (result != 0) return result;
    const int cancel = pmfs_disable_cancel();
    result = begin(fd, &grant, out);
    pmfs_restore_cancel(cancel);
    return result;
}

PMFS_EXPORT int pmfs_lease_event_fd(const struct pmfs_lease *lease) {
    /* It was made with the lease; here, it is only made anew if the program has closed it. */
    return pmfs_bound_channel((struct pmfs_bound *)&lease->bound);
}

PMFS_EXPORT int pmfs_lease_event(const struct pmfs_lease *lease, struct pmfs_event *out) {
    const int channel = pmfs_lease_event_fd(lease);
    if (channel < 0) return channel;
    const int result = pmfs_broker_event(channel, out);
    if (result == 0) out->grant = lease->grant;
    return result;
}

PMFS_EXPORT int pmfs_lease_end(struct pmfs_lease *lease) {
    if (lease == NULL) return 0;
    const int cancel = pmfs_disable_cancel();
    if (pmfs_bound_is_ours(&lease->bound) && pmfs_is_still(lease->file, &lease->file_is))
        pmfs_give_back(lease->file, lease->grant);
    pmfs_unbind(&lease->bound);
    pmfs_close_own(lease->file, &lease->file_is);
    free(lease);
    pmfs_restore_cancel(cancel);
    return 0;
}
