/*
 * Descriptors that the library opens for itself: never 0 to 2, where a program that has closed one
 * of them would write its errors into a file, a socket, or the device; and never used again once
 * the program has closed them.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

#define FIRST 3 /* behind standard input, output and error */

int pmfs_duplicate(int fd, bool over_exec) {
    const int copy = fcntl(fd, over_exec ? F_DUPFD : F_DUPFD_CLOEXEC, FIRST);
    return copy >= 0 ? copy : -errno;
}

int pmfs_move_up(int fd) {
    if (fd < 0 || fd >= FIRST) return fd;
    const int moved = pmfs_duplicate(fd, false);
    close(fd);
    return moved;
}

void pmfs_plug(struct pmfs_plugs *plugs) {
    plugs->count = 0;
    for (int i = 0; i < FIRST; i++) {
        if (fcntl(i, F_GETFD) >= 0) continue;
        /* As with a closed one, read(2) and write(2) are EBADF. */
        const int fd = open("/", O_PATH | O_CLOEXEC);
        if (fd >= 0 && fd < FIRST)
            plugs->fd[plugs->count++] = fd;
        else if (fd >= 0)
            close(fd);
    }
}

void pmfs_unplug(const struct pmfs_plugs *plugs) {
    for (unsigned i = 0; i < plugs->count; i++) close(plugs->fd[i]);
}

struct pmfs_identity pmfs_identify(int fd) {
    struct statx status;
    /* Asks no server, which may be gone. */
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &status) != 0)
        return (struct pmfs_identity){.known = false};
    return (struct pmfs_identity){.known = true,
                                  .major = status.stx_dev_major,
                                  .minor = status.stx_dev_minor,
                                  .inode = status.stx_ino};
}

bool pmfs_is_still(int fd, const struct pmfs_identity *identity) {
    if (!identity->known) return true;
    const struct pmfs_identity now = pmfs_identify(fd);
    return now.known && now.major == identity->major && now.minor == identity->minor &&
           now.inode == identity->inode;
}

void pmfs_close_own(int fd, const struct pmfs_identity *identity) {
    if (fd >= 0 && pmfs_is_still(fd, identity)) close(fd);
}
