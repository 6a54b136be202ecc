/*
 * file_calls - what no shell can do with a file, in a guest that has it over virtiofs.
 *
 *     file_calls space FILE     truncation, and fallocate in the modes that FUSE knows; makes FILE
 *     file_calls map FILE       shared mappings through the guest's page cache; makes FILE
 *     file_calls direct FILE    O_DIRECT beside the page cache; makes FILE
 *     file_calls locks FILE     flock and fcntl locks between processes; makes FILE
 *     file_calls grow FILE      appends, and reads all of it after each append; makes FILE
 *     file_calls shrink FILE    truncation and punches under a mapping; makes FILE
 *     file_calls rights FILE    what a user may not; FILE is root's, mode 600
 *     file_calls fill FILE MIB SEED    writes MIB mebibytes, each 8 bytes of which say where they
 * are file_calls verify FILE MIB SEED    by read(2), and then by mmap
 *
 * One line "PASS words" or "FAIL words: why" for each claim, for the rig to count.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "claims.h"

enum { kBlock = 4096, kMiB = 1 << 20, kUser = 1000 };

static off_t size_of(int fd) {
    struct stat is;
    need(fstat(fd, &is), "fstat");
    return is.st_size;
}

/* Whether `length` bytes at `offset` are all `byte`. */
static bool all(int fd, off_t offset, size_t length, int byte) {
    unsigned char got[kBlock];
    while (length > 0) {
        const size_t some = length < sizeof got ? length : sizeof got;
        if (pread(fd, got, some, offset) != (ssize_t)some) return false;
        for (size_t i = 0; i < some; ++i)
            if (got[i] != byte) return false;
        offset += (off_t)some;
        length -= some;
    }
    return true;
}

static int made(const char *path, int flags, size_t size, int byte) {
    const int fd = need(open(path, O_RDWR | O_CREAT | O_TRUNC | flags, 0644), path);
    char *const bytes = malloc(size + 1);
    if (bytes == NULL) exit(1);
    memset(bytes, byte, size);
    for (size_t at = 0; at < size;)
        at += (size_t)need(pwrite(fd, bytes + at, size - at, (off_t)at), "write");
    free(bytes);
    return fd;
}

static void space(const char *path) {
    const size_t size = 64 * kBlock;
    const int fd = made(path, 0, size, 'a');
    struct stat is;
    expect("truncate to less", ftruncate(fd, 100), 0);
    claim("the file is shorter", size_of(fd) == 100, "it is not");
    expect("truncate to more", ftruncate(fd, (off_t)size), 0);
    claim("what is new reads as zeroes", all(fd, 100, size - 100, 0) && all(fd, 0, 100, 'a'), "no");
    expect("truncate by name", truncate(path, 0), 0);
    expect("allocate", fallocate(fd, 0, 0, (off_t)size), 0);
    claim("that makes it longer", size_of(fd) == (off_t)size, "it does not");
    expect("allocate behind the end", fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)size, kBlock), 0);
    claim("that makes it no longer", size_of(fd) == (off_t)size, "it does");
    need(fstat(fd, &is), "fstat");
    claim("the blocks are counted", is.st_blocks * 512 > (off_t)size, "they are not");
    close(fd);
    const int other = made(path, 0, size, 'b');
    expect("punch", fallocate(other, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kBlock, kBlock),
           0);
    expect("zero", fallocate(other, FALLOC_FL_ZERO_RANGE, 8L * kBlock, 100), 0);
    claim("both read as zeroes, and their neighbours as before",
          all(other, 0, kBlock, 'b') && all(other, kBlock, kBlock, 0) &&
              all(other, 2L * kBlock, 6 * kBlock, 'b') && all(other, 8L * kBlock, 100, 0) &&
              all(other, 8L * kBlock + 100, kBlock, 'b'),
          "no");
    expect("SEEK_HOLE", lseek(other, 0, SEEK_HOLE), 0);
    expect("collapse", fallocate(other, FALLOC_FL_COLLAPSE_RANGE, 0, kBlock), EOPNOTSUPP);
    expect("and allocating works as before", fallocate(other, 0, 0, (off_t)size + kBlock), 0);
    close(other);
}

