/*
 * map_store - stores a line of text straight into the device, at the place of a file's first bytes.
 *
 *     map_store FILE-ON-PMFS TEXT
 *
 * The whole use of a direct mapping: open, map, store, persist, unmap.  Between the store and the
 * moment when it is durable (see pmfs_persist(3) for what that means on which medium) no filesystem
 * is asked.  FILE is prepared or sealed full.
 */
#include <errno.h>
#include <fcntl.h>
#include <pmfs.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int fail(const char *what, int error) {
    fprintf(stderr, "map_store: %s: %s\n", what, strerror(error));
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: map_store FILE-ON-PMFS TEXT\n");
        return 2;
    }
    const int file = pmfs_open(argv[1], O_RDWR, 0);
    if (file < 0) return fail(argv[1], -file);
    struct pmfs_map *map;
    int result = pmfs_map(file, 0, 0, PROT_READ | PROT_WRITE, 0, &map);
    close(file); /* the mapping needs it no longer */
    if (result != 0) return fail("mapping the file", -result);

    const size_t length = strlen(argv[2]);
    int failed = 0;
    if (length > pmfs_map_length(map)) {
        failed = fail("the text is longer than the file", EFBIG);
    } else {
        memcpy(pmfs_map_address(map), argv[2], length);
        result = pmfs_persist(map, 0, length);
        if (result != 0)
            failed = fail("making it durable", -result);
        else
            printf("%zu bytes stored at %p, and durable\n", length, pmfs_map_address(map));
    }
    pmfs_unmap(map);
    return failed;
}
