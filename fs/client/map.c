/* pmfs_map: from a range of a file to one range of addresses, mapped from the device. */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

#define HUGE_PAGE ((uint64_t)2 << 20)

#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 0x03
#endif
#ifndef MAP_SYNC
#define MAP_SYNC 0x80000
#endif

/* A piece of the range: what one mmap(2) maps. */
struct piece {
    uint64_t offset; /* in the file */
    uint64_t device;
    uint64_t length;
};

struct pieces {
    struct piece *at;
    size_t count, room;
};

/* Adds a piece; one that goes on where the last one ended, here and there, becomes part of it. */
static int add_piece(struct pieces *pieces, struct piece piece) {
    if (pieces->count != 0) {
        struct piece *last = &pieces->at[pieces->count - 1];
        if (last->device + last->length == piece.device) {
            last->length += piece.length;
            return 0;
        }
    }
    if (pieces->count == pieces->room) {
        const size_t room = pieces->room != 0 ? pieces->room * 2 : 64;
        struct piece *grown = realloc(pieces->at, room * sizeof *grown);
        if (grown == NULL) return -ENOMEM;
        pieces->at = grown;
        pieces->room = room;
    }
    pieces->at[pieces->count++] = piece;
    return 0;
}

/* The part of an extent that lies in [*at, end); *at moves on.  -EINVAL: a gap, or not mappable. */
static int add_extent(struct pieces *pieces, const struct pmfs_extent *extent, uint64_t *at,
                      uint64_t end, bool store) {
    if (extent->offset > *at || (extent->flags & PMFS_EXTENT_UNWRITTEN) != 0) return -EINVAL;
    if (store && (extent->flags & PMFS_EXTENT_SHARED) != 0) return -EINVAL;
    const uint64_t inside = *at - extent->offset;
    if (inside >= extent->length) return -EINVAL;
    uint64_t length = extent->length - inside;
    if (length > end - *at) length = end - *at;
    const struct piece piece = {.offset = *at, .device = extent->device + inside, .length = length};
    *at += length;
    return add_piece(pieces, piece);
}

/* The whole of [start, end), without a gap. */
static int find_pieces(int fd, uint64_t start, uint64_t end, bool store, struct pieces *pieces) {
    struct pmfs_extents *page = malloc(sizeof *page);
    if (page == NULL) return -ENOMEM;
    uint64_t at = start;
    int result = 0;
    while (result == 0 && at < end) {
        memset(page, 0, offsetof(struct pmfs_extents, extent));
        page->version = PMFS_ABI_VERSION;
        page->from = at;
        result = pmfs_ioctl(fd, PMFS_IOC_EXTENTS, page);
        if (result == 0 && page->count == 0) result = -EINVAL;
        for (uint32_t i = 0; result == 0 && i < page->count && at < end; i++)
            result = add_extent(pieces, &page->extent[i], &at, end, store);
    }
    free(page);
    return result == 0 && pieces->count == 0 ? -EINVAL : result;
}

/* Reserves `span` bytes of addresses that lie to huge pages as the device's do. */
static int reserve(struct pmfs_map *map, size_t span, uint64_t device, uint64_t unit) {
    const uint64_t align = unit > HUGE_PAGE ? unit : HUGE_PAGE;
    size_t room;
    if (__builtin_add_overflow(span, align, &room)) return -ENOMEM;
    char *got = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) return -errno;
    const size_t before = (size_t)((device - (uint64_t)(uintptr_t)got) & (align - 1));
    const size_t behind = room - before - span;
    if (before != 0) munmap(got, before);
    if (behind != 0) munmap(got + before + span, behind);
    map->base = got + before;
    map->span = span;
    return 0;
}

static int map_pieces(const struct pmfs_map *map, const struct pieces *pieces, int device, int prot,
                      unsigned flags) {
    int how = MAP_FIXED | (flags & PMFS_MAP_POPULATE ? MAP_POPULATE : 0);
    /* MAP_SYNC: metadata of the filesystem below is never behind our stores.  It fails loudly. */
    how |= map->medium == PMFS_MEDIUM_FSDAX ? MAP_SHARED_VALIDATE | MAP_SYNC : MAP_SHARED;
    const uint64_t start = pieces->at[0].offset;
    for (size_t i = 0; i < pieces->count; i++) {
        const struct piece *piece = &pieces->at[i];
        char *at = map->base + (piece->offset - start);
        if (mmap(at, piece->length, prot, how, device, (off_t)piece->device) == MAP_FAILED)
            return -errno;
    }
    /* A child would hold the device with a grant that is not its own. */
    return madvise(map->base, map->span, MADV_DONTFORK) == 0 ? 0 : -errno;
}

