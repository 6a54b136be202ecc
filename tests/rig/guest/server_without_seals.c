/*
 * server_without_seals - a FUSE filesystem from before there were seals: one file, /f, that can be
 * preallocated.
 *
 *     server_without_seals [-f] DIRECTORY
 *
 * To every mode of fallocate(2) but preallocation it answers ENOSYS.  A kernel that took that for
 * "no fallocate at all" would let anybody who tries a seal take preallocation away from everybody
 * else.
 */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fuse.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/stat.h>

static int get_attributes(const char *path, struct stat *out, struct fuse_file_info *info) {
    (void)info;
    memset(out, 0, sizeof *out);
    out->st_nlink = 1;
    if (strcmp(path, "/") == 0) {
        out->st_mode = S_IFDIR | 0755;
        return 0;
    }
    if (strcmp(path, "/f") != 0) return -ENOENT;
    out->st_mode = S_IFREG | 0644;
    out->st_size = 65536;
    return 0;
}

static int open_file(const char *path, struct fuse_file_info *info) {
    (void)path, (void)info;
    return 0;
}

static int preallocate(const char *path, int mode, off_t offset, off_t length,
                       struct fuse_file_info *info) {
    (void)path, (void)offset, (void)length, (void)info;
    return (mode & ~FALLOC_FL_KEEP_SIZE) != 0 ? -ENOSYS : 0;
}

static const struct fuse_operations kOperations = {
    .getattr = get_attributes,
    .open = open_file,
    .fallocate = preallocate,
};

int main(int argc, char **argv) {
    return fuse_main(argc, argv, &kOperations, NULL);
}