static unsigned char *mapped(int fd, size_t size, int protection) {
    void *const at = mmap(NULL, size, protection, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) need(-1, "mmap");
    return at;
}

static void map(const char *path) {
    const size_t size = 16 * kBlock;
    int fd = made(path, 0, size, 'm');
    unsigned char *at = mapped(fd, size, PROT_READ | PROT_WRITE);
    claim("a shared mapping reads what was written", at[size - 1] == 'm', "it does not");
    memset(at + kBlock, 's', kBlock);
    claim("read(2) sees what is stored", all(fd, kBlock, kBlock, 's'), "it does not");
    need(pwrite(fd, "w", 1, 5L * kBlock), "write");
    claim("the mapping sees what is written", at[5 * kBlock] == 'w', "it does not");
    expect("msync", msync(at, size, MS_SYNC), 0);
    munmap(at, size);
    at = mapped(fd, size, PROT_READ | PROT_WRITE);
    memset(at + 2L * kBlock, 't', kBlock);
    munmap(at, size);
    close(fd); /* without an fsync: closing is enough for others to see it */
    fd = need(open(path, O_RDWR), path);
    claim("what was stored is there after closing", all(fd, 2L * kBlock, kBlock, 't'), "no");
    close(fd);
}

/* By write(2); what is there already is mapped meanwhile. */
static void grow(const char *path) {
    enum { kPiece = 100000, kPieces = 50 };
    const int fd = made(path, 0, 0, 0);
    int wrong_read = 0, wrong_load = 0;
    for (int piece = 0; piece < kPieces; ++piece) {
        char bytes[kPiece];
        memset(bytes, 1 + piece, sizeof bytes);
        const off_t end = (off_t)piece * kPiece;
        if (pwrite(fd, bytes, sizeof bytes, end) != kPiece) need(-1, "write");
        wrong_read += !all(fd, end, kPiece, 1 + piece);
        const unsigned char *const at = mapped(fd, (size_t)end + kPiece, PROT_READ);
        for (int i = 0; i <= piece; ++i)
            wrong_load +=
                at[(long)i * kPiece] != 1 + i || at[(long)i * kPiece + kPiece - 1] != 1 + i;
        munmap((void *)at, (size_t)end + kPiece);
    }
    char why[64];
    snprintf(why, sizeof why, "%d of %d times wrong", wrong_read, kPieces);
    claim("what was appended is read", wrong_read == 0, why);
    snprintf(why, sizeof why, "%d loads wrong", wrong_load);
    claim("and loaded from a mapping", wrong_load == 0, why);
    /* By truncation: the new end, 4 MiB further, is stored through a mapping. */
    const off_t longer = (off_t)kPieces * kPiece + 4L * kMiB;
    expect("truncate to more", ftruncate(fd, longer), 0);
    unsigned char *const at = mapped(fd, (size_t)longer, PROT_READ | PROT_WRITE);
    for (int i = 0; i < 3; ++i) at[longer - 3 + i] = (unsigned char)"end"[i];
    claim("between them are zeroes", all(fd, (off_t)kPieces * kPiece, 4L * kMiB - 3, 0), "no");
    munmap(at, (size_t)longer);
    close(fd);
}

