/*
 * fallocate_seal - seals by plain fallocate(2), as a program does that knows of no pmfs.
 *
 *     fallocate_seal column FILE       the P column of docs/seal.md on a fit file, by system calls;
 * ends unsealed fallocate_seal words FILE        the fine print: ranges, flags, descriptors, files
 * that are not fit fallocate_seal rights FILE yes|no    may the owner (user 1000) seal, and what
 * nobody else may fallocate_seal seal|unseal FILE [ERRNO-NAME]    once; must succeed, or fail so
 *     fallocate_seal sealed FILE       is it?  (nothing of it can be truncated)
 *     fallocate_seal refused FILE      a filesystem that does not know the modes: EOPNOTSUPP, no
 * harm fallocate_seal stock FILE        a kernel that does not know them: the same, earlier
 *
 * With XATTR=NAME in the environment `column` sets and removes that xattr (trusted.pmfs.seal)
 * instead: for a kernel that does not pass the modes of fallocate(2).
 *
 * FILE is made by somebody else, at least 64 KiB, every block written and aligned.  One line "PASS
 * words" or "FAIL words: why" for each claim, for the rig to count.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "claims.h"

/* What a header of a kernel with tests/rig/kernel/0001-seal-block-map.patch has. */
#ifndef FALLOC_FL_SEAL_BLOCK_MAP
#define FALLOC_FL_SEAL_BLOCK_MAP 0x01000000
#define FALLOC_FL_UNSEAL_BLOCK_MAP 0x02000000
#endif

enum { kSeal = FALLOC_FL_SEAL_BLOCK_MAP | FALLOC_FL_KEEP_SIZE };
enum { kUnseal = FALLOC_FL_UNSEAL_BLOCK_MAP | FALLOC_FL_KEEP_SIZE };
enum { kBlock = 4096, kUser = 1000 };

static const off_t kEverything = (off_t)1 << 40;

static int open_file(const char *path, int flags) {
    return need(open(path, flags, 0644), path);
}

static off_t size_of(const char *path) {
    struct stat is;
    need(stat(path, &is), path);
    return is.st_size;
}

static unsigned char *bytes_of(const char *path, off_t *size) {
    const int fd = open_file(path, O_RDONLY);
    *size = size_of(path);
    unsigned char *bytes = malloc((size_t)*size + 1);
    if (bytes == NULL) exit(1);
    for (off_t at = 0; at < *size;) {
        const ssize_t got = pread(fd, bytes + at, (size_t)(*size - at), at);
        if (need(got, "read") == 0) break;
        at += got;
    }
    close(fd);
    return bytes;
}

/* A file beside `path`, named after it. */
static const char *beside(const char *path, const char *suffix) {
    static char name[4][512];
    static int next;
    char *const out = name[next++ % 4];
    snprintf(out, sizeof name[0], "%s.%s", path, suffix);
    return out;
}

/* Seals or unseals the whole of a file that has `size` bytes, through the interface that was
 * chosen.
 */
static int set_seal(int fd, int mode, off_t size) {
    const char *const name = getenv("XATTR");
    if (name == NULL) return fallocate(fd, mode, 0, size);
    return mode == kSeal ? fsetxattr(fd, name, "full", 4, 0) : fremovexattr(fd, name);
}

/* --- the P column ----------------------------------------------------------------------------- */

static void data_row(int fd, off_t size) {
    char text[100];
    memset(text, 'w', sizeof text);
    expect("sealed, read", pread(fd, text, sizeof text, 5000), 0);
    expect("sealed, write in place", pwrite(fd, text, sizeof text, 5000), 0);
    expect("sealed, write in place up to the end", pwrite(fd, text, 100, size - 100), 0);
    expect("sealed, write of no bytes past the end", pwrite(fd, text, 0, size + 1), 0);
    expect("sealed, write past the end", pwrite(fd, text, 1, size), ETXTBSY);
    expect("sealed, write far past the end", pwrite(fd, text, 1, size + (1 << 20)), ETXTBSY);
    expect("sealed, write across the end", pwrite(fd, text, 20, size - 10), ETXTBSY);
    expect("sealed, fsync", fsync(fd), 0);
}

static void append_row(const char *path) {
    const int fd = open_file(path, O_WRONLY | O_APPEND);
    expect("sealed, append", write(fd, "x", 1), ETXTBSY);
    close(fd);
}

