/* What the parts of libpmfs share.  Not installed. */
#ifndef PMFS_CLIENT_INTERNAL_H
#define PMFS_CLIENT_INTERNAL_H

#include <stdbool.h>

#include "pmfs.h"

#define PMFS_EXPORT __attribute__((visibility("default")))

struct pmfs_map {
    char *base; /* what is mapped: whole units */
    size_t span;
    char *address; /* what was asked for, inside of it */
    size_t length;
    int file;   /* the grant lives as long as this */
    int broker; /* ... and as this connection */
    uint64_t grant;
    uint32_t medium;
    bool caches_are_durable; /* eADR: a power cut flushes the CPU's caches */
};

/* ioctl(2) that starts again when a signal comes; 0 or -errno. */
int pmfs_ioctl(int fd, unsigned long command, void *io);

/* Connects to the broker of a grant and asks for the device; the connection, or -errno. */
int pmfs_broker_connect(const struct pmfs_io_grant *grant);
/* Waits for the device's descriptor; it, or -errno. */
int pmfs_broker_receive(int broker, const struct pmfs_io_grant *grant);

/* Whether the platform of a DAX device flushes its caches when the power goes. */
bool pmfs_caches_are_durable(int device);

#endif
