/*
 * Forks of this process wait while it maps the device: between mmap(2) and MADV_DONTFORK a child
 * would inherit the mapping, and no flag of mmap(2) combines the two.
 *
 * This covers fork(3) of the C library, not a bare clone(2); the server holds the blocks of such a
 * child until it is gone (docs/seal.md "Quarantine").  While forks are held, nothing of another
 * library is locked, so the order of other handlers does not matter.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <pthread.h>
#include <unistd.h>

#include "internal.h"

/* Read: threads that map.  Written: a fork.  A fork that waits goes before later readers. */
#define UNLOCKED PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP
static pthread_rwlock_t forks = UNLOCKED;
static __thread bool holding;     /* a signal handler may fork in the middle of it */
static unsigned generation;       /* of forks, from the first process on */
static __thread int cancel_state; /* before it was held */

static void before_fork(void) {
    if (holding) return;
    pthread_rwlock_wrlock(&forks);
    pmfs_lock_connections(); /* in this order, because threads that map take it, too */
}
static void in_parent(void) {
    if (holding) return;
    pmfs_unlock_connections();
    pthread_rwlock_unlock(&forks);
}
/* It is the only thread, with another number: it could not unlock. */
static void in_child(void) {
    generation++;
    forks = (pthread_rwlock_t)UNLOCKED;
    holding = false;
    pmfs_disown_connections();
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
    pthread_rwlock_rdlock(&forks);
    holding = true;
}

void pmfs_release_forks(void) {
    if (holding) pthread_rwlock_unlock(&forks);
    holding = false;
    pmfs_restore_cancel(cancel_state);
}