static void size_row(const char *path, int fd, off_t size) {
    expect("sealed, truncate to less", ftruncate(fd, size - 1), ETXTBSY);
    expect("sealed, truncate to nothing", ftruncate(fd, 0), ETXTBSY);
    expect("sealed, truncate to more", ftruncate(fd, size + 1), ETXTBSY);
    expect("sealed, truncate to the same size", ftruncate(fd, size), 0);
    expect("sealed, truncate by name", truncate(path, kBlock), ETXTBSY);
    const int opened = open(path, O_RDWR | O_TRUNC);
    expect("sealed, open with O_TRUNC", opened, ETXTBSY);
    if (opened >= 0) close(opened);
}

static void allocation_row(int fd, off_t size) {
    static const struct {
        const char *words;
        int mode, wanted;
    } kModes[] = {
        {"sealed, allocate", 0, ETXTBSY},
        {"sealed, allocate, keep size", FALLOC_FL_KEEP_SIZE, ETXTBSY},
        {"sealed, punch", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, ETXTBSY},
        {"sealed, zero", FALLOC_FL_ZERO_RANGE, ETXTBSY},
        {"sealed, zero, keep size", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, ETXTBSY},
        /* FUSE knows none of these. */
        {"sealed, collapse", FALLOC_FL_COLLAPSE_RANGE, EOPNOTSUPP},
        {"sealed, insert", FALLOC_FL_INSERT_RANGE, EOPNOTSUPP},
        {"sealed, unshare", FALLOC_FL_UNSHARE_RANGE, EOPNOTSUPP},
    };
    for (size_t i = 0; i < sizeof kModes / sizeof kModes[0]; ++i)
        expect(kModes[i].words, fallocate(fd, kModes[i].mode, kBlock, kBlock), kModes[i].wanted);
    expect("sealed, allocate past the end", fallocate(fd, 0, size, kBlock), ETXTBSY);
    expect("sealed, posix_fallocate", (errno = posix_fallocate(fd, 0, size + kBlock)) == 0 ? 0 : -1,
           ETXTBSY);
}

static void copy_row(const char *path, int fd, off_t size) {
    const int other = open_file(beside(path, "other"), O_RDWR | O_CREAT | O_TRUNC);
    need(ftruncate(other, kBlock), "ftruncate");
    off_t from = 0, to = 0;
    expect("sealed, copy from it", copy_file_range(fd, &from, other, &to, kBlock, 0), 0);
    from = 0, to = kBlock;
    expect("sealed, copy into it in place", copy_file_range(other, &from, fd, &to, kBlock, 0), 0);
    from = 0, to = size;
    expect("sealed, copy past its end", copy_file_range(other, &from, fd, &to, kBlock, 0), ETXTBSY);
    expect("sealed, clone over it", ioctl(fd, FICLONE, other), EOPNOTSUPP);
    expect("sealed, clone of it", ioctl(other, FICLONE, fd), EOPNOTSUPP);
    close(other);
    unlink(beside(path, "other"));
}

static void attribute_row(const char *path, int fd) {
    expect("sealed, chmod", fchmod(fd, 0600), 0);
    expect("sealed, chown", fchown(fd, 5, 6), 0);
    expect("sealed, chown back", fchown(fd, 0, 0), 0);
    const struct timespec times[2] = {{1, 2}, {3, 4}};
    expect("sealed, times", futimens(fd, times), 0);
    expect("sealed, set an xattr", fsetxattr(fd, "user.x", "y", 1, 0), 0);
    expect("sealed, remove an xattr", fremovexattr(fd, "user.x"), 0);
    expect("sealed, link", link(path, beside(path, "link")), 0);
    expect("sealed, rename", rename(beside(path, "link"), beside(path, "renamed")), 0);
    expect("sealed, unlink of one name", unlink(beside(path, "renamed")), 0);
}

/* A file that is sealed full goes past the page cache where it is open for writing: no page of it
 * can be dirty behind our back. */