/* With dax=always the blocks stay under the mapping, and are zeroed there. */
static void shrink(const char *path) {
    const size_t size = 3 * kMiB;
    const int fd = made(path, 0, size, 'a');
    unsigned char *const at = mapped(fd, size, PROT_READ | PROT_WRITE);
    for (size_t i = 0; i < size; i += kBlock) at[i] = 'a';
    expect("truncate to less, mapped", ftruncate(fd, 100), 0);
    claim("what is left is loaded", at[99] == 'a' && at[0] == 'a', "it is not");
    claim("and zeroes behind the end", at[100] == 0 && at[kBlock - 1] == 0, "no");
    expect("truncate to more, mapped", ftruncate(fd, (off_t)size), 0);
    size_t wrong = 0;
    for (size_t i = 100; i < size; ++i) wrong += at[i] != 0;
    claim("what is new is loaded as zeroes", wrong == 0, "not all of it");
    claim("and read", all(fd, 100, size - 100, 0), "not all of it");
    at[2 * kMiB + 5] = 'z';
    claim("read(2) sees what is stored then", all(fd, 2 * kMiB + 5, 1, 'z'), "it does not");
    memset(at + 4L * kBlock, 'p', 3L * kBlock);
    expect("punch, mapped",
           fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5L * kBlock, kBlock), 0);
    claim("it is loaded as zeroes, its neighbours as before",
          at[5 * kBlock] == 0 && at[6 * kBlock - 1] == 0 && at[5 * kBlock - 1] == 'p' &&
              at[6 * kBlock] == 'p',
          "no");
    const int again = need(open(path, O_RDWR | O_TRUNC), "open with O_TRUNC");
    claim("O_TRUNC, mapped", size_of(again) == 0, "it has a size");
    expect("a longer file again", ftruncate(again, 2 * kMiB + 9), 0);
    claim("of zeroes", all(again, 0, 2 * kMiB + 9, 0), "no");
    memcpy(at + 2 * kMiB, "the-end", 7);
    munmap(at, size);
    close(fd);
    close(again);
}

static void direct(const char *path) {
    unsigned char *const page = aligned_alloc(kBlock, kMiB);
    if (page == NULL) exit(1);
    close(made(path, 0, kMiB, 'c'));
    const int fd = need(open(path, O_RDWR | O_DIRECT), "open with O_DIRECT");
    expect("O_DIRECT read of 1 MiB", pread(fd, page, kMiB, 0), 0);
    claim("reads what was cached", page[0] == 'c' && page[kMiB - 1] == 'c', "it does not");
    memset(page, 'd', kMiB);
    expect("O_DIRECT write of 1 MiB", pwrite(fd, page, kMiB, kBlock), 0);
    claim("a write past the end makes it longer", size_of(fd) == kMiB + kBlock, "it does not");
    const int cached = need(open(path, O_RDONLY), path);
    claim("a cached read sees it", all(cached, kBlock, kMiB, 'd') && all(cached, 0, kBlock, 'c'),
          "it does not");
    close(cached);
    close(fd);
    free(page);
}

/* --- locks ------------------------------------------------------------------------------------ */

static long lock_range(int fd, int command, short type, off_t start, off_t length) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, command, &lock);
}

/* Runs a function in a process of its own with an open file of its own; 0, or its errno. */
static int elsewhere(const char *path, long (*function)(int fd)) {
    fflush(stdout);
    const pid_t child = need(fork(), "fork");
    if (child == 0) {
        alarm(10);
        const int fd = open(path, O_RDWR);
        _exit(fd >= 0 && function(fd) >= 0 ? 0 : errno);
    }
    int status;
    need(waitpid(child, &status, 0), "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : ETIMEDOUT;
}

static void other_process(const char *words, const char *path, long (*function)(int), int wanted) {
    errno = elsewhere(path, function);
    expect(words, errno == 0 ? 0 : -1, wanted);
}

static long flock_alone(int fd) {
    return flock(fd, LOCK_EX | LOCK_NB);
}
static long flock_shared(int fd) {
    return flock(fd, LOCK_SH | LOCK_NB);
}
static long write_head(int fd) {
    return lock_range(fd, F_SETLK, F_WRLCK, 0, 10);
}
static long read_head(int fd) {
    return lock_range(fd, F_SETLK, F_RDLCK, 0, 10);
}
static long write_tail(int fd) {
    return lock_range(fd, F_SETLK, F_WRLCK, 10, 0);
}
static long wait_for_head(int fd) {
    return lock_range(fd, F_SETLKW, F_WRLCK, 0, 10);
}
static long open_head(int fd) {
    return lock_range(fd, F_OFD_SETLK, F_WRLCK, 0, 10);
}

static long asked_head(int fd) { /* who holds it?  its parent */
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5, .l_len = 1};
    if (fcntl(fd, F_GETLK, &lock) != 0) return -1;
    errno = ENOENT;
    return lock.l_type == F_WRLCK && lock.l_pid == getppid() && lock.l_len == 10 ? 0 : -1;
}

