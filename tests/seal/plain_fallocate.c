/*
 * plain_fallocate - a program that knows fallocate(2) and nothing of pmfs.
 *
 *     plain_fallocate narrow|wide r|w FILE MODE OFFSET LENGTH
 *
 * Prints what the call gave and what errno is then, which was 77 before.  narrow: fallocate, wide:
 * fallocate64.  The tests run it with and without libpmfs-preload.so.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: plain_fallocate narrow|wide r|w FILE MODE OFFSET LENGTH\n");
        return 2;
    }
    const int fd = open(argv[3], strcmp(argv[2], "w") == 0 ? O_RDWR : O_RDONLY);
    if (fd < 0) {
        perror(argv[3]);
        return 2;
    }
    const int mode = (int)strtol(argv[4], NULL, 0);
    const long long offset = strtoll(argv[5], NULL, 0), length = strtoll(argv[6], NULL, 0);
    errno = 77;
    const int result = strcmp(argv[1], "wide") == 0 ? fallocate64(fd, mode, offset, length)
                                                    : fallocate(fd, mode, offset, length);
    printf("%d %d\n", result, errno);
    return 0;
}
