/* Tickets: a grant that one process takes, and a mapping that another one makes of it. */
#include <errno.h>
#include <sys/mman.h>

#include "internal.h"

PMFS_EXPORT int pmfs_make_ticket(int fd, off_t offset, size_t length, int prot, unsigned flags,
                                 struct pmfs_ticket *out) {
    *out = (struct pmfs_ticket){.prot = (uint32_t)prot, .flags = flags};
    int result = pmfs_map_request(offset, length, prot, flags, &out->grant);
    if (result != 0) return result;
    out->grant.flags |= PMFS_GRANT_HAND_OVER;
    result = pmfs_take_grant(fd, &out->grant);
    if (result != 0) return result;
    /* What is to be mapped; the grant may cover more. */
    out->grant.offset = (uint64_t)offset;
    if (length != 0) out->grant.length = length;
    return 0;
}

PMFS_EXPORT int pmfs_map_ticket(int fd, const struct pmfs_ticket *ticket, struct pmfs_map **out) {
    *out = NULL;
    /* It came from another process: checks the fields that the server does not check. */
    const struct pmfs_io_grant *grant = &ticket->grant;
    struct pmfs_io_grant same;
    const int result = pmfs_map_request((off_t)grant->offset, grant->length, (int)ticket->prot,
                                        ticket->flags, &same);
    if (result != 0) return result;
    if (grant->version != PMFS_ABI_VERSION || grant->length == 0 ||
        grant->flags != (same.flags | PMFS_GRANT_HAND_OVER))
        return -EINVAL;
    const struct pmfs_range range = {.offset = grant->offset, .length = grant->length};
    return pmfs_map_granted(fd, grant, range, (int)ticket->prot, ticket->flags, out);
}