static void waiting(const char *path, int fd) {
    fflush(stdout);
    const pid_t child = need(fork(), "fork");
    if (child == 0) {
        alarm(10);
        const int own = open(path, O_RDWR);
        _exit(own >= 0 && wait_for_head(own) == 0 ? 0 : 1);
    }
    usleep(200000);
    int status = -1;
    claim("fcntl: who waits for a lock waits", waitpid(child, &status, WNOHANG) == 0, "no");
    lock_range(fd, F_SETLK, F_UNLCK, 0, 0);
    need(waitpid(child, &status, 0), "waitpid");
    claim("fcntl: and gets it when it is given back", status == 0, "it does not");
}

static void locks(const char *path) {
    int fd = made(path, 0, 100, 'l');
    expect("flock", flock(fd, LOCK_EX), 0);
    other_process("flock: another process is refused", path, flock_alone, EWOULDBLOCK);
    expect("flock: shared", flock(fd, LOCK_SH), 0);
    other_process("flock: two share", path, flock_shared, 0);
    other_process("flock: nobody else is alone", path, flock_alone, EWOULDBLOCK);
    expect("flock: given back", flock(fd, LOCK_UN), 0);
    other_process("flock: then another may", path, flock_alone, 0);
    expect("fcntl: a range", lock_range(fd, F_SETLK, F_WRLCK, 0, 10), 0);
    other_process("fcntl: another process is refused", path, write_head, EAGAIN);
    other_process("fcntl: F_GETLK says who", path, asked_head, 0);
    other_process("fcntl: another range is free", path, write_tail, 0);
    other_process("open file description locks meet those", path, open_head, EAGAIN);
    waiting(path, fd);
    expect("fcntl: a shared range", lock_range(fd, F_SETLK, F_RDLCK, 0, 10), 0);
    other_process("fcntl: two share a range", path, read_head, 0);
    close(fd);
    other_process("fcntl: closing gives a lock back", path, write_head, 0);
}

static void rights(const char *path) {
    const int fd = need(open(path, O_RDONLY), path);
    need(setgid(kUser), "setgid");
    need(setuid(kUser), "setuid");
    expect("a user may not read what is root's", open(path, O_RDONLY), EACCES);
    expect("a user may not make it readable", chmod(path, 0666), EPERM);
    expect("a user may not truncate it", truncate(path, 0), EACCES);
    expect("a user may not unlink in root's directory", unlink(path), EACCES);
    close(fd);
}

/* --- bytes that say where they are ------------------------------------------------------------ */

static uint64_t word_at(uint64_t offset, uint64_t seed) {
    uint64_t x = (offset + seed) * 0x9e3779b97f4a7c15U;
    return x ^ (x >> 29);
}

static void fill(const char *path, size_t size, uint64_t seed) {
    static uint64_t content[kMiB / 8];
    const int fd = need(open(path, O_RDWR | O_CREAT, 0644), path);
    for (size_t at = 0; at < size; at += sizeof content) {
        for (size_t i = 0; i < kMiB / 8; ++i) content[i] = word_at(at + i * 8, seed);
        if (pwrite(fd, content, sizeof content, (off_t)at) != sizeof content) need(-1, "write");
    }
    expect("fsync", fsync(fd), 0);
    close(fd);
}

static void store_words(uint64_t *mapping, size_t size, uint64_t seed) {
    for (size_t at = 0; at < size; at += 8) mapping[at / 8] = word_at(at, seed);
}

