/*
 * The connections of this process to brokers: one for each server, shared by all its mappings and
 * leases; and the channels that bring the events of each of them.
 *
 * The broker knows its peer as the kernel reported it when the connection was made.  So a child
 * that was forked, or a process that changed its user, makes a connection of its own.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

#define TRIES 3 /* to find a connection that works */

struct pmfs_connection {
    struct pmfs_connection *next;
    int fd; /* -1: of a process that we were forked from */
    struct pmfs_identity is;
    unsigned users; /* grants, and calls under way; atomic */
    bool listed;    /* constant since it was made */
    int dead;       /* 0, or why no packet is sent on it any more: -errno.  Set under `talk` */
    uid_t uid;
    uint64_t epoch; /* of its server */
    char path[sizeof((struct pmfs_io_grant *)0)->broker];
    pthread_mutex_t talk; /* one packet and its answer at a time */
};

/* The list, and all of its connections but `talk` and `dead`. */
static pthread_mutex_t list_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct pmfs_connection *list;

bool pmfs_lock_connections(void) {
    return pmfs_lock_in_time(&list_mutex);
}

void pmfs_unlock_connections(void) {
    pthread_mutex_unlock(&list_mutex);
}

/* These connections are the parent's.  Inherited mappings still point to them. */
void pmfs_disown_connections(bool whole) {
    for (struct pmfs_connection *c = whole ? list : NULL; c != NULL; c = c->next) {
        pmfs_close_own(c->fd, &c->is);
        c->fd = -1;
    }
    list = NULL;
    list_mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

static int why_dead(const struct pmfs_connection *c) {
    return __atomic_load_n(&c->dead, __ATOMIC_ACQUIRE);
}

static bool serves(const struct pmfs_connection *c, const struct pmfs_io_grant *grant) {
    return why_dead(c) == 0 && c->epoch == grant->epoch && c->uid == geteuid() &&
           strncmp(c->path, grant->broker, sizeof c->path) == 0;
}

/* A new connection, of one user. */
static int connect_anew(const struct pmfs_io_grant *grant, struct pmfs_connection **out) {
    struct pmfs_connection *c = calloc(1, sizeof *c);
    const int fd = c != NULL ? pmfs_broker_connect(grant->broker) : -ENOMEM;
    if (fd < 0) {
        free(c);
        return fd;
    }
    c->fd = fd;
    c->is = pmfs_identify(fd);
    c->users = 1;
    c->uid = geteuid();
    c->epoch = grant->epoch;
    memcpy(c->path, grant->broker, sizeof c->path);
    pthread_mutex_init(&c->talk, NULL);
    *out = c;
    return 0;
}

/* A connection to the grant's broker, to be given back by put(). */
static int get(const struct pmfs_io_grant *grant, struct pmfs_connection **out, bool *made) {
    *out = NULL;
    *made = true;
    /* One of its own, if it cannot have the list. */
    if (!pmfs_lock_connections()) return connect_anew(grant, out);
    int result = 0;
    struct pmfs_connection *c = list;
    while (c != NULL && !serves(c, grant)) c = c->next;
    if (c != NULL) {
        __atomic_add_fetch(&c->users, 1, __ATOMIC_ACQ_REL);
        *made = false;
        *out = c;
    } else {
        result = connect_anew(grant, out);
        if (result == 0) {
            (*out)->listed = true;
            (*out)->next = list;
            list = *out;
        }
    }
    pmfs_unlock_connections();
    return result;
}

static void put(struct pmfs_connection *c) {
    const bool listed = c->listed;
    const bool locked = listed && pmfs_lock_connections();
    const bool last = __atomic_sub_fetch(&c->users, 1, __ATOMIC_ACQ_REL) == 0;
    if (locked) {
        struct pmfs_connection **at = &list;
        while (last && *at != NULL && *at != c) at = &(*at)->next;
        if (last && *at != NULL) *at = c->next;
        pmfs_unlock_connections();
    }
    /* Without the lock it stays in the list, for the next who needs it. */
    if (!last || (listed && !locked)) return;
    pmfs_close_own(c->fd, &c->is);
    pthread_mutex_destroy(&c->talk);
    free(c);
}

/* After these errors the broker has closed the connection, or should not be believed. */
static bool is_broken(int result) {
    return result == -ECONNRESET || result == -EPROTO || result == -ETIMEDOUT;
}

/* One packet and its answer: a descriptor, PMFS_BROKER_NO_DESCRIPTOR, or -errno.  c->talk is held,
 * and the connection is not dead.  If there was no whole answer it is from now on: the next packet
 * could get the answer to this one, and with it the device for another file. */
static int talk(struct pmfs_connection *c, uint32_t what, uint64_t number, const uint8_t *token,
                struct pmfs_broker_answer *answer) {
    struct pmfs_broker_ask packet = {
        .magic = PMFS_BROKER_MAGIC, .version = PMFS_BROKER_VERSION, .what = what, .number = number};
    if (token != NULL) memcpy(packet.token, token, sizeof packet.token);
    *answer = (struct pmfs_broker_answer){0};
    int result = -ECONNRESET; /* as if the broker had closed it */
    if (pmfs_is_still(c->fd, &c->is)) {
        struct pmfs_plugs plugs;
        pmfs_plug(&plugs);
        result = pmfs_broker_talk(c->fd, &packet, answer);
        pmfs_unplug(&plugs);
    }
    const bool failed = result < 0 && result != PMFS_BROKER_NO_DESCRIPTOR;
    if (failed && (answer->magic != PMFS_BROKER_MAGIC || is_broken(result)))
        __atomic_store_n(&c->dead, result, __ATOMIC_RELEASE);
    return result == PMFS_BROKER_NO_DESCRIPTOR ? result : pmfs_move_up(result);
}

/* Whether the device is large enough for the volume.  A smaller one would mean a SIGBUS later. */
static int check_device(int device, const struct pmfs_io_grant *grant) {
    struct stat status;
    if (fstat(device, &status) != 0) return -errno;
    if (S_ISREG(status.st_mode) && (uint64_t)status.st_size < grant->device_size) return -EIO;
    return 0;
}

/* *sent: the token may have been read. */
static int show_token(struct pmfs_connection *c, const struct pmfs_io_grant *grant,
                      struct pmfs_broker_answer *answer, bool *sent) {
    pthread_mutex_lock(&c->talk);
    int result = why_dead(c); /* another thread may have found out while we waited */
    *sent = result == 0;
    if (*sent) result = talk(c, PMFS_BROKER_BIND, grant->grant, grant->token, answer);
    pthread_mutex_unlock(&c->talk);
    return result;
}

int pmfs_bind(const struct pmfs_io_grant *grant, struct pmfs_bound *out) {
    *out = (struct pmfs_bound){.channel = -1, .owner = pmfs_this_process()};
    struct pmfs_broker_answer answer = {0}; /* nothing is sent to a broker that is known dead */
    int result;
    for (int tries = 1;; tries++) {
        bool made, sent;
        result = get(grant, &out->connection, &made);
        if (result != 0) return result;
        result = show_token(out->connection, grant, &answer, &sent);
        if (result >= 0 || result == PMFS_BROKER_NO_DESCRIPTOR) break;
        put(out->connection);
        out->connection = NULL;
        /* It may have been closed since it was last used; then the token was not read either. */
        const bool unread = !sent || (result == -ECONNRESET && !made);
        if (!unread || tries == TRIES) return result;
    }
    out->claim = answer.claim;
    const bool wanted = (grant->flags & PMFS_GRANT_MAP) != 0;
    const int device = result >= 0 ? result : -1;
    if (wanted && device < 0)
        result = -EMFILE; /* the kernel drops a descriptor that has no room in our table */
    else
        result = wanted ? check_device(device, grant) : 0;
    if (result == 0 && wanted) return device;
    if (device >= 0) close(device);
    return result;
}

bool pmfs_bound_is_ours(const struct pmfs_bound *bound) {
    const struct pmfs_process now = pmfs_this_process();
    return bound->owner.pid == now.pid && bound->owner.forks == now.forks;
}

/* A channel whose other end is closed: it reports that the grant has ended. */
static int ended_channel(void) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return -errno;
    close(ends[1]);
    return pmfs_move_up(ends[0]);
}