static void mapping_row(const char *path) {
    const int fd = open_file(path, O_RDWR);
    void *const at = mmap(NULL, kBlock, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    expect("sealed, shared mapping through the page cache", at == MAP_FAILED ? -1 : 0, ENODEV);
    close(fd);
}

static void seal_and_look(const char *path, int fd, off_t size, const unsigned char *before) {
    off_t size_after;
    expect("SEAL", set_seal(fd, kSeal, size), 0);
    unsigned char *const after = bytes_of(path, &size_after);
    claim("SEAL changes no byte", size_after == size && memcmp(before, after, (size_t)size) == 0,
          "it did");
    free(after);
    expect("SEAL of what is sealed", set_seal(fd, kSeal, size), 0);
}

/* The last name of it goes, by unlink or by rename over it; who has it open keeps it as it was. */
static void unlink_row(const char *path, int fd, off_t size) {
    char byte;
    const int over = open_file(beside(path, "over"), O_WRONLY | O_CREAT);
    close(over);
    expect("sealed, another name", link(path, beside(path, "kept")), 0);
    expect("sealed, rename over it", rename(beside(path, "over"), path), 0);
    claim("the name is the other's", size_of(path) == 0, "it is not");
    expect("sealed, unlink of the last name", unlink(beside(path, "kept")), 0);
    expect("without a name, read", pread(fd, &byte, 1, size - 1), 0);
    expect("without a name, still sealed", ftruncate(fd, 0), ETXTBSY);
}

static void column(const char *path) {
    off_t size;
    unsigned char *const before = bytes_of(path, &size);
    const int fd = open_file(path, O_RDWR);
    seal_and_look(path, fd, size, before);
    const int second = open_file(path, O_RDWR);
    data_row(second, size);
    append_row(path);
    size_row(path, second, size);
    allocation_row(second, size);
    copy_row(path, second, size);
    attribute_row(path, second);
    mapping_row(path);
    claim("sealed, the size has not changed", size_of(path) == size, "it has");
    close(second);

    expect("UNSEAL", set_seal(fd, kUnseal, size), 0);
    expect("UNSEAL of what is not sealed", set_seal(fd, kUnseal, kEverything), 0);
    expect("SEAL again", set_seal(fd, kSeal, kEverything), 0);
    unlink_row(path, fd, size);
    expect("without a name, UNSEAL", set_seal(fd, kUnseal, size), 0);
    expect("unsealed, append", pwrite(fd, "x", 1, size), 0);
    expect("unsealed, truncate", ftruncate(fd, 0), 0);
    expect("unsealed, allocate", fallocate(fd, 0, 0, kBlock), 0);
    close(fd);
    free(before);
}

/* --- the fine print --------------------------------------------------------------------------- */

static void ranges(int fd, off_t size) {
    static const struct {
        const char *words;
        int mode, wanted;
    } kFlags[] = {
        {"SEAL without KEEP_SIZE", FALLOC_FL_SEAL_BLOCK_MAP, EINVAL},
        {"UNSEAL without KEEP_SIZE", FALLOC_FL_UNSEAL_BLOCK_MAP, EINVAL},
        {"SEAL and UNSEAL in one", kSeal | kUnseal, EOPNOTSUPP},
        {"SEAL and punch in one", kSeal | FALLOC_FL_PUNCH_HOLE, EOPNOTSUPP},
        {"SEAL and zero in one", kSeal | FALLOC_FL_ZERO_RANGE, EOPNOTSUPP},
        {"SEAL and unshare in one", kSeal | FALLOC_FL_UNSHARE_RANGE, EOPNOTSUPP},
        {"UNSEAL and collapse in one", kUnseal | FALLOC_FL_COLLAPSE_RANGE, EOPNOTSUPP},
        {"a mode that nobody knows", 0x04000000 | FALLOC_FL_KEEP_SIZE, EOPNOTSUPP},
    };
    for (size_t i = 0; i < sizeof kFlags / sizeof kFlags[0]; ++i)
        expect(kFlags[i].words, fallocate(fd, kFlags[i].mode, 0, size), kFlags[i].wanted);
    expect("SEAL from offset 1", fallocate(fd, kSeal, 1, size), EINVAL);
    expect("SEAL from offset 4096", fallocate(fd, kSeal, kBlock, kEverything), EINVAL);
    expect("SEAL up to the last byte but one", fallocate(fd, kSeal, 0, size - 1), EINVAL);
    expect("SEAL of no bytes", fallocate(fd, kSeal, 0, 0), EINVAL);
    expect("SEAL of a negative length", fallocate(fd, kSeal, 0, -1), EINVAL);
    expect("SEAL from a negative offset", fallocate(fd, kSeal, -1, size), EINVAL);
    expect("SEAL past what a file can have", fallocate(fd, kSeal, 1, (off_t)(~0ULL >> 1)), EFBIG);
    expect("UNSEAL from offset 1", fallocate(fd, kUnseal, 1, size), EINVAL);
    expect("UNSEAL up to the last byte but one", fallocate(fd, kUnseal, 0, size - 1), EINVAL);
    expect("nothing of that sealed it", ftruncate(fd, size), 0);
    expect("it can still be allocated", fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size), 0);
    expect("SEAL of exactly the whole file", fallocate(fd, kSeal, 0, size), 0);
    expect("UNSEAL of more than the whole file", fallocate(fd, kUnseal, 0, size + 1), 0);
}

