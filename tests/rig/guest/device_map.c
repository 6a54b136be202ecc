/*
 * device_map - proves where a file's bytes lie: on the device, in whole mapping units.
 *
 *     device_map FILE-ON-PMFS DEVICE UNIT
 *
 * Maps FILE by libpmfs and DEVICE by hand, side by side, and compares:
 *   - the mapping is one of DEVICE, at offsets and lengths that are multiples of UNIT;
 *   - an extent's place counts from the start of DEVICE: the bytes there are the file's;
 *   - a store through the mapping is seen by read(2) and on the device, a write(2) by the mapping;
 *   - behind the end of the file its last unit belongs to it, and is zeroes.
 * FILE is prepared or sealed full; eight bytes in each of its units, or in every 64 KiB, are
 * overwritten.
 */
#include <errno.h>
#include <fcntl.h>
#include <pmfs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define STEP_MIN ((size_t)64 << 10) /* a guest is slow */

struct subject {
    int file;
    size_t size, unit;
    const char *device_path;
    const char *device; /* all of it, read-only */
    size_t device_size;
    char *bytes; /* the file, read by read(2) */
    struct pmfs_map *map;
};

static int fail(const char *what, int error) {
    fprintf(stderr, "device_map: %s: %s\n", what, strerror(error));
    return 1;
}

static int wrong(const char *what, size_t offset) {
    fprintf(stderr, "device_map: at %zu: %s\n", offset, what);
    return 1;
}

static int read_file(struct subject *s) {
    for (size_t at = 0; at < s->size;) {
        const ssize_t got = pread(s->file, s->bytes + at, s->size - at, (off_t)at);
        if (got <= 0) return fail("read(2)", got < 0 ? errno : EIO);
        at += (size_t)got;
    }
    return 0;
}

/* Every line of /proc/self/maps in the mapping's range. */
static int check_areas(const struct subject *s) {
    const size_t begin = (size_t)pmfs_map_address(s->map);
    FILE *maps = fopen("/proc/self/maps", "re");
    if (maps == NULL) return fail("/proc/self/maps", errno);
    char line[512], path[256];
    size_t from, to, offset, covered = 0;
    int failed = 0;
    while (!failed && fgets(line, sizeof line, maps) != NULL) {
        path[0] = 0;
        if (sscanf(line, "%zx-%zx %*s %zx %*s %*s %255s", &from, &to, &offset, path) < 3) continue;
        if (to <= begin || from >= begin + s->size) continue;
        covered += to - from;
        if (strcmp(path, s->device_path) != 0) failed = wrong("not a mapping of the device", from);
        if ((from | to | offset) % s->unit != 0) failed = wrong("no whole unit", from);
    }
    fclose(maps);
    if (!failed && covered != (s->size + s->unit - 1) / s->unit * s->unit)
        failed = wrong("mapped is something else than the file's units", covered);
    return failed;
}

static int check_extent(const struct subject *s, const struct pmfs_extent *extent) {
    if (extent->device > s->device_size || extent->length > s->device_size - extent->device)
        return wrong("an extent behind the end of the device", extent->offset);
    size_t inside = 0;
    if (extent->offset < s->size)
        inside =
            s->size - extent->offset < extent->length ? s->size - extent->offset : extent->length;
    const char *there = s->device + extent->device;
    if (memcmp(there, s->bytes + extent->offset, inside) != 0)
        return wrong("the device holds other bytes than the file", extent->offset);
    for (size_t i = inside; i < extent->length; i++)
        if (there[i] != 0) return wrong("behind the end of the file it is not zero", i);
    return 0;
}

static int check_extents(const struct subject *s) {
    struct pmfs_extents *page = malloc(sizeof *page);
    uint64_t from = 0, end = 0;
    int failed = page == NULL ? fail("memory", ENOMEM) : 0;
    while (!failed) {
        memset(page, 0, sizeof *page);
        page->version = PMFS_ABI_VERSION;
        page->from = from;
        if (ioctl(s->file, PMFS_IOC_EXTENTS, page) != 0) failed = fail("extents", errno);
        for (uint32_t i = 0; !failed && i < page->count; i++) {
            const struct pmfs_extent *extent = &page->extent[i];
            if (extent->offset != end) failed = wrong("a gap between extents", end);
            if (extent->offset % s->unit != extent->device % s->unit)
                failed = wrong("file and device do not lie alike in their units", extent->offset);
            if (!failed) failed = check_extent(s, extent);
            end = extent->offset + extent->length;
        }
        from = page->next;
        if (from == 0) break;
    }
    free(page);
    if (!failed && (end < s->size || end % s->unit != 0))
        failed = wrong("the last unit is not the file's own", end);
    return failed;
}

static int check_stores(struct subject *s) {
    char *mapped = pmfs_map_address(s->map);
    const size_t step = s->unit < STEP_MIN ? STEP_MIN : s->unit;
    for (size_t at = 0; at + 8 <= s->size; at += step) {
        memcpy(mapped + at, "stored!", 8);
        char seen[8];
        if (pread(s->file, seen, 8, (off_t)at) != 8 || memcmp(seen, "stored!", 8) != 0)
            return wrong("read(2) does not see a store", at);
        if (pwrite(s->file, "written", 8, (off_t)at) != 8) return fail("write(2)", errno);
        if (memcmp(mapped + at, "written", 8) != 0)
            return wrong("the mapping does not see a write(2)", at);
        memcpy(mapped + at, "stored!", 8);
    }
    const int result = pmfs_persist(s->map, 0, s->size);
    return result == 0 ? 0 : fail("pmfs_persist", -result);
}

static int map_device(struct subject *s) {
    const int fd = open(s->device_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail(s->device_path, errno);
    void *got = mmap(NULL, s->device_size, PROT_READ, MAP_SHARED, fd, 0);
    const int error = errno;
    close(fd);
    if (got == MAP_FAILED) return fail("mapping the device", error);
    s->device = got;
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: device_map FILE-ON-PMFS DEVICE UNIT\n");
        return 2;
    }
    struct subject s = {.device_path = argv[2], .unit = strtoul(argv[3], NULL, 0)};
    s.file = pmfs_open(argv[1], O_RDWR, 0);
    if (s.file < 0) return fail(argv[1], -s.file);
    struct pmfs_volume volume = {.version = PMFS_ABI_VERSION};
    int result = pmfs_query_volume(s.file, &volume);
    if (result != 0) return fail("pmfs_query_volume", -result);
    if (volume.mapping_unit != s.unit) return wrong("the volume has another unit", s.unit);
    s.device_size = volume.size;
    result = pmfs_map(s.file, 0, 0, PROT_READ | PROT_WRITE, PMFS_MAP_POPULATE, &s.map);
    if (result != 0) return fail("pmfs_map", -result);
    s.size = pmfs_map_length(s.map);
    s.bytes = malloc(s.size);
    if (s.bytes == NULL) return fail("memory", ENOMEM);
    int failed = map_device(&s);
    if (!failed) failed = check_areas(&s);
    if (!failed) failed = check_stores(&s);
    if (!failed) failed = read_file(&s);
    if (!failed && memcmp(s.bytes, pmfs_map_address(s.map), s.size) != 0)
        failed = wrong("the mapping shows other bytes than read(2)", 0);
    if (!failed) failed = check_extents(&s);
    free(s.bytes);
    pmfs_unmap(s.map);
    if (!failed) printf("%zu bytes, on %s in units of %zu\n", s.size, s.device_path, s.unit);
    return failed;
}
