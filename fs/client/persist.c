/* pmfs_persist: makes stores durable, on each medium in its way. */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "internal.h"

#define LINE 64u

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

typedef void (*flush_lines)(const char *from, const char *to);

__attribute__((target("clwb"))) static void flush_clwb(const char *from, const char *to) {
    for (; from < to; from += LINE) _mm_clwb((void *)from);
}

__attribute__((target("clflushopt"))) static void flush_clflushopt(const char *from,
                                                                   const char *to) {
    for (; from < to; from += LINE) _mm_clflushopt((void *)from);
}

static void flush_clflush(const char *from, const char *to) {
    for (; from < to; from += LINE) _mm_clflush(from);
}

static flush_lines best_flush(void) {
    unsigned a, b = 0, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return flush_clflush;
    if (b & (1u << 24)) return flush_clwb;
    if (b & (1u << 23)) return flush_clflushopt;
    return flush_clflush;
}

static void fence(void) {
    _mm_sfence();
}

static int flush(const char *from, const char *to) {
    static flush_lines chosen;
    flush_lines lines = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
    if (lines == NULL) {
        lines = best_flush();
        __atomic_store_n(&chosen, lines, __ATOMIC_RELAXED);
    }
    lines((const char *)((uintptr_t)from & ~(uintptr_t)(LINE - 1)), to);
    return 0;
}
#else
/* There are no flush instructions that user space can rely on: the kernel must do it, if it can. */
static void fence(void) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static int flush(const char *from, const char *to) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    char *start = (char *)((uintptr_t)from & ~(page - 1));
    return msync(start, (size_t)(to - start), MS_SYNC) == 0 ? 0 : -errno;
}
#endif

PMFS_EXPORT int pmfs_persist(const struct pmfs_map *map, size_t offset, size_t length) {
    if (offset > map->length || length > map->length - offset) return -EINVAL;
    if (length == 0) return 0;
    char *from = map->address + offset;
    int result = 0;
    switch (map->medium) {
        case PMFS_MEDIUM_DEVDAX:
        case PMFS_MEDIUM_FSDAX:
            if (!map->caches_are_durable) result = flush(from, from + length);
            break;
        case PMFS_MEDIUM_MEMORY:
            break;
        default: {
            const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
            char *start = (char *)((uintptr_t)from & ~(page - 1));
            if (msync(start, (size_t)(from + length - start), MS_SYNC) != 0) result = -errno;
        }
    }
    fence();
    return result;
}

/* "cpu_cache" in the file persistence_domain of the device's region, somewhere above the device. */
static bool domain_is_cpu_cache(char *directory) {
    for (;;) {
        char path[PATH_MAX + 32], word[32] = "";
        snprintf(path, sizeof path, "%s/persistence_domain", directory);
        const int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            const ssize_t got = read(fd, word, sizeof word - 1);
            close(fd);
            return got > 0 && strncmp(word, "cpu_cache", 9) == 0;
        }
        char *slash = strrchr(directory, '/');
        if (slash == NULL || slash == directory) return false;
        *slash = 0;
    }
}

bool pmfs_caches_are_durable(int device) {
    struct stat status;
    if (fstat(device, &status) != 0) return false;
    const bool character = S_ISCHR(status.st_mode);
    const dev_t number = character ? status.st_rdev : status.st_dev;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/sys/dev/%s/%u:%u", character ? "char" : "block", major(number),
             minor(number));
    return realpath(link, path) != NULL && domain_is_cpu_cache(path);
}
