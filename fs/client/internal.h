/* What the parts of libpmfs share.  Not installed. */
#ifndef PMFS_CLIENT_INTERNAL_H
#define PMFS_CLIENT_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>

#include "broker_protocol.h"
#include "pmfs.h"

#define PMFS_EXPORT __attribute__((visibility("default")))

/* Who we are.  The number alone is not enough: a child in a new PID namespace may have its
 * parent's; and forks are only counted where fork(3) makes them, not a bare clone(2). */
struct pmfs_process {
    pid_t pid;
    unsigned forks;
};
struct pmfs_process pmfs_this_process(void);

/* Which open file, or socket, a descriptor refers to.  A program may close descriptors that it did
 * not open (daemons close all), and what it opens next gets their numbers. */
struct pmfs_identity {
    bool known; /* else it could not be found out */
    uint32_t major, minor;
    uint64_t inode;
};

/* A grant that is bound to this process's connection to its broker. */
struct pmfs_connection;
struct pmfs_bound {
    struct pmfs_connection *connection;
    uint64_t claim;
    int channel; /* of its events; -1 until it is asked for */
    struct pmfs_identity channel_is;
    struct pmfs_process owner; /* a child that was forked is another one */
};

struct pmfs_map {
    char *base; /* the mapped range: whole units */
    size_t span;
    char *address; /* the requested range, inside of it */
    size_t length;
    int file; /* the grant lives as long as this */
    struct pmfs_identity file_is;
    struct pmfs_bound bound; /* ... and as this process's connection to the broker */
    uint64_t grant;
    uint32_t medium;
    bool forks;              /* children have it, too */
    bool caches_are_durable; /* eADR: a power cut flushes the CPU's caches */
};

/* Held while the device is mapped and not yet excluded from children.  Nothing may wait in between.
 * No call of these waits for ever: see fork.c. */
void pmfs_hold_forks(void);
void pmfs_release_forks(void);

/* False: a fork, or what waits for one, has kept it for too long; then go on without. */
bool pmfs_lock_in_time(pthread_mutex_t *mutex);

/* For a fork: in its child the connections are not its own.  `whole`: the list was locked; else it
 * may be in the middle of a change, and its connections stay open. */
bool pmfs_lock_connections(void);
void pmfs_unlock_connections(void);
void pmfs_disown_connections(bool whole);

/* pthread_cancel(3) has no effect in between: a thread that ended with a lock, a descriptor or a
 * grant would never give it back.  The state is the caller's, so these can be nested. */
int pmfs_disable_cancel(void);
void pmfs_restore_cancel(int state);

/* ioctl(2) that starts again when a signal comes; 0 or -errno. */
int pmfs_ioctl(int fd, unsigned long command, void *io);

/* The same for calls that may have to wait for a lease to be broken (EAGAIN): repeats the call
 * until it is, unless the descriptor is O_NONBLOCK.  A signal ends it (-EINTR). */
int pmfs_ioctl_waiting(int fd, unsigned long command, void *io, bool wait);

/* Takes a grant; grant->flags, kind, offset and length are the caller's.  It may wait for a lease
 * to be broken, so a signal ends it (-EINTR). */
int pmfs_take_grant(int fd, struct pmfs_io_grant *grant);
/* Gives a grant back.  It may have ended already, with its server or by a revocation: no error
 * then. */
void pmfs_give_back(int fd, uint64_t grant);

/* --- descriptor.c: the library's own descriptors are never 0 to 2.
 * A copy, which is closed or kept when the process executes another program; or -errno. */
int pmfs_duplicate(int fd, bool over_exec);
/* Gives the descriptor itself, or a copy in its place; or -errno.  Gives back a negative number. */
int pmfs_move_up(int fd);
/* Those of 0 to 2 that are closed stay in use, and still cannot be read or written, until
 * pmfs_unplug().  A descriptor that is received meanwhile does not take their place. */
struct pmfs_plugs {
    int fd[3];
    unsigned count;
};
void pmfs_plug(struct pmfs_plugs *plugs);
void pmfs_unplug(const struct pmfs_plugs *plugs);

struct pmfs_identity pmfs_identify(int fd);
/* False: the program has closed the descriptor, and perhaps has something else there. */
bool pmfs_is_still(int fd, const struct pmfs_identity *identity);
/* Closes it, unless it is another one by now. */
void pmfs_close_own(int fd, const struct pmfs_identity *identity);

/* --- broker_client.c: packets.  A connection to the broker at `path`, or -errno. */
int pmfs_broker_connect(const char *path);
/* Sends one packet and waits for its answer.  Gives the descriptor that came with it, or
 * PMFS_BROKER_NO_DESCRIPTOR; or -errno, which may be the broker's answer. */
#define PMFS_BROKER_NO_DESCRIPTOR (-4096)
int pmfs_broker_talk(int broker, const struct pmfs_broker_ask *packet,
                     struct pmfs_broker_answer *answer);
/* The next event of a channel: 0, or -EAGAIN.  A channel that has hung up gives PMFS_EVENT_ENDED
 * each time, without a grant's number. */
int pmfs_broker_event(int channel, struct pmfs_event *out);

/* --- connection.c: one connection for all grants of the process from one server.
 * Shows the grant's token.  Gives the device's descriptor if the grant has PMFS_GRANT_MAP, else 0;
 * or -errno.  pmfs_unbind() in any case. */
int pmfs_bind(const struct pmfs_io_grant *grant, struct pmfs_bound *out);
/* False in a child of the process that bound it: then the grant is the parent's. */
bool pmfs_bound_is_ours(const struct pmfs_bound *bound);
/* The channel of its events, which is made when it is first asked for; or -errno. */
int pmfs_bound_channel(struct pmfs_bound *bound);
/* The descriptor, or the connection, stays open when the process executes another program. */
int pmfs_keep_over_exec(int fd);
int pmfs_bound_keep_over_exec(const struct pmfs_bound *bound);
/* Drops the connection, but gives back neither the grant nor the device. */
void pmfs_unbind(struct pmfs_bound *bound);

/* Checks a range: -EINVAL for one that no file can have. */
int pmfs_check_range(off_t offset, size_t length);
/* The grant that a mapping of these arguments needs; -EINVAL: they are wrong. */
int pmfs_map_request(off_t offset, size_t length, int prot, unsigned flags,
                     struct pmfs_io_grant *out);
/* The requested range; that of the grant may be larger. */
struct pmfs_range {
    uint64_t offset, length;
};
/* Maps under a grant that was taken; the grant is given back on failure.  *file is duplicated. */
int pmfs_map_granted(int fd, const struct pmfs_io_grant *grant, struct pmfs_range range, int prot,
                     unsigned flags, struct pmfs_map **out);

/* Whether the platform of a DAX device flushes its caches when the power goes. */
bool pmfs_caches_are_durable(int device);

#endif
