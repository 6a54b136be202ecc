/*
 * map_holder - maps a file by libpmfs, says "READY", and holds the mapping until it is killed.
 *
 *     map_holder FILE-ON-PMFS
 *
 * For tests of what a mapping forbids to others.
 */
#include <fcntl.h>
#include <pmfs.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct pmfs_map *map;
    const int file = argc == 2 ? pmfs_open(argv[1], O_RDWR, 0) : -1;
    const int result = file < 0 ? file : pmfs_map(file, 0, 0, PROT_READ | PROT_WRITE, 0, &map);
    if (result < 0) {
        fprintf(stderr, "map_holder: %s\n", strerror(-result));
        return 1;
    }
    printf("READY\n");
    fflush(stdout);
    for (;;) pause();
}