static void descriptors(const char *path, const char *directory) {
    int fd = open_file(path, O_RDONLY);
    expect("SEAL by a descriptor that cannot write", fallocate(fd, kSeal, 0, kEverything), EBADF);
    expect("UNSEAL by a descriptor that cannot write", fallocate(fd, kUnseal, 0, kEverything),
           EBADF);
    close(fd);
    fd = open_file(path, O_PATH);
    expect("SEAL by O_PATH", fallocate(fd, kSeal, 0, kEverything), EBADF);
    close(fd);
    fd = open_file(directory, O_RDONLY | O_DIRECTORY);
    expect("SEAL of a directory", fallocate(fd, kSeal, 0, kEverything), EBADF);
    close(fd);
    fd = open_file("/dev/null", O_WRONLY);
    expect("SEAL of a device", fallocate(fd, kSeal, 0, kEverything), ENODEV);
    close(fd);
    int ends[2];
    need(pipe(ends), "pipe");
    expect("SEAL of a pipe", fallocate(ends[1], kSeal, 0, kEverything), ESPIPE);
    close(ends[0]);
    close(ends[1]);
}

static void unfit(const char *path) {
    const char *const name = beside(path, "unfit");
    const int fd = open_file(name, O_RDWR | O_CREAT | O_TRUNC);
    expect("SEAL of an empty file", fallocate(fd, kSeal, 0, kEverything), EINVAL);
    need(ftruncate(fd, 16 * kBlock), "ftruncate");
    expect("SEAL of a hole", fallocate(fd, kSeal, 0, kEverything), EINVAL);
    need(pwrite(fd, "x", 1, 0), "write");
    expect("SEAL of a block and a hole", fallocate(fd, kSeal, 0, kEverything), EINVAL);
    need(fallocate(fd, 0, 0, 16 * kBlock), "fallocate");
    expect("SEAL of unwritten blocks", fallocate(fd, kSeal, 0, kEverything), EINVAL);
    expect("what is not fit is not sealed", ftruncate(fd, 0), 0);
    close(fd);
    unlink(name);
}

