// From steps to messages: see steps.h.
#include "fuzz/bodies.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "client/pmfs_ioctl.h"
#include "front/requests/statx.h"

namespace pmfs::test {

std::uint64_t number(std::uint8_t byte) {
    constexpr std::uint64_t k64 = ~std::uint64_t{0}, kKi = 1024, kMi = kKi * kKi;
    // clang-format off
    constexpr std::uint64_t kOdd[] = {
        0, 1, 7, 511, 4095, 4096, 4097, 8192, 65536, 131072, kMi, kMi + 1,
        kRange - 4096, kRange - 1, kRange, kRange + 1, 2 * kRange, 5 * kMi, 16 * kMi, 20 * kMi, 32 * kMi,
        kMi << 10, kMi << 20, kMi << 24, 1u << 31, k64 >> 32,
        (k64 >> 1) - 4095, k64 >> 1, (k64 >> 1) + 1, k64 - 4095, k64};
    // clang-format on
    if (byte < std::size(kOdd)) return kOdd[byte];
    if (byte < 64) return (byte - 32) * kRange / 2;
    return (byte - 64) * std::uint64_t{4096} + (byte % 3 == 0 ? 100 : 0);
}

std::uint64_t node_of(std::uint8_t byte, const Known &known) {
    constexpr std::uint64_t kForged[] = {0, 2, 3, 11, 12, 4096, ~std::uint64_t{0}, 1ull << 32};
    if (byte >= 0xf8) return kForged[byte - 0xf8];
    if (byte >= 0xe8) return byte - 0xe0u;  // numbers that other clients may have
    return known.nodes[byte % known.nodes.size()];
}

std::uint32_t flags_of(const Step &step) {
    return step.a | step.b << 8 | step.c << 16 | static_cast<std::uint32_t>(step.d) << 24;
}

namespace {

constexpr std::size_t kKnownMax = 24;

std::string name_of(std::uint8_t byte) {
    switch (byte) {
        case 250:
            return "";
        case 251:
            return ".";
        case 252:
            return "..";
        case 253:
            return std::string(255, 'n');
        case 254:
            return std::string(256, 'n');
        case 255:
            return "x/y";
        default:
            return std::string(1, static_cast<char>('a' + byte % 6));
    }
}

const char *const kAttributes[] = {"user.a",
                                   "user.b",
                                   "trusted.c",
                                   "security.capability",
                                   "security.selinux",
                                   "system.posix_acl_access",
                                   "system.posix_acl_default",
                                   "trusted.pmfs.seal",
                                   "user.pmfs.seal",
                                   "trusted.pmfs.unknown",
                                   "trusted.overlay.opaque",
                                   "user.",
                                   "nothing"};

std::string attribute_of(std::uint8_t byte) {
    if (byte == 255) return "user." + std::string(250, 'x');
    if (byte == 254) return "user." + std::string(251, 'x');
    return kAttributes[byte % std::size(kAttributes)];
}

// Of version 2: the version, and entries of tag, permissions, id.
std::string acl_of(std::uint8_t kind) {
    const auto entry = [](std::uint16_t tag, std::uint16_t rights, std::uint32_t id) {
        return text_of(tag) + text_of(rights) + text_of(id);
    };
    constexpr std::uint32_t kNobody = ~0u;
    std::string list = text_of(std::uint32_t{2}) + entry(1, 7, kNobody);
    if ((kind & 1) != 0) list += entry(2, 5, 1000) + entry(2, 4, 1001);
    list += entry(4, 5, kNobody);
    if ((kind & 2) != 0) list += entry(8, 6, 1000);
    if ((kind & 3) != 0 || (kind & 4) != 0) list += entry(16, 7, kNobody);
    list += entry(32, (kind & 8) != 0 ? 0 : 5, kNobody);
    return list;
}

std::string value_of(const Step &step) {
    switch (step.value % 10) {
        case 0:
            return "";
        case 1:
            return "full";
        case 2:
            return "as-is";
        case 3:
        case 4:
            return acl_of(step.more);
        case 5:
            return std::string(number(step.size) & 0xffff, 'v');
        case 6:
            return std::string(20, '\1');
        case 7:
            return "1";
        default:
            return std::string(step.more, static_cast<char>(step.value));
    }
}

std::uint64_t handle_of(std::uint8_t byte, const Known &known) {
    if (byte >= 0xf0 || known.opens.empty()) return byte == 0xff ? ~std::uint64_t{0} : byte & 0xfu;
    return known.opens[byte % known.opens.size()].handle;
}

// What a request of an open file names.  Mostly both are of the same open file.
Known::Open open_of(const Step &step, const Known &known) {
    if (step.node >= 0x80 || step.handle >= 0xf0 || known.opens.empty())
        return {node_of(step.node, known), handle_of(step.handle, known)};
    return known.opens[step.handle % known.opens.size()];
}

std::uint32_t open_flags(const Step &step) {
    std::uint32_t flags = step.a & O_ACCMODE;
    if ((step.b & 1) != 0) flags |= O_TRUNC;
    if ((step.b & 2) != 0) flags |= O_APPEND;
    if ((step.b & 4) != 0) flags |= O_DIRECT;
    if ((step.b & 8) != 0) flags |= O_EXCL;
    if ((step.b & 16) != 0) flags |= O_DIRECTORY;
    if ((step.b & 32) != 0) flags |= O_SYNC;
    return (step.b & 64) != 0 ? flags_of(step) : flags;
}

std::uint32_t mode_of(const Step &step) {
    constexpr std::uint32_t kKinds[] = {S_IFREG, S_IFREG, S_IFIFO, S_IFSOCK,
                                        S_IFCHR, S_IFBLK, S_IFLNK, S_IFDIR};
    return kKinds[step.c % 8] | ((step.a | step.b << 8) & 07777);
}

std::string setattr_text(const Step &step, std::uint64_t fh) {
    fuse_setattr_in in{};
    in.valid = static_cast<std::uint32_t>(step.a | step.b << 8);
    in.fh = fh;
    in.size = number(step.size);
    in.atime = number(step.offset);
    in.mtime = number(step.offset);
    in.atimensec = in.mtimensec = in.ctimensec =
        step.more >= 224 ? ~0u : static_cast<std::uint32_t>(step.more) * 1000;
    in.ctime = in.mtime;
    in.mode = (step.c | step.d << 8) & 0177777;
    in.uid = step.value % 4 == 0 ? ~0u : step.value % 4 == 1 ? 0 : 1000;
    in.gid = in.uid;
    return text_of(in);
}

std::string lock_text(const Step &step, std::uint64_t fh) {
    constexpr std::uint32_t kTypes[] = {F_RDLCK, F_WRLCK, F_UNLCK, 77};
    fuse_lk_in in{};
    in.fh = fh;
    in.owner = step.more % 3;
    in.lk.start = number(step.offset);
    in.lk.end = number(step.size);
    in.lk.type = kTypes[step.a % 4];
    in.lk.pid = step.b;
    in.lk_flags = step.c % 3 == 0 ? FUSE_LK_FLOCK : 0;
    return text_of(in);
}

std::string setxattr_text(const Step &step) {
    const std::string value = value_of(step);
    fuse_setxattr_in in{};
    in.size = static_cast<std::uint32_t>(value.size());
    in.flags = step.a % 4;
    in.setxattr_flags = step.b % 4;
    // (Which of the two it is was agreed on in INIT: the guests of this fuzzer get the long one.)
    return text_of(in).substr(0, (step.c & 0x80) != 0 ? FUSE_COMPAT_SETXATTR_IN_SIZE : sizeof in) +
           attribute_of(step.name) + '\0' + value;
}

std::string init_text(const Step &step) {
    fuse_init_in in{};
    in.major = FUSE_KERNEL_VERSION;
    in.minor = step.more == 255 ? 12 : 38;
    in.max_readahead = 1 << 20;
    in.flags = FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_DO_READDIRPLUS | FUSE_POSIX_LOCKS |
               FUSE_FLOCK_LOCKS | FUSE_SETXATTR_EXT | FUSE_POSIX_ACL | FUSE_INIT_EXT |
               FUSE_MAP_ALIGNMENT | FUSE_HANDLE_KILLPRIV_V2 | FUSE_ATOMIC_O_TRUNC;
    if (step.b % 2 == 0) in.flags2 = static_cast<std::uint32_t>(FUSE_HAS_INODE_DAX >> 32);
    if (step.twist_where >= 0xc0) in.flags ^= flags_of(step);
    return text_of(in);
}

std::string batch_text(const Step &step, const Known &known) {
    const unsigned count = step.a % 5;
    std::string body = text_of(fuse_batch_forget_in{.count = count});
    for (unsigned i = 0; i < count; ++i)
        body += text_of(
            fuse_forget_one{.nodeid = node_of(static_cast<std::uint8_t>(step.node + i), known),
                            .nlookup = number(step.size)});
    return body;
}

std::string removals_text(const Step &step) {
    const unsigned count = step.a % 4;
    std::string body = text_of(fuse_removemapping_in{.count = count});
    for (unsigned i = 0; i < count; ++i)
        body += text_of(fuse_removemapping_one{.moffset = (step.b + i) % 8 * kRange,
                                               .len = step.c < 0x80 ? kRange : number(step.size)});
    return body;
}

std::string setup_text(const Step &step) {
    fuse_setupmapping_in in{};
    in.fh = ~std::uint64_t{0};
    in.foffset = step.offset < 0x80 ? step.offset % 4 * kRange : number(step.offset);
    in.len = step.size < 0x80 ? kRange : number(step.size);
    in.flags = step.a % 4;
    in.moffset = step.c < 0xc0 ? step.b % 8 * kRange : number(step.b);
    return text_of(in);
}

std::string write_text(const Step &step, std::uint64_t fh) {
    fuse_write_in in{};
    in.fh = fh;
    in.offset = number(step.offset);
    in.size = static_cast<std::uint32_t>(std::min<std::uint64_t>(number(step.size), 300'000));
    in.write_flags = step.a % 8;
    in.flags = open_flags(step);
    return text_of(in) + std::string(in.size, static_cast<char>(step.value));
}

std::string read_text(const Step &step, std::uint64_t fh) {
    fuse_read_in in{};
    in.fh = fh;
    in.offset = number(step.offset);
    in.size = static_cast<std::uint32_t>(std::min<std::uint64_t>(number(step.size), 1 << 20));
    return text_of(in);
}

std::string with_name(const std::string &fixed, const Step &step) {
    return fixed + name_of(step.name) + '\0';
}

std::string with_names(const std::string &fixed, const Step &step) {
    return with_name(fixed, step) + name_of(static_cast<std::uint8_t>(step.d)) + '\0';
}

// Requests that name a directory entry, or a file by its number only.
std::string by_name(const Step &step, const Known &known) {
    const std::uint64_t other = node_of(step.other, known);
    switch (step.what) {
        case FUSE_SYMLINK:
            return with_name("", step) + std::string(step.size, 't') + '\0';
        case FUSE_MKNOD:
            return with_name(text_of(fuse_mknod_in{.mode = mode_of(step), .rdev = step.value}),
                             step);
        case FUSE_MKDIR:
            return with_name(
                text_of(fuse_mkdir_in{.mode = mode_of(step) & 07777, .umask = step.value}), step);
        case FUSE_RENAME:
            return with_names(text_of(fuse_rename_in{.newdir = other}), step);
        case FUSE_RENAME2:
            return with_names(text_of(fuse_rename2_in{.newdir = other, .flags = step.a % 8u}),
                              step);
        case FUSE_LINK:
            return with_name(text_of(fuse_link_in{.oldnodeid = other}), step);
        case FUSE_CREATE:
        case FUSE_TMPFILE: {
            fuse_create_in in{};
            in.flags = open_flags(step) | (step.more < 0xf0 ? O_RDWR : 0);
            in.mode = S_IFREG | (step.c | step.d << 8);
            in.umask = step.value;
            return with_name(text_of(in), step);
        }
        case FUSE_SETXATTR:
            return setxattr_text(step);
        case FUSE_GETXATTR:
            return text_of(fuse_getxattr_in{.size = step.size}) + attribute_of(step.name) + '\0';
        case FUSE_LISTXATTR:
            return text_of(fuse_getxattr_in{.size = step.size * 8u});
        case FUSE_REMOVEXATTR:
            return attribute_of(step.name) + '\0';
        case FUSE_OPEN:
        case FUSE_OPENDIR:
            return text_of(fuse_open_in{.flags = open_flags(step)});
        case FUSE_READDIR:
        case FUSE_READDIRPLUS:
            return read_text(step, step.handle);
        case FUSE_RELEASEDIR:
            return text_of(fuse_release_in{});
        case FUSE_FSYNCDIR:
            return text_of(fuse_fsync_in{});
        default:  // LOOKUP, UNLINK, RMDIR, and READLINK and STATFS, which are longer than needed
            return with_name("", step);
    }
}

// Requests that no file is named by.
std::string by_number(const Step &step, const Known &known) {
    switch (step.what) {
        case FUSE_INIT:
            return init_text(step);
        case FUSE_FORGET:
            return text_of(fuse_forget_in{.nlookup = number(step.size)});
        case FUSE_BATCH_FORGET:
            return batch_text(step, known);
        case FUSE_INTERRUPT:
            return text_of(fuse_interrupt_in{.unique = known.unique - 2 * (step.a % 4u)});
        case FUSE_SYNCFS:
            return text_of(fuse_syncfs_in{});
        case FUSE_SETUPMAPPING:
            return setup_text(step);
        case FUSE_REMOVEMAPPING:
            return removals_text(step);
        default:
            return std::string(step.size, static_cast<char>(step.value));
    }
}

bool by_handle(std::uint8_t opcode) {
    switch (opcode) {
        case FUSE_GETATTR:
        case FUSE_SETATTR:
        case FUSE_READ:
        case FUSE_WRITE:
        case FUSE_RELEASE:
        case FUSE_FSYNC:
        case FUSE_FLUSH:
        case FUSE_GETLK:
        case FUSE_SETLK:
        case FUSE_SETLKW:
        case FUSE_IOCTL:
        case FUSE_FALLOCATE:
        case FUSE_LSEEK:
        case FUSE_COPY_FILE_RANGE:
        case front::kFuseStatx:
            return true;
        default:
            return false;
    }
}

std::string text_by_handle(const Step &step, const Known &known, std::uint64_t fh) {
    switch (step.what) {
        case FUSE_GETATTR:
            return text_of(fuse_getattr_in{.getattr_flags = step.a % 2u, .fh = fh});
        case front::kFuseStatx:
            return text_of(front::StatxIn{.getattr_flags = step.a % 2u, .fh = fh});
        case FUSE_SETATTR:
            return setattr_text(step, fh);
        case FUSE_READ:
            return read_text(step, fh);
        case FUSE_WRITE:
            return write_text(step, fh);
        case FUSE_RELEASE:
            return text_of(fuse_release_in{
                .fh = fh, .release_flags = step.a % 4u, .lock_owner = step.more % 3u});
        case FUSE_FSYNC:
            return text_of(fuse_fsync_in{.fh = fh, .fsync_flags = step.a % 2u});
        case FUSE_FLUSH:
            return text_of(fuse_flush_in{.fh = fh, .lock_owner = step.more % 3u});
        case FUSE_IOCTL:
            return ioctl_text(step, known, fh);
        case FUSE_FALLOCATE:
            return text_of(fuse_fallocate_in{.fh = fh,
                                             .offset = number(step.offset),
                                             .length = number(step.size),
                                             .mode = step.b < 0xe0 ? step.a : flags_of(step)});
        case FUSE_LSEEK:
            return text_of(
                fuse_lseek_in{.fh = fh, .offset = number(step.offset), .whence = step.a % 6u});
        case FUSE_COPY_FILE_RANGE:
            return text_of(fuse_copy_file_range_in{.fh_in = fh,
                                                   .off_in = number(step.offset),
                                                   .nodeid_out = node_of(step.other, known),
                                                   .fh_out = handle_of(step.more, known),
                                                   .off_out = 0,
                                                   .len = number(step.size)});
        default:
            return lock_text(step, fh);
    }
}

std::string text_for(const Step &step, const Known &known) {
    switch (step.what) {
        case FUSE_INIT:
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
        case FUSE_SYNCFS:
        case FUSE_SETUPMAPPING:
        case FUSE_REMOVEMAPPING:
        case FUSE_ACCESS:
        case FUSE_BMAP:
        case FUSE_POLL:
        case FUSE_NOTIFY_REPLY:
            return by_number(step, known);
        case FUSE_DESTROY:
            return "";
        default:
            return by_name(step, known);
    }
}

template <class T>
void keep(std::vector<T> &list, T item) {
    if (list.size() < kKnownMax)
        list.push_back(item);
    else
        list[1 + list.size() % (kKnownMax - 1)] = item;
}

}  // namespace

void Known::add_node(std::uint64_t node) {
    if (std::ranges::find(nodes, node) == nodes.end()) keep(nodes, node);
}

void Known::add_open(std::uint64_t node, std::uint64_t handle) {
    keep(opens, Open{node, handle});
}

void Known::add_grant(std::uint64_t grant) {
    keep(grants, grant);
}

std::string message_of(const Step &step, const Known &known) {
    constexpr std::uint32_t kUsers[] = {0, 1000, 1001, 0x7fffffff};
    fuse_in_header header{};
    header.opcode = step.what;
    header.unique = known.unique + 2;
    header.nodeid = node_of(step.node, known);
    header.uid = header.gid = kUsers[(step.who / 4) % 4];
    header.pid = step.who < 0x80 ? 1 : 0;
    std::string body;
    if (by_handle(step.what)) {
        const Known::Open open = open_of(step, known);
        header.nodeid = open.node;
        body = text_by_handle(step, known, open.handle);
    } else {
        body = text_for(step, known);
    }
    header.len = static_cast<std::uint32_t>(sizeof header + body.size());
    return text_of(header) + body;
}

void learn(const Step &step, std::uint64_t node, ConstBytes body, Known *known) {
    switch (step.what) {
        case FUSE_LOOKUP:
        case FUSE_MKNOD:
        case FUSE_MKDIR:
        case FUSE_SYMLINK:
        case FUSE_LINK:
            if (body.size() < sizeof(fuse_entry_out)) return;
            return known->add_node(load<fuse_entry_out>(body).nodeid);
        case FUSE_CREATE:
        case FUSE_TMPFILE: {
            if (body.size() < sizeof(fuse_entry_out) + sizeof(fuse_open_out)) return;
            const auto made = load<fuse_entry_out>(body).nodeid;
            known->add_node(made);
            return known->add_open(made, load<fuse_open_out>(body, sizeof(fuse_entry_out)).fh);
        }
        case FUSE_OPEN:
            if (body.size() < sizeof(fuse_open_out)) return;
            return known->add_open(node, load<fuse_open_out>(body).fh);
        case FUSE_IOCTL:
            if (body.size() < sizeof(fuse_ioctl_out) + sizeof(pmfs_io_grant) || !takes_grant(step))
                return;
            return known->add_grant(load<pmfs_io_grant>(body, sizeof(fuse_ioctl_out)).grant);
        default:
            return;
    }
}

}  // namespace pmfs::test
