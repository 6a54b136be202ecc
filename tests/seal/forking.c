/*
 * forking map|munmap FILE - forks while another thread has a lock that is held over forks, and maps
 * or unmaps under it.
 *
 * The lock stands for that of an allocator.  Its handler was there before that of libpmfs, so a
 * fork calls it later.  FILE is sealed full.  Ends with 0; by SIGALRM if the two wait for each
 * other.  "munmap" is for libpmfs-preload.so.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pmfs.h"

#define LENGTH 65536

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static sem_t has_lock, forks;
static int file;

static void take(void) {
    sem_post(&forks);
    pthread_mutex_lock(&lock);
}

static void release(void) {
    pthread_mutex_unlock(&lock);
}

static void first_of_all(void) {
    pthread_atfork(take, release, release);
}
__attribute__((section(".preinit_array"),
               used)) static void (*before_libraries)(void) = first_of_all;

static void need(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void map(void) {
    struct pmfs_map *made;
    need(pmfs_map(file, 0, 0, PROT_READ, 0, &made) == 0, "pmfs_map");
    need(pmfs_unmap(made) == 0, "pmfs_unmap");
}

static void unmap(void) {
    void *at = mmap(NULL, LENGTH, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(at != MAP_FAILED && munmap(at, LENGTH) == 0, "munmap");
}

static void *work(void *what) {
    pthread_mutex_lock(&lock);
    sem_post(&has_lock);
    sem_wait(&forks);
    (*(void (**)(void))what)();
    pthread_mutex_unlock(&lock);
    return NULL;
}

int main(int count, char **words) {
    if (count != 3) return 2;
    alarm(20);
    void (*what)(void) = strcmp(words[1], "map") == 0 ? map : unmap;
    file = pmfs_open(words[2], O_RDONLY, 0);
    need(file >= 0, "open");
    /* The kernel maps no O_DIRECT descriptor: this is the preloaded library's. */
    char *direct = what == map ? NULL : mmap(NULL, LENGTH, PROT_READ, MAP_SHARED, file, 0);
    need(direct != MAP_FAILED, "mmap");
    const char first = direct != NULL ? direct[0] : 0;
    pthread_t thread;
    need(pthread_create(&thread, NULL, work, &what) == 0, "pthread_create");
    sem_wait(&has_lock);
    const pid_t child = fork();
    if (child == 0)
        _exit(direct == NULL || (direct[0] == first && munmap(direct, LENGTH) == 0) ? 0 : 1);
    int status;
    need(waitpid(child, &status, 0) == child && status == 0, "the child");
    pthread_join(thread, NULL);
    map();
    need(what == map || munmap(direct, LENGTH) == 0, "munmap");
    return 0;
}
