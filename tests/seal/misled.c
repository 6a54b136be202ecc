/*
 * misled FILE - pmfs_map() of a file whose server says that its answer has more extents than the
 * page that it came in.
 *
 * Any FUSE server may answer the ioctls of libpmfs.  Ends with 0 if that is -EPROTO.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pmfs.h"

/* In front of the C library's. */
int ioctl(int fd, unsigned long command, ...) {
    va_list more;
    va_start(more, command);
    void *io = va_arg(more, void *);
    va_end(more);
    const int result = (int)syscall(SYS_ioctl, fd, command, io);
    if (result != 0 || command != PMFS_IOC_EXTENTS) return result;
    struct pmfs_extents *page = io;
    const struct pmfs_extent first = page->extent[0];
    for (uint64_t i = 0; i < PMFS_EXTENTS_MAX; i++) { /* not to the end of the file */
        page->extent[i] = first;
        page->extent[i].offset = page->from + i * 4096;
        page->extent[i].length = 4096;
    }
    page->count = UINT32_MAX;
    return 0;
}

int main(int count, char **words) {
    if (count != 2) return 2;
    const int file = pmfs_open(words[1], O_RDONLY, 0);
    struct pmfs_map *map;
    const int result = file < 0 ? file : pmfs_map(file, 0, 0, PROT_READ, 0, &map);
    if (result == -EPROTO) return 0;
    fprintf(stderr, "%d\n", result);
    return 1;
}