static int open_channel(struct pmfs_connection *c, uint64_t claim) {
    struct pmfs_broker_answer answer;
    int result = why_dead(c);
    if (result == 0) {
        result = talk(c, PMFS_BROKER_EVENTS, claim, NULL, &answer);
        const bool echoes = result >= 0 || result == PMFS_BROKER_NO_DESCRIPTOR || result == -ENOENT;
        if (echoes && answer.claim != claim) { /* it answers something else */
            if (result >= 0) close(result);
            result = -EPROTO;
            __atomic_store_n(&c->dead, result, __ATOMIC_RELEASE);
        }
    }
    if (result == PMFS_BROKER_NO_DESCRIPTOR) return -EMFILE;
    if (result == -ENOENT || result == -ECONNRESET || result == -EPIPE) return ended_channel();
    return result;
}

int pmfs_bound_channel(struct pmfs_bound *bound) {
    int channel = __atomic_load_n(&bound->channel, __ATOMIC_ACQUIRE);
    if (channel >= 0 && pmfs_is_still(channel, &bound->channel_is)) return channel;
    if (!pmfs_bound_is_ours(bound)) return -ECHILD;
    const int cancel = pmfs_disable_cancel();
    pthread_mutex_lock(&bound->connection->talk);
    channel = bound->channel;
    if (channel < 0 || !pmfs_is_still(channel, &bound->channel_is)) {
        channel = open_channel(bound->connection, bound->claim);
        if (channel >= 0) bound->channel_is = pmfs_identify(channel);
        __atomic_store_n(&bound->channel, channel >= 0 ? channel : -1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&bound->connection->talk);
    pmfs_restore_cancel(cancel);
    return channel;
}

int pmfs_keep_over_exec(int fd) {
    const int flags = fcntl(fd, F_GETFD);
    return flags >= 0 && fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC) == 0 ? 0 : -errno;
}

int pmfs_bound_keep_over_exec(const struct pmfs_bound *bound) {
    return pmfs_keep_over_exec(bound->connection->fd);
}

void pmfs_unbind(struct pmfs_bound *bound) {
    pmfs_close_own(bound->channel, &bound->channel_is);
    if (bound->connection != NULL) put(bound->connection);
    *bound = (struct pmfs_bound){.channel = -1};
}