static void store(const char *path, size_t size, uint64_t seed) {
    const int fd = need(open(path, O_RDWR), path);
    uint64_t *const mapping = (uint64_t *)mapped(fd, size, PROT_READ | PROT_WRITE);
    store_words(mapping, size, seed);
    expect("stored through a shared mapping, and msync", msync(mapping, size, MS_SYNC), 0);
    munmap(mapping, size);
    close(fd);
}

/* Maps a file, changes a word of each page and changes it back: each range of it is in the window.
 */
static uint64_t *touched(const char *path) {
    const int fd = need(open(path, O_RDWR), path);
    const size_t size = (size_t)size_of(fd);
    volatile uint64_t *const mapping = (uint64_t *)mapped(fd, size, PROT_READ | PROT_WRITE);
    for (size_t at = 0; at < size; at += kBlock) {
        const uint64_t word = mapping[at / 8];
        mapping[at / 8] = ~word;
        mapping[at / 8] = word;
    }
    close(need(open("/tmp/holding", O_CREAT | O_WRONLY, 0600), "/tmp/holding"));
    return (uint64_t *)mapping;
}

static void wait_for(const char *path) {
    while (access(path, F_OK) != 0) usleep(10000);
}

static void hold(const char *path) {
    touched(path);
    wait_for("/tmp/release");
}

static void outlive(const char *path, size_t size, uint64_t seed) {
    uint64_t *const mapping = touched(path);
    wait_for("/tmp/killed");
    uint64_t sum = 0;
    store_words(mapping, size, seed);
    for (size_t at = 0; at < size; at += 8) sum += mapping[at / 8] != word_at(at, seed);
    claim("without a server, what is mapped goes on working", sum == 0, "it does not");
    close(need(open("/tmp/outlived", O_CREAT | O_WRONLY, 0600), "/tmp/outlived"));
    /* (What comes now, the end of the process as well, waits for the server.) */
}

static void words(const char *path, size_t size, uint64_t seed) {
    static uint64_t content[kMiB / 8];
    const int fd = need(open(path, O_RDONLY), path);
    size_t wrong = 0;
    for (size_t at = 0; at < size; at += sizeof content) {
        if (pread(fd, content, sizeof content, (off_t)at) != sizeof content) need(-1, "read");
        for (size_t i = 0; i < kMiB / 8; ++i) wrong += content[i] != word_at(at + i * 8, seed);
    }
    claim("every word is right by read(2)", wrong == 0, "no");
    close(fd);
}

static void verify(const char *path, size_t size, uint64_t seed) {
    words(path, size, seed);
    const int fd = need(open(path, O_RDONLY), path);
    const uint64_t *const mapping = (const uint64_t *)mapped(fd, size, PROT_READ);
    size_t wrong = 0;
    for (size_t at = 0; at < size; at += 512) wrong += mapping[at / 8] != word_at(at, seed);
    claim("and by mmap", wrong == 0, "no");
    close(fd);
}

/* --- DAX -------------------------------------------------------------------------------------- */

static void poke(const char *path, const char *offset, const char *word, bool store_it) {
    const int fd = need(open(path, O_RDWR), path);
    const size_t at = strtoul(offset, NULL, 10);
    char *const bytes = (char *)mapped(fd, (size_t)size_of(fd), PROT_READ | PROT_WRITE);
    if (store_it) {
        memcpy(bytes + at, word, strlen(word));
    } else if (strncmp(bytes + at, word, strlen(word)) != 0) {
        claim("loads the word", false, bytes + at);
    }
    close(fd);
}

static void is_dax(const char *path, bool wanted) {
    struct statx is;
    need(statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, &is), path);
    const bool has = (is.stx_attributes & STATX_ATTR_DAX) != 0;
    claim(wanted ? "the kernel says that a file is DAX" : "the kernel says that a file is not DAX",
          has == wanted, has ? "it is" : "it is not");
}

