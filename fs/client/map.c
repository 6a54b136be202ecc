/* pmfs_map: from a range of a file to one range of addresses, mapped from the device. */
#define _GNU_SOURCE /* NOLINT(bugprone-reserved-identifier): the C library asks for it */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

#define HUGE_PAGE ((uint64_t)2 << 20)

#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 0x03
#endif
#ifndef MADV_POPULATE_READ /* Linux 5.14 */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
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

/* Adds a piece; one that continues the last one, in the file and on the device, becomes part of it.
 */
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
        if (result == 0 && page->count > PMFS_EXTENTS_MAX) result = -EPROTO; /* not a pmfs */
        for (uint32_t i = 0; result == 0 && i < page->count && at < end; i++)
            result = add_extent(pieces, &page->extent[i], &at, end, store);
    }
    free(page);
    return result == 0 && pieces->count == 0 ? -EINVAL : result;
}

/* Reserves `span` bytes of addresses that are congruent with the device modulo huge pages. */
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

static int map_pieces(const struct pmfs_map *map, const struct pieces *pieces, int device,
                      int prot) {
    int how = MAP_FIXED;
    /* MAP_SYNC: metadata of the filesystem below is never older than our stores.  It fails if
     * unsupported. */
    how |= map->medium == PMFS_MEDIUM_FSDAX ? MAP_SHARED_VALIDATE | MAP_SYNC : MAP_SHARED;
    const uint64_t start = pieces->at[0].offset;
    for (size_t i = 0; i < pieces->count; i++) {
        const struct piece *piece = &pieces->at[i];
        char *at = map->base + (piece->offset - start);
        if (mmap(at, piece->length, prot, how, device, (off_t)piece->device) == MAP_FAILED)
            return -errno;
    }
    if (map->forks) return 0;
    /* A child would hold the device with a grant that is not its own. */
    return madvise(map->base, map->span, MADV_DONTFORK) == 0 ? 0 : -errno;
}

/* Not by MAP_POPULATE: it may take long, and forks would wait.  As there, failures are ignored. */
static void populate(const struct pmfs_map *map, int prot) {
    const int how = (prot & PROT_WRITE) != 0 ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
    (void)madvise(map->base, map->span, how);
}

/* All steps from the grant to the pointer. */
static int map_from_device(struct pmfs_map *map, const struct pmfs_io_grant *grant, uint64_t offset,
                           int prot, unsigned flags) {
    const uint64_t unit = grant->mapping_unit;
    if (unit == 0 || (unit & (unit - 1)) != 0) return -EPROTO;
    const uint64_t start = offset & ~(unit - 1);
    const uint64_t end = (offset + map->length + unit - 1) & ~(unit - 1);
    struct pieces pieces = {0};
    int result = find_pieces(map->file, start, end, (prot & PROT_WRITE) != 0, &pieces);
    if (result == 0) result = reserve(map, end - start, pieces.at[0].device, unit);
    if (result == 0) {
        /* A child that has the descriptor would have the device, too. */
        pmfs_hold_forks();
        const int device = pmfs_bind(grant, &map->bound);
        result = device < 0 ? device : map_pieces(map, &pieces, device, prot);
        if (result == 0 && map->medium != PMFS_MEDIUM_MEMORY && map->medium != PMFS_MEDIUM_IMAGE)
            map->caches_are_durable = pmfs_caches_are_durable(device);
        if (device >= 0) close(device);
        pmfs_release_forks();
    }
    if (result == 0 && (flags & PMFS_MAP_POPULATE) != 0) populate(map, prot);
    free(pieces.at);
    if (result == 0) map->address = map->base + (offset - start);
    return result;
}

static int map_granted(int fd, const struct pmfs_io_grant *grant, struct pmfs_range range, int prot,
                       unsigned flags, struct pmfs_map **out) {
    struct pmfs_map *map = calloc(1, sizeof *map);
    /* The grant belongs to the open description, which this keeps when the caller closes its own.
     */
    const int file = map != NULL ? pmfs_duplicate(fd, false) : -ENOMEM;
    if (file < 0) {
        pmfs_give_back(fd, grant->grant);
        free(map);
        return file;
    }
    *map = (struct pmfs_map){.length = range.length,
                             .file = file,
                             .file_is = pmfs_identify(file),
                             .bound = {.channel = -1, .owner = pmfs_this_process()},
                             .grant = grant->grant,
                             .medium = grant->medium,
                             .forks = (flags & PMFS_MAP_FORK) != 0};
    const int result = map_from_device(map, grant, range.offset, prot, flags);
    if (result != 0) {
        pmfs_unmap(map);
        return result;
    }
    *out = map;
    return 0;
}

