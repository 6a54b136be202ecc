/*
 * cancelled FILE - threads that are cancelled call libpmfs; then other threads call it, and fork.
 *
 * FILE is prepared.  Ends with 0 if no call was cut off in the middle; hangs, until SIGALRM, where
 * one kept a lock.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pmfs.h"

static int file;
static struct pmfs_map *map;

static void need(int result, const char *what) {
    if (result >= 0) return;
    fprintf(stderr, "%s: %d\n", what, result);
    exit(1);
}

static int ask(void) {
    return pmfs_map_event_fd(map);
}

static int map_and_unmap(void) {
    struct pmfs_map *other;
    const int result = pmfs_map(file, 0, 0, PROT_READ, 0, &other);
    return result < 0 ? result : pmfs_unmap(other);
}

static int lease_and_end(void) {
    struct pmfs_lease *lease;
    const int result = pmfs_lease(file, 0, 0, PMFS_GRANT_NOWAIT, &lease);
    return result < 0 ? result : pmfs_lease_end(lease);
}

static void *cancelled(void *call) {
    pthread_cancel(pthread_self());
    need((*(int (**)(void))call)(), "a cancelled thread");
    return NULL; /* no cancellation point since: it ends as others do */
}

static void try(int (*call)(void), const char *what) {
    pthread_t thread;
    void *result;
    need(-pthread_create(&thread, NULL, cancelled, &call), "pthread_create");
    pthread_join(thread, &result);
    need(result == PTHREAD_CANCELED ? -1 : 0, what);
    const pid_t child = fork();
    if (child == 0) _exit(0);
    waitpid(child, NULL, 0);
    need(call(), what);
}

int main(int count, char **words) {
    if (count != 2) return 2;
    alarm(20);
    file = pmfs_open(words[1], O_RDONLY, 0);
    need(file, "open");
    try(lease_and_end, "pmfs_lease");
    try(map_and_unmap, "pmfs_map");
    need(pmfs_map(file, 0, 0, PROT_READ, 0, &map), "pmfs_map");
    try(ask, "pmfs_map_event_fd");
    need(pmfs_unmap(map), "pmfs_unmap");
    return 0;
}