static void punch(const char *path) {
    const int fd = need(open(path, O_RDWR), path);
    expect("no punch", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBlock),
           ETXTBSY);
    expect("no zeroing", fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, kBlock), ETXTBSY);
    expect("no growth", ftruncate(fd, size_of(fd) + kBlock), ETXTBSY);
    expect("no truncate", ftruncate(fd, 0), ETXTBSY);
    close(fd);
}

/* The kernel gives the server addresses in the window then. */
static void into(const char *from_path, const char *to_path) {
    const int from = need(open(from_path, O_RDWR | O_DIRECT), from_path);
    const int to = need(open(to_path, O_RDWR), to_path);
    unsigned char *const mapping = mapped(to, (size_t)size_of(to), PROT_READ | PROT_WRITE);
    mapping[0] ^= 1; /* (its first range is mapped) */
    expect("O_DIRECT read into a mapping of a DAX file", pread(from, mapping, kMiB, 0), 0);
    unsigned char *const bytes = malloc(kMiB);
    const int cached = need(open(from_path, O_RDONLY), from_path);
    if (bytes == NULL || pread(cached, bytes, kMiB, 0) != kMiB) need(-1, "read");
    claim("the bytes are there", memcmp(mapping, bytes, kMiB) == 0, "they are not");
    memset(mapping + kMiB, 'w', kMiB);
    expect("O_DIRECT write from a mapping of a DAX file", pwrite(from, mapping + kMiB, kMiB, kMiB),
           0);
    if (pread(cached, bytes, kMiB, kMiB) != kMiB) need(-1, "read");
    claim("the bytes are in the file", memcmp(mapping + kMiB, bytes, kMiB) == 0, "they are not");
    expect("O_DIRECT read into a range that was not touched",
           pread(from, mapping + 4L * kMiB, kMiB, 0), 0);
    claim("the bytes are there, too", memcmp(mapping, mapping + 4L * kMiB, kMiB) == 0,
          "they are not");
}

static int with_a_word(char **argv) {
    const char *const verb = argv[1];
    if (strcmp(verb, "is_dax") == 0) is_dax(argv[2], strcmp(argv[3], "yes") == 0);
    if (strcmp(verb, "into") == 0) into(argv[2], argv[3]);
    return g_failed == 0 ? 0 : 1;
}

static int with_a_size(char **argv) {
    static const struct {
        const char *name;
        void (*function)(const char *path, size_t size, uint64_t seed);
    } kVerbs[] = {{"fill", fill},
                  {"store", store},
                  {"words", words},
                  {"verify", verify},
                  {"outlive", outlive}};
    const char *const verb = argv[1];
    if (strcmp(verb, "poke") == 0 || strcmp(verb, "peek") == 0)
        poke(argv[2], argv[3], argv[4], strcmp(verb, "poke") == 0);
    for (size_t i = 0; i < sizeof kVerbs / sizeof kVerbs[0]; ++i)
        if (strcmp(verb, kVerbs[i].name) == 0)
            kVerbs[i].function(argv[2], strtoul(argv[3], NULL, 10) * kMiB,
                               strtoul(argv[4], NULL, 10));
    return g_failed == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*function)(const char *path);
    } kVerbs[] = {{"space", space}, {"map", map},       {"direct", direct},
                  {"locks", locks}, {"rights", rights}, {"punch", punch},
                  {"grow", grow},   {"hold", hold},     {"shrink", shrink}};
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3)
        for (size_t i = 0; i < sizeof kVerbs / sizeof kVerbs[0]; ++i)
            if (strcmp(argv[1], kVerbs[i].name) == 0) {
                kVerbs[i].function(argv[2]);
                return g_failed == 0 ? 0 : 1;
            }
    if (argc == 4) return with_a_word(argv);
    if (argc == 5) return with_a_size(argv);
    fprintf(stderr,
            "usage: file_calls space|map|direct|locks|rights|grow|punch|hold|shrink FILE\n"
            "       file_calls fill|store|words|verify|outlive FILE MIB SEED\n"
            "       file_calls is_dax FILE yes|no; into FROM TO; poke|peek FILE OFFSET WORD\n");
    return 2;
}