int pmfs_map_granted(int fd, const struct pmfs_io_grant *grant, struct pmfs_range range, int prot,
                     unsigned flags, struct pmfs_map **out) {
    const int cancel = pmfs_disable_cancel();
    const int result = map_granted(fd, grant, range, prot, flags, out);
    pmfs_restore_cancel(cancel);
    return result;
}

int pmfs_map_request(off_t offset, size_t length, int prot, unsigned flags,
                     struct pmfs_io_grant *out) {
    const unsigned kinds = PMFS_MAP_BREAKABLE | PMFS_MAP_PIN;
    if ((flags & ~(PMFS_MAP_POPULATE | PMFS_MAP_NOWAIT | PMFS_MAP_FORK | kinds)) != 0)
        return -EINVAL;
    if ((flags & PMFS_MAP_FORK) != 0 && (prot & PROT_WRITE) != 0) return -EINVAL;
    if ((flags & kinds) == kinds) return -EINVAL;
    if ((prot & PROT_READ) == 0 || (prot & ~(PROT_READ | PROT_WRITE)) != 0) return -EINVAL;
    *out = (struct pmfs_io_grant){.flags = PMFS_GRANT_MAP,
                                  .kind = PMFS_GRANT_TEMPORARY,
                                  .offset = (uint64_t)offset,
                                  .length = length};
    if ((prot & PROT_WRITE) != 0) out->flags |= PMFS_GRANT_STORE;
    if ((flags & PMFS_MAP_FORK) != 0) out->flags |= PMFS_GRANT_FORK;
    if ((flags & PMFS_MAP_NOWAIT) != 0) out->flags |= PMFS_GRANT_NOWAIT;
    if ((flags & PMFS_MAP_BREAKABLE) != 0) out->kind = PMFS_GRANT_BREAKABLE;
    if ((flags & PMFS_MAP_PIN) != 0) out->kind = PMFS_GRANT_PIN;
    return pmfs_check_range(offset, length);
}

PMFS_EXPORT int pmfs_map(int fd, off_t offset, size_t length, int prot, unsigned flags,
                         struct pmfs_map **out) {
    *out = NULL;
    struct pmfs_io_grant grant;
    int result = pmfs_map_request(offset, length, prot, flags, &grant);
    if (result == 0) result = pmfs_take_grant(fd, &grant);
    if (result != 0) return result;
    const struct pmfs_range range = {.offset = (uint64_t)offset,
                                     .length = length != 0 ? length : grant.length};
    return pmfs_map_granted(fd, &grant, range, prot, flags, out);
}

PMFS_EXPORT int pmfs_unmap(struct pmfs_map *map) {
    if (map == NULL) return 0;
    int result = 0;
    const int cancel = pmfs_disable_cancel();
    const bool ours = pmfs_bound_is_ours(&map->bound);
    /* First unmaps, then gives the grant back.  A child has neither, or only the mapping. */
    if ((ours || map->forks) && map->base != NULL && munmap(map->base, map->span) != 0)
        result = -errno;
    /* Also for a grant that has ended: the server learns that these blocks are not stored to any
     * more. */
    if (ours && pmfs_is_still(map->file, &map->file_is)) pmfs_give_back(map->file, map->grant);
    pmfs_unbind(&map->bound);
    pmfs_close_own(map->file, &map->file_is);
    free(map);
    pmfs_restore_cancel(cancel);
    return result;
}

PMFS_EXPORT void *pmfs_map_address(const struct pmfs_map *map) {
    return map->address;
}

PMFS_EXPORT size_t pmfs_map_length(const struct pmfs_map *map) {
    return map->length;
}

PMFS_EXPORT int pmfs_map_event_fd(const struct pmfs_map *map) {
    /* The channel that is made on first use does not change what the caller's `const` means. */
    return pmfs_bound_channel((struct pmfs_bound *)&map->bound);
}

PMFS_EXPORT int pmfs_map_event(const struct pmfs_map *map, struct pmfs_event *out) {
    const int channel = pmfs_map_event_fd(map);
    if (channel < 0) return channel;
    const int result = pmfs_broker_event(channel, out);
    if (result == 0) out->grant = map->grant;
    return result;
}