/* The kernel writes dirty pages back before it sends a seal. */
static void dirty_pages(const char *path) {
    static const char kDirty[] = "dirty";
    const int fd = open_file(path, O_RDWR);
    char *const at = mmap(NULL, kBlock, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    need(at == MAP_FAILED ? -1 : 0, "mmap");
    memcpy(at, kDirty, sizeof kDirty);
    expect("SEAL with a dirty page", fallocate(fd, kSeal, 0, kEverything), 0);
    char got[sizeof kDirty] = "";
    const int direct = open_file(path, O_RDONLY);
    need(pread(direct, got, sizeof got, 0), "read");
    claim("a page that was dirty is in the file", memcmp(got, kDirty, sizeof got) == 0,
          "it is not");
    expect("UNSEAL", fallocate(fd, kUnseal, 0, kEverything), 0);
    munmap(at, kBlock);
    close(direct);
    close(fd);
}

static void words(const char *path, const char *directory) {
    const int fd = open_file(path, O_RDWR);
    ranges(fd, size_of(path));
    close(fd);
    descriptors(path, directory);
    unfit(path);
    dirty_pages(path);
}

/* --- who may ---------------------------------------------------------------------------------- */

static void as_user(void (*function)(int, int), int fd, int wanted) {
    fflush(stdout);
    const pid_t child = need(fork(), "fork");
    if (child == 0) {
        need(setgid(kUser), "setgid");
        need(setuid(kUser), "setuid");
        g_failed = 0;
        function(fd, wanted);
        exit(g_failed == 0 ? 0 : 1);
    }
    int status;
    need(waitpid(child, &status, 0), "waitpid");
    if (status != 0) ++g_failed;
}

static void as_stranger(int fd, int wanted) {
    expect("the file of somebody else, by a descriptor that may write: SEAL",
           fallocate(fd, kSeal, 0, kEverything), wanted);
    expect("the file of somebody else, by a descriptor that may write: UNSEAL",
           fallocate(fd, kUnseal, 0, kEverything), wanted);
}

static void as_owner(int fd, int wanted) {
    struct stat is;
    expect("SEAL by its owner", fallocate(fd, kSeal, 0, kEverything), wanted);
    need(fstat(fd, &is), "fstat");
    claim("a seal clears no set-user-id bit", (is.st_mode & S_ISUID) != 0, "it is gone");
    expect("UNSEAL by its owner", fallocate(fd, kUnseal, 0, kEverything), wanted);
}

static void rights(const char *path, bool owner_may) {
    const int fd = open_file(path, O_RDWR);
    as_user(as_stranger, fd, EPERM);
    need(fchown(fd, kUser, kUser), "chown");
    need(fchmod(fd, 04755), "chmod");
    as_user(as_owner, fd, owner_may ? 0 : EPERM);
    expect("root seals what is another's", fallocate(fd, kSeal, 0, kEverything), 0);
    expect("root unseals it", fallocate(fd, kUnseal, 0, kEverything), 0);
    close(fd);
}

/* --- who does not know the modes -------------------------------------------------------------- */

static void refused(const char *path, int without_keep_size) {
    const int fd = open_file(path, O_RDWR);
    const off_t size = 16 * kBlock; /* (a block device has none in stat) */
    const int works = fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size) == 0 ? 0 : errno;
    expect("SEAL where nobody knows it", fallocate(fd, kSeal, 0, size), EOPNOTSUPP);
    expect("UNSEAL where nobody knows it", fallocate(fd, kUnseal, 0, size), EOPNOTSUPP);
    expect("SEAL without KEEP_SIZE", fallocate(fd, FALLOC_FL_SEAL_BLOCK_MAP, 0, size),
           without_keep_size);
    expect("and fallocate does what it did before", fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size),
           works);
    close(fd);
}

static void once(const char *path, int mode, int wanted) {
    const int fd = open_file(path, O_RDWR);
    expect((mode & FALLOC_FL_SEAL_BLOCK_MAP) != 0 ? "SEAL" : "UNSEAL",
           fallocate(fd, mode, 0, kEverything), wanted);
    close(fd);
}

static int number_of(const char *name) {
    for (int error = 1; error < 200; ++error) {
        const char *const known = strerrorname_np(error);
        if (known != NULL && strcmp(known, name) == 0) return error;
    }
    return 0;
}

int main(int argc, char **argv) {
    const char *const verb = argc > 2 ? argv[1] : "";
    const char *const path = argc > 2 ? argv[2] : "";
    const char *const word = argc > 3 ? argv[3] : "";
    const char *const where = getenv("WHERE");
    if (where != NULL) g_where = where;
    if (strcmp(verb, "column") == 0) {
        column(path);
    } else if (strcmp(verb, "words") == 0) {
        words(path, "/");
    } else if (strcmp(verb, "rights") == 0) {
        rights(path, strcmp(word, "yes") == 0);
    } else if (strcmp(verb, "seal") == 0) {
        once(path, kSeal, number_of(word));
    } else if (strcmp(verb, "unseal") == 0) {
        once(path, kUnseal, number_of(word));
    } else if (strcmp(verb, "sealed") == 0) {
        expect("it is sealed: truncate", truncate(path, 1), ETXTBSY);
    } else if (strcmp(verb, "refused") == 0) {
        refused(path, EINVAL);
    } else if (strcmp(verb, "stock") == 0) {
        refused(path, EOPNOTSUPP);
    } else {
        fprintf(stderr,
                "usage: fallocate_seal column|words|rights|seal|unseal|sealed|refused|stock FILE "
                "[WORD]\n");
        return 2;
    }
    return g_failed == 0 ? 0 : 1;
}
