/*
 * Forks of this process wait while it maps the device: between mmap(2) and MADV_DONTFORK a child
 * would inherit the mapping, and no flag of mmap(2) combines the two.
 *
 * This covers fork(3) of the C library, not a bare clone(2); the server holds the blocks of such a
 * child until it is gone (docs/seal.md "Quarantine").
 *
 * Another library may hold a lock over forks as well, an allocator does, and map or unmap while it
 * has that lock.  Whichever of the two locks a fork takes first, a thread may have the other one
 * and wait for this.  So nobody waits for long, but goes on without: then a child may have too
 * much, as after a clone(2).
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define WAIT_SECONDS 1

/* Read: threads that map.  Written: a fork.  A fork that waits goes before later readers. */
#define UNLOCKED PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP
static pthread_rwlock_t forks = UNLOCKED;
static __thread bool has_forks, has_connections; /* while this thread forks */
static __thread bool holding;                    /* a signal handler may fork in the middle of it */
static unsigned generation;                      /* of forks, from the first process on */
static __thread int cancel_state;                /* before it was held */

static bool in_time(int (*lock)(void *, const struct timespec *), void *what) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_SECONDS;
    return lock(what, &until) == 0;
}

static int write_forks(void *lock, const struct timespec *until) {
    return pthread_rwlock_timedwrlock(lock, until);
}

static int read_forks(void *lock, const struct timespec *until) {
    return pthread_rwlock_timedrdlock(lock, until);
}

static int lock_mutex(void *mutex, const struct timespec *until) {
    return pthread_mutex_timedlock(mutex, until);
}

bool pmfs_lock_in_time(pthread_mutex_t *mutex) {
    return in_time(lock_mutex, mutex);
}

static void before_fork(void) {
    if (holding) return;
    has_forks = in_time(write_forks, &forks);
    has_connections = pmfs_lock_connections(); /* in this order, as threads that map */
}
static void in_parent(void) {
    if (holding) return;
    if (has_connections) pmfs_unlock_connections();
    if (has_forks) pthread_rwlock_unlock(&forks);
}
/* It is the only thread, with another number: it could not unlock. */
static void in_child(void) {
    generation++;
    forks = (pthread_rwlock_t)UNLOCKED;
    pmfs_disown_connections(holding || has_connections);
    holding = false;
}
__attribute__((constructor)) static void watch_forks(void) {
    (void)pthread_atfork(before_fork, in_parent, in_child);
}

struct pmfs_process pmfs_this_process(void) {
    return (struct pmfs_process){.pid = getpid(), .forks = generation};
}

int pmfs_disable_cancel(void) {
    int state;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    return state;
}

void pmfs_restore_cancel(int state) {
    pthread_setcancelstate(state, NULL);
}

void pmfs_hold_forks(void) {
    cancel_state = pmfs_disable_cancel();
    holding = in_time(read_forks, &forks);
}

void pmfs_release_forks(void) {
    if (holding) pthread_rwlock_unlock(&forks);
    holding = false;
    pmfs_restore_cancel(cancel_state);
}