/* Everything between the grant and the pointer. */
static int map_granted(struct pmfs_map *map, const struct pmfs_io_grant *grant, uint64_t offset,
                       int prot, unsigned flags) {
    const uint64_t unit = grant->mapping_unit;
    const uint64_t start = offset & ~(unit - 1);
    const uint64_t end = (offset + map->length + unit - 1) & ~(unit - 1);
    map->broker = pmfs_broker_connect(grant);
    if (map->broker < 0) return map->broker;
    /* The broker looks at our token while we ask for the extents. */
    struct pieces pieces = {0};
    int result = find_pieces(map->file, start, end, (prot & PROT_WRITE) != 0, &pieces);
    if (result == 0) result = reserve(map, end - start, pieces.at[0].device, unit);
    if (result == 0) {
        const int device = pmfs_broker_receive(map->broker, grant);
        result = device < 0 ? device : map_pieces(map, &pieces, device, prot, flags);
        if (result == 0 && map->medium != PMFS_MEDIUM_MEMORY && map->medium != PMFS_MEDIUM_IMAGE)
            map->caches_are_durable = pmfs_caches_are_durable(device);
        if (device >= 0) close(device);
    }
    free(pieces.at);
    if (result == 0) map->address = map->base + (offset - start);
    return result;
}

static int take_grant(struct pmfs_map *map, uint64_t offset, size_t length, bool store,
                      struct pmfs_io_grant *grant) {
    *grant = (struct pmfs_io_grant){.version = PMFS_ABI_VERSION,
                                    .flags = PMFS_GRANT_MAP | (store ? PMFS_GRANT_STORE : 0),
                                    .kind = PMFS_GRANT_TEMPORARY,
                                    .offset = offset,
                                    .length = length};
    const int result = pmfs_ioctl(map->file, PMFS_IOC_GRANT, grant);
    if (result != 0) return result;
    map->grant = grant->grant;
    map->medium = grant->medium;
    const uint64_t unit = grant->mapping_unit;
    if (unit == 0 || (unit & (unit - 1)) != 0) return -EPROTO;
    map->length = length != 0 ? length : grant->length;
    return 0;
}

PMFS_EXPORT int pmfs_map(int fd, off_t offset, size_t length, int prot, unsigned flags,
                         struct pmfs_map **out) {
    *out = NULL;
    if (offset < 0 || (flags & ~PMFS_MAP_POPULATE) != 0) return -EINVAL;
    if ((prot & PROT_READ) == 0 || (prot & ~(PROT_READ | PROT_WRITE)) != 0) return -EINVAL;
    uint64_t end;
    if (__builtin_add_overflow((uint64_t)offset, (uint64_t)length, &end) || end > INT64_MAX)
        return -EINVAL;
    struct pmfs_map *map = calloc(1, sizeof *map);
    if (map == NULL) return -ENOMEM;
    map->broker = -1;
    /* The grant belongs to the open description, which this keeps when the caller closes his. */
    map->file = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    int result = map->file < 0 ? -errno : 0;
    struct pmfs_io_grant grant;
    if (result == 0)
        result = take_grant(map, (uint64_t)offset, length, (prot & PROT_WRITE) != 0, &grant);
    if (result == 0) result = map_granted(map, &grant, (uint64_t)offset, prot, flags);
    if (result != 0) {
        pmfs_unmap(map);
        return result;
    }
    *out = map;
    return 0;
}

PMFS_EXPORT int pmfs_unmap(struct pmfs_map *map) {
    if (map == NULL) return 0;
    int result = 0;
    /* First the addresses, then what allowed them. */
    if (map->base != NULL && munmap(map->base, map->span) != 0) result = -errno;
    if (map->grant != 0) {
        struct pmfs_io_release_grant io = {.version = PMFS_ABI_VERSION, .grant = map->grant};
        /* It may be gone already, with its server: nothing is held then, either. */
        (void)pmfs_ioctl(map->file, PMFS_IOC_RELEASE_GRANT, &io);
    }
    if (map->broker >= 0) close(map->broker);
    if (map->file >= 0) close(map->file);
    free(map);
    return result;
}

PMFS_EXPORT void *pmfs_map_address(const struct pmfs_map *map) {
    return map->address;
}

PMFS_EXPORT size_t pmfs_map_length(const struct pmfs_map *map) {
    return map->length;
}

PMFS_EXPORT int pmfs_map_event_fd(const struct pmfs_map *map) {
    return map->broker;
}
