/* pmfs_lease: a breakable lease that maps nothing, and the connection that says when it is to go.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "internal.h"

struct pmfs_lease {
    int file; /* the grant lives as long as this */
    int broker;
    uint64_t grant;
};

/* The connection that brings the events of a grant; or -errno. */
static int connect_events(const struct pmfs_io_grant *grant) {
    const int broker = pmfs_broker_connect(grant);
    if (broker < 0) return broker;
    const int result = pmfs_broker_receive(broker, grant);
    if (result == 0) return broker;
    close(broker);
    return result;
}

PMFS_EXPORT int pmfs_lease(int fd, off_t offset, size_t length, unsigned flags,
                           struct pmfs_lease **out) {
    *out = NULL;
    if ((flags & ~(PMFS_GRANT_STORE | PMFS_GRANT_NOWAIT)) != 0) return -EINVAL;
    int result = pmfs_check_range(offset, length);
    if (result != 0) return result;
    struct pmfs_lease *lease = malloc(sizeof *lease);
    if (lease == NULL) return -ENOMEM;
    *lease = (struct pmfs_lease){.file = fcntl(fd, F_DUPFD_CLOEXEC, 0), .broker = -1};
    if (lease->file < 0) result = -errno;
    if (result == 0) {
        struct pmfs_io_grant grant = {.flags = flags | PMFS_GRANT_EVENTS,
                                      .kind = PMFS_GRANT_BREAKABLE,
                                      .offset = (uint64_t)offset,
                                      .length = length};
        result = pmfs_take_grant(fd, &grant);
        if (result == 0) {
            lease->grant = grant.grant;
            lease->broker = connect_events(&grant);
            if (lease->broker < 0) result = lease->broker;
        }
    }
    if (result != 0) {
        pmfs_lease_end(lease);
        return result;
    }
    *out = lease;
    return 0;
}

PMFS_EXPORT int pmfs_lease_event_fd(const struct pmfs_lease *lease) {
    return lease->broker;
}

PMFS_EXPORT int pmfs_lease_event(const struct pmfs_lease *lease, struct pmfs_event *out) {
    const int result = pmfs_broker_event(lease->broker, out);
    if (result == 0) out->grant = lease->grant;
    return result;
}

PMFS_EXPORT int pmfs_lease_end(struct pmfs_lease *lease) {
    if (lease == NULL) return 0;
    if (lease->grant != 0) pmfs_give_back(lease->file, lease->grant);
    if (lease->broker >= 0) close(lease->broker);
    if (lease->file >= 0) close(lease->file);
    free(lease);
    return 0;
}
