// Messages by hand: see samples.h.
#include "samples.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "front/requests/statx.h"

namespace pmfs::test {
namespace {

constexpr std::uint64_t kRoot = FUSE_ROOT_ID;
constexpr std::size_t kSize = 1 << 16;

}  // namespace

Raw::Raw(front::Dispatcher &dispatcher) : dispatcher_(dispatcher) {
    void *memory =
        ::mmap(nullptr, kSize + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    end_ = static_cast<std::byte *>(memory) + kSize;
    REQUIRE(::mprotect(end_, 4096, PROT_NONE) == 0);
}

Raw::~Raw() {
    ::munmap(end_ - kSize, kSize + 4096);
}

int Raw::send_raw(std::string_view message, std::uint64_t unique) {
    std::byte *start = end_ - message.size();
    std::memcpy(start, message.data(), message.size());
    dispatcher_.dispatch(*this, {start, message.size()});
    const std::lock_guard held(mutex_);
    const auto found = replies_.find(unique);
    return found == replies_.end() ? -1 : found->second;
}

int Raw::send_message(std::uint32_t opcode, std::uint64_t node, std::string_view body,
                      std::size_t cut) {
    fuse_in_header header{};
    header.unique = next_unique_ += 2;
    header.opcode = opcode;
    header.nodeid = node;
    header.pid = static_cast<std::uint32_t>(::getpid());
    header.len = static_cast<std::uint32_t>(sizeof header + body.size() - cut);
    const std::string message = bytes_text(header) + std::string(body);
    return send_raw(std::string_view(message).substr(0, header.len), header.unique);
}

ssize_t Raw::send(std::span<const iovec> message) {
    std::size_t size = 0;
    for (const iovec &piece : message) size += piece.iov_len;
    const auto &header = *static_cast<const fuse_out_header *>(message.front().iov_base);
    const std::lock_guard held(mutex_);
    CHECK(header.len == size);
    CHECK(replies_.emplace(header.unique, -header.error).second);  // one reply each
    return static_cast<ssize_t>(size);
}

std::string names(std::string fixed, std::initializer_list<std::string> names) {
    for (const std::string &name : names) (fixed += name) += '\0';
    return fixed;
}

std::vector<Sample> samples(const OpenFile &file, std::uint64_t dir) {
    const std::uint64_t node = file.node, fh = file.handle;
    fuse_setattr_in size{};
    size.valid = FATTR_SIZE | FATTR_FH;
    size.fh = fh;
    size.size = 10;
    pmfs_info info{};
    info.version = PMFS_ABI_VERSION;
    fuse_ioctl_in ioctl{};
    ioctl.fh = fh;
    ioctl.cmd = static_cast<std::uint32_t>(PMFS_IOC_INFO);
    ioctl.in_size = ioctl.out_size = sizeof info;
    const fuse_lk_in lock{.fh = fh, .owner = 7, .lk = {.start = 0, .end = 9, .type = F_RDLCK}};
    const fuse_forget_one nothing{.nodeid = 1'000'000, .nlookup = 1};
    const std::string setxattr = bytes_text(fuse_setxattr_in{.size = 5}).substr(0, 8);
    return {
        {FUSE_LOOKUP, kRoot, names("", {"f"})},
        {FUSE_GETATTR, node,
         bytes_text(fuse_getattr_in{.getattr_flags = FUSE_GETATTR_FH, .fh = fh})},
        {front::kFuseStatx, node,
         bytes_text(front::StatxIn{.getattr_flags = FUSE_GETATTR_FH, .fh = fh})},
        {FUSE_SETATTR, node, bytes_text(size)},
        {FUSE_SYMLINK, kRoot, names("", {"s", "target"})},
        {FUSE_MKNOD, kRoot, names(bytes_text(fuse_mknod_in{.mode = S_IFREG | 0600}), {"n"})},
        {FUSE_MKDIR, kRoot, names(bytes_text(fuse_mkdir_in{.mode = 0700}), {"m"})},
        {FUSE_LINK, kRoot, names(bytes_text(fuse_link_in{.oldnodeid = node}), {"l"})},
        {FUSE_RENAME, kRoot, names(bytes_text(fuse_rename_in{.newdir = dir}), {"l", "k"})},
        {FUSE_RENAME2, dir, names(bytes_text(fuse_rename2_in{.newdir = kRoot}), {"k", "l"})},
        {FUSE_UNLINK, kRoot, names("", {"l"})},
        {FUSE_RMDIR, kRoot, names("", {"m"})},
        {FUSE_OPEN, node, bytes_text(fuse_open_in{.flags = O_RDONLY})},
        {FUSE_WRITE, node, bytes_text(fuse_write_in{.fh = fh, .size = 5}) + "words"},
        {FUSE_READ, node, bytes_text(fuse_read_in{.fh = fh, .size = 4096})},
        {FUSE_FALLOCATE, node, bytes_text(fuse_fallocate_in{.fh = fh, .length = 4096})},
        {FUSE_LSEEK, node, bytes_text(fuse_lseek_in{.fh = fh, .whence = SEEK_HOLE})},
        {FUSE_FSYNC, node, bytes_text(fuse_fsync_in{.fh = fh})},
        {FUSE_IOCTL, node, bytes_text(ioctl) + bytes_text(info)},
        {FUSE_GETLK, node, bytes_text(lock)},
        {FUSE_SETLK, node, bytes_text(lock)},
        {FUSE_SETLKW, node, bytes_text(lock)},
        {FUSE_FLUSH, node, bytes_text(fuse_flush_in{.fh = fh, .lock_owner = lock.owner})},
        {FUSE_SETXATTR, node, names(setxattr, {"user.a"}) + "value"},
        {FUSE_GETXATTR, node, names(bytes_text(fuse_getxattr_in{.size = 99}), {"user.a"})},
        {FUSE_LISTXATTR, node, bytes_text(fuse_getxattr_in{.size = 999})},
        {FUSE_REMOVEXATTR, node, names("", {"user.a"})},
        {FUSE_STATFS, kRoot, ""},
        {FUSE_OPENDIR, dir, bytes_text(fuse_open_in{})},
        {FUSE_READDIR, kRoot, bytes_text(fuse_read_in{.size = 4096})},
        {FUSE_READDIRPLUS, kRoot, bytes_text(fuse_read_in{.size = 4096})},
        {FUSE_FSYNCDIR, kRoot, bytes_text(fuse_fsync_in{})},
        {FUSE_RELEASEDIR, dir, bytes_text(fuse_release_in{})},
        {FUSE_CREATE, kRoot,
         names(bytes_text(fuse_create_in{.flags = O_RDWR, .mode = S_IFREG | 0600}), {"c"})},
        {FUSE_TMPFILE, kRoot,
         names(bytes_text(fuse_create_in{.flags = O_RDWR, .mode = S_IFREG | 0600}), {"/"})},
        {FUSE_SYNCFS, kRoot, bytes_text(fuse_syncfs_in{})},
        {FUSE_FORGET, 1'000'000, bytes_text(fuse_forget_in{.nlookup = 1}), false},
        {FUSE_BATCH_FORGET, 0, bytes_text(fuse_batch_forget_in{.count = 1}) + bytes_text(nothing),
         false},
        {FUSE_INTERRUPT, 0, bytes_text(fuse_interrupt_in{.unique = 3}), false},
        {FUSE_RELEASE, node, bytes_text(fuse_release_in{.fh = fh})},
    };
}

}  // namespace pmfs::test
