/*
 * libpmfs-preload.so, mappings: with PMFS_PRELOAD_MMAP=1 in the environment, mmap(2) of a file that
 * is sealed full becomes a direct mapping (pmfs_map), without the program's knowledge.
 *
 * Its grant lives as long as any page of it is mapped.  What cannot be a direct mapping, and what
 * fails, is left to the kernel, whose answer the program gets.
 */
#undef _FILE_OFFSET_BITS /* both functions are defined here, so neither may be named as the other  \
                          */
#define _GNU_SOURCE      /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "internal.h"

/* Where the system calls take offsets of 64 bits in one word. */
#if __SIZEOF_POINTER__ == 8

#define PAGE ((uintptr_t)4096)
/* Not in the C library's headers of all ages. */
#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 0x03
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* One pmfs_map(), the addresses that the program got of it, and how many pieces of them are still
 * mapped.
 */
struct held {
    struct pmfs_map *map;
    uintptr_t start, end;
    unsigned pieces;
    struct held *next; /* of those that are over */
};

/* Addresses that the program has mapped; whole pages. */
struct piece {
    struct piece *next;
    struct held *held;
    uintptr_t start, end;
};

static bool enabled;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct piece *pieces; /* under it */
static unsigned piece_count; /* changed under it, and read without it to see that there is none */
/* What we call may map and unmap, and means the kernel. */
static __thread bool inside;

static void *kernel_mmap(void *at, size_t length, int prot, int flags, int fd, off64_t offset) {
    return (void *)syscall(SYS_mmap, at, length, prot, flags, fd, offset);
}

static int kernel_munmap(uintptr_t start, uintptr_t end) {
    return (int)syscall(SYS_munmap, start, end - start);
}

static bool may_be_ours(void) {
    return __atomic_load_n(&piece_count, __ATOMIC_RELAXED) != 0 && !inside;
}

static void link_piece(struct piece *piece) {
    piece->next = pieces;
    pieces = piece;
    __atomic_fetch_add(&piece_count, 1, __ATOMIC_RELAXED);
}

/* *at points to the piece. */
static void unlink_piece(struct piece **at) {
    *at = (*at)->next;
    __atomic_fetch_sub(&piece_count, 1, __ATOMIC_RELAXED);
}

/* --- forks: as in fork.c nobody waits for ever, because a program's allocator, for instance, may
 * unmap while it has a lock that its own fork handler takes, too. */

static __thread bool locked; /* while this thread forks */

static void before_fork(void) {
    locked = pmfs_lock_in_time(&mutex);
}

static void in_parent(void) {
    if (locked) pthread_mutex_unlock(&mutex);
}

/* Of what may store the child has nothing, and may map something else there. */
static void in_child(void) {
    mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    if (!locked) { /* the table may be in the middle of a change */
        pieces = NULL;
        __atomic_store_n(&piece_count, 0, __ATOMIC_RELAXED);
    }
    for (struct piece **at = &pieces; *at != NULL;) {
        if ((*at)->held->map->forks)
            at = &(*at)->next;
        else
            unlink_piece(at);
    }
}

__attribute__((constructor)) static void look_at_environment(void) {
    const char *word = secure_getenv("PMFS_PRELOAD_MMAP");
    if (word == NULL || strcmp(word, "1") != 0) return;
    enabled = pthread_atfork(before_fork, in_parent, in_child) == 0;
}

/* --- unmapping */

/* A piece that begins or goes on in [start, end). */
static struct piece *any_in(uintptr_t start, uintptr_t end) {
    struct piece *p = pieces;
    while (p != NULL && (p->start >= end || p->end <= start)) p = p->next;
    return p;
}

/* Takes [start, end) out of a piece that has all of it.  0 or an errno value. */
static int cut(struct piece *piece, uintptr_t start, uintptr_t end) {
    if (start > piece->start && end < piece->end) {
        struct piece *behind = malloc(sizeof *behind);
        if (behind == NULL) return ENOMEM;
        *behind = (struct piece){NULL, piece->held, end, piece->end};
        piece->held->pieces++;
        piece->end = start;
        link_piece(behind);
    } else if (start > piece->start) {
        piece->end = start;
    } else if (end < piece->end) {
        piece->start = end;
    } else {
        struct piece **at = &pieces;
        while (*at != piece) at = &(*at)->next;
        unlink_piece(at);
        piece->held->pieces--;
        free(piece);
    }
    return 0;
}

