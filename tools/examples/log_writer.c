/*
 * log_writer - a log whose records are durable with no system call.
 *
 *     log_writer [-n RECORDS] [-s BYTES] [-p] [-b DIRECTORY] FILE-ON-PMFS
 *
 * FILE is sealed full (or prepared), so nothing of its metadata can ever be dirty: a record is
 * durable when its own bytes are.  The program finds the end of the log that an earlier run left,
 * even if that one was killed, appends records (default: none) and prints how long an append took:
 * p50 and p99.9. -p: meanwhile a system call would kill it (not on image files, where durability is
 * msync(2)).  -b: the same records by write(2) and fdatasync(2) to a file on another filesystem.
 */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <fcntl.h>
#include <pmfs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x676f6c2d73666d70ull /* "pmfs-log" */
#define BESIDE_MAX 2000ul           /* records; an fdatasync takes its time */

struct header { /* of the log */
    uint64_t magic;
    uint64_t salt; /* in every checksum, so that no payload can look like a record */
};
struct record {
    uint64_t sequence; /* 1, 2, 3 ... */
    uint64_t length;   /* of the payload behind it */
    uint64_t checksum; /* of all three: a torn record does not fit */
};
struct log {
    struct pmfs_map *map;
    char *bytes;
    size_t size, end;
    uint64_t salt, sequence; /* of the last record */
};

static volatile char no_calls; /* read by the kernel, with -p */

static uint64_t checksum(uint64_t salt, const struct record *record, const char *payload) {
    uint64_t sum = salt ^ record->sequence * 0x9e3779b97f4a7c15ull ^ record->length;
    for (size_t i = 0; i < record->length; i += 8) {
        uint64_t word = 0;
        const size_t left = record->length - i;
        memcpy(&word, payload + i, left < 8 ? left : 8);
        sum = (sum ^ word) * 0xff51afd7ed558ccdull;
        sum ^= sum >> 32;
    }
    return sum;
}

static size_t room_of(uint64_t length) {
    return sizeof(struct record) + (length + 7) / 8 * 8;
}

/* Goes over the records until one does not fit: that is the end. */
static void recover(struct log *log) {
    struct record record;
    for (log->end = sizeof(struct header);; log->end += room_of(record.length)) {
        const size_t left = log->size - log->end;
        if (left < sizeof record) return;
        memcpy(&record, log->bytes + log->end, sizeof record);
        if (record.sequence != log->sequence + 1 || record.length > left - sizeof record) return;
        const char *payload = log->bytes + log->end + sizeof record;
        if (checksum(log->salt, &record, payload) != record.checksum) return;
        log->sequence = record.sequence;
    }
}

static int open_log(struct log *log) {
    struct header header;
    memcpy(&header, log->bytes, sizeof header);
    if (header.magic != MAGIC) { /* a new one; the file was prepared, so the rest is zeroes */
        if (getrandom(&header.salt, sizeof header.salt, 0) != sizeof header.salt) return -errno;
        header.magic = MAGIC;
        memcpy(log->bytes, &header, sizeof header);
        const int result = pmfs_persist(log->map, 0, sizeof header);
        if (result != 0) return result;
    }
    log->salt = header.salt;
    recover(log);
    return 0;
}

static int append(struct log *log, const char *payload, size_t length) {
    struct record record = {.sequence = log->sequence + 1, .length = length};
    if (room_of(length) > log->size - log->end) return -ENOSPC;
    record.checksum = checksum(log->salt, &record, payload);
    char *to = log->bytes + log->end;
    memcpy(to, &record, sizeof record);
    memcpy(to + sizeof record, payload, length);
    const int result = pmfs_persist(log->map, log->end, sizeof record + length);
    if (result != 0) return result;
    log->end += room_of(length);
    log->sequence++;
    return 0;
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int compare(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *what, uint64_t *times, size_t count) {
    if (count == 0) return;
    qsort(times, count, sizeof *times, compare);
    printf("%s: p50 %llu ns, p99.9 %llu ns, %zu records\n", what,
           (unsigned long long)times[count / 2], (unsigned long long)times[count * 999 / 1000],
           count);
}

static int run_beside(const char *directory, const char *payload, size_t size, uint64_t *times,
                      size_t count) {
    const int fd = open(directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0) return -errno;
    if (count > BESIDE_MAX) count = BESIDE_MAX;
    for (size_t i = 0; i < count; i++) {
        const uint64_t start = now_ns();
        if (write(fd, payload, size) != (ssize_t)size || fdatasync(fd) != 0) return -errno;
        times[i] = now_ns() - start;
    }
    print_times("write and fdatasync", times, count);
    return close(fd);
}

static int run(struct log *log, unsigned long count, size_t size, bool prove, const char *beside) {
    char *payload = malloc(size);
    uint64_t *times = calloc(count + 1, sizeof *times);
    int result = payload == NULL || times == NULL ? -ENOMEM : 0;
    if (result == 0) memset(payload, 'r', size);
    if (result == 0 && prove &&
        prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &no_calls) != 0)
        result = -errno;
    no_calls = prove && result == 0; /* from here on a system call of this thread is a SIGSYS */
    for (unsigned long i = 0; i < count && result == 0; i++) {
        const uint64_t start = prove ? 0 : now_ns(); /* some machines' clocks are system calls */
        result = append(log, payload, size);
        times[i] = prove ? 0 : now_ns() - start;
    }
    no_calls = 0;
    if (result != 0) goto end;
    printf("%lu records appended, %llu in the log\n", count, (unsigned long long)log->sequence);
    if (prove) printf("no system call was made\n");
    if (!prove) print_times("append", times, count);
    if (beside != NULL) result = run_beside(beside, payload, size, times, count);
end:
    free(times);
    free(payload);
    return result;
}

int main(int argc, char **argv) {
    unsigned long count = 0;
    size_t size = 256;
    bool prove = false;
    const char *beside = NULL;
    for (int option; (option = getopt(argc, argv, "n:s:pb:")) != -1;) {
        if (option == 'n') count = strtoul(optarg, NULL, 0);
        if (option == 's') size = strtoul(optarg, NULL, 0);
        if (option == 'b') beside = optarg;
        if (option == 'p') prove = true;
        if (option == '?') optind = argc;
    }
    if (optind + 1 != argc) {
        fprintf(stderr, "usage: log_writer [-n RECORDS] [-s BYTES] [-p] [-b DIRECTORY] FILE\n");
        return 2;
    }
    struct log log = {0};
    const int file = pmfs_open(argv[optind], O_RDWR, 0);
    int result = file;
    if (file >= 0)
        result = pmfs_map(file, 0, 0, PROT_READ | PROT_WRITE, PMFS_MAP_POPULATE, &log.map);
    if (result == 0) {
        log.bytes = pmfs_map_address(log.map);
        log.size = pmfs_map_length(log.map);
        result = log.size < 4096 ? -EINVAL : open_log(&log);
    }
    if (result == 0) {
        printf("%llu records found\n", (unsigned long long)log.sequence);
        fflush(stdout);
        result = run(&log, count, size, prove, beside);
    }
    pmfs_unmap(log.map);
    if (result == 0) return 0;
    fprintf(stderr, "log_writer: %s: %s\n", argv[optind], strerror(-result));
    return 1;
}