/* Whatever pieces have in [start, end) is theirs no more.  *over: mappings of which that was the
 * last.  0 or an errno value: then a part may be done.  Without the mutex the table stays as it is:
 * what is unmapped while a fork waits for us is rarely ours, and if it is its grant lives on. */
static int take_out(uintptr_t start, uintptr_t end, struct held **over) {
    int result = 0;
    if (!pmfs_lock_in_time(&mutex)) return 0;
    for (struct piece *p; result == 0 && (p = any_in(start, end)) != NULL;) {
        struct held *held = p->held;
        result = cut(p, p->start > start ? p->start : start, p->end < end ? p->end : end);
        if (held->pieces != 0) continue;
        held->next = *over;
        *over = held;
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

/* Not with the mutex held, because it waits for forks.  Unmaps only addresses that the program
 * never knew of: at those that it has unmapped there may be something else by now. */
static void end_maps(struct held *over) {
    while (over != NULL) {
        struct held *next = over->next;
        struct pmfs_map *map = over->map;
        const uintptr_t base = (uintptr_t)map->base;
        if (base < over->start) kernel_munmap(base, over->start);
        if (over->end < base + map->span) kernel_munmap(over->end, base + map->span);
        map->base = NULL;
        pmfs_unmap(map);
        free(over);
        over = next;
    }
}

/* As munmap(2).  0 or an errno value. */
static int unmap(uintptr_t start, uintptr_t end) {
    struct held *over = NULL;
    inside = true;
    int result = take_out(start, end, &over);
    if (result == 0 && kernel_munmap(start, end) != 0) result = errno;
    end_maps(over);
    inside = false;
    return result;
}

/* The kernel has put something else at [at, at + length). */
static void replaced(const void *at, size_t length) {
    if (!may_be_ours()) return;
    const int before = errno;
    struct held *over = NULL;
    inside = true;
    (void)take_out((uintptr_t)at, (uintptr_t)at + ((length + PAGE - 1) & ~(PAGE - 1)), &over);
    end_maps(over);
    inside = false;
    errno = before;
}

/* --- mapping */

static bool fits_direct(int prot, int flags, off64_t offset) {
    const int type = flags & MAP_TYPE;
    const int known = MAP_TYPE | MAP_POPULATE | MAP_NORESERVE | MAP_DENYWRITE | MAP_EXECUTABLE;
    return (type == MAP_SHARED || type == MAP_SHARED_VALIDATE) && (flags & ~known) == 0 &&
           (prot == PROT_READ || prot == (PROT_READ | PROT_WRITE)) && offset >= 0 &&
           (uintptr_t)offset % PAGE == 0;
}

/* How many bytes of [offset, offset + length) are the file's; 0: it is not one that is sealed full,
 * or the range goes on in pages behind its end. */
static uint64_t mappable(int fd, uint64_t offset, size_t length) {
    struct stat64 status;
    struct statfs fs;
    if (fstat64(fd, &status) != 0 || !S_ISREG(status.st_mode)) return 0;
    /* Another filesystem might understand this ioctl differently, so only FUSE filesystems are
     * asked. */
    if (fstatfs(fd, &fs) != 0 || fs.f_type != FUSE_SUPER_MAGIC) return 0;
    struct pmfs_info info = {.version = PMFS_ABI_VERSION};
    if (pmfs_ioctl(fd, PMFS_IOC_INFO, &info) != 0 || info.seal != PMFS_SEAL_FULL) return 0;
    const uint64_t pages_end = (info.size + PAGE - 1) & ~(uint64_t)(PAGE - 1);
    if (offset >= info.size || length > pages_end - offset) return 0;
    return length < info.size - offset ? length : info.size - offset;
}

/* NULL: it is the kernel's. */
static void *map_directly(size_t length, int prot, int flags, int fd, uint64_t offset) {
    const uint64_t bytes = mappable(fd, offset, length);
    if (bytes == 0) return NULL;
    struct held *held = calloc(1, sizeof *held);
    struct piece *piece = calloc(1, sizeof *piece);
    unsigned how = (flags & MAP_POPULATE) != 0 ? PMFS_MAP_POPULATE : 0;
    /* A mapping that children could not inherit as they should is left to the kernel, if it only
     * reads. */
    if ((prot & PROT_WRITE) == 0) how |= PMFS_MAP_FORK;
    if (held == NULL || piece == NULL ||
        pmfs_map(fd, (off_t)offset, bytes, prot, how, &held->map) != 0) {
        free(held);
        free(piece);
        return NULL;
    }
    held->pieces = 1;
    piece->held = held;
    held->start = piece->start = (uintptr_t)pmfs_map_address(held->map);
    held->end = piece->end = piece->start + ((length + PAGE - 1) & ~(PAGE - 1));
    void *address = (void *)piece->start;
    if (!pmfs_lock_in_time(&mutex)) {
        pmfs_unmap(held->map);
        free(held);
        free(piece);
        return NULL;
    }
    link_piece(piece);
    pthread_mutex_unlock(&mutex);
    return address;
}

static void *map_or_kernel(void *at, size_t length, int prot, int flags, int fd, off64_t offset) {
    const int before = errno;
    if (enabled && !inside && fd >= 0 && length != 0 && fits_direct(prot, flags, offset)) {
        const int cancel = pmfs_disable_cancel(); /* mmap(2) is no cancellation point */
        inside = true;
        void *direct = map_directly(length, prot, flags, fd, (uint64_t)offset);
        inside = false;
        pmfs_restore_cancel(cancel);
        errno = before;
        if (direct != NULL) return direct;
    }
    void *there = kernel_mmap(at, length, prot, flags, fd, offset);
    if ((flags & MAP_FIXED) != 0 && there != MAP_FAILED) replaced(at, length);
    return there;
}

PMFS_EXPORT void *mmap64(void *at, size_t length, int prot, int flags, int fd, off64_t offset) {
    return map_or_kernel(at, length, prot, flags, fd, offset);
}

PMFS_EXPORT void *mmap(void *at, size_t length, int prot, int flags, int fd, off_t offset) {
    return map_or_kernel(at, length, prot, flags, fd, offset);
}

PMFS_EXPORT int munmap(void *at, size_t length) {
    const uintptr_t start = (uintptr_t)at;
    uintptr_t end;
    if (!may_be_ours() || start % PAGE != 0 || length == 0 ||
        __builtin_add_overflow(start, (length + PAGE - 1) & ~(PAGE - 1), &end))
        return (int)syscall(SYS_munmap, at, length);
    const int before = errno;
    const int result = unmap(start, end);
    errno = result == 0 ? before : result;
    return result == 0 ? 0 : -1;
}

static bool is_ours(const void *at, size_t length) {
    if (!may_be_ours()) return false;
    const uintptr_t start = (uintptr_t)at;
    uintptr_t end;
    if (__builtin_add_overflow(start, length != 0 ? length : 1, &end)) return false;
    if (!pmfs_lock_in_time(&mutex)) return false;
    const bool ours = any_in(start, end) != NULL;
    pthread_mutex_unlock(&mutex);
    return ours;
}

/* Behind the mapping the device continues with other files, so a mapping never grows. */
PMFS_EXPORT void *mremap(void *at, size_t old_length, size_t new_length, int flags, ...) {
    va_list more;
    va_start(more, flags);
    void *to = (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0 ? va_arg(more, void *) : NULL;
    va_end(more);
    if (!is_ours(at, old_length)) {
        void *there = (void *)syscall(SYS_mremap, at, old_length, new_length, flags, to);
        if ((flags & MREMAP_FIXED) != 0 && there != MAP_FAILED) replaced(to, new_length);
        return there;
    }
    const size_t old_pages = (old_length + PAGE - 1) & ~(PAGE - 1);
    const size_t new_pages = (new_length + PAGE - 1) & ~(PAGE - 1);
    if ((flags & ~MREMAP_MAYMOVE) != 0 || new_length == 0 || old_length == 0 ||
        (uintptr_t)at % PAGE != 0) {
        errno = EINVAL;
        return MAP_FAILED;
    }
    if (new_pages > old_pages) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    if (new_pages < old_pages && munmap((char *)at + new_pages, old_pages - new_pages) != 0)
        return MAP_FAILED;
    return at;
}

/* It counts pages from the beginning of the device. */
PMFS_EXPORT int remap_file_pages(void *at, size_t length, int protection, size_t page, int flags) {
    if (is_ours(at, length)) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_remap_file_pages, at, length, protection, page, flags);
}

/* It would punch a hole into the device. */
PMFS_EXPORT int madvise(void *at, size_t length, int advice) {
    if (advice == MADV_REMOVE && is_ours(at, length)) {
        errno = ETXTBSY;
        return -1;
    }
    return (int)syscall(SYS_madvise, at, length, advice);
}

#endif
