// The ioctls of steps: those of pmfs, those of chattr(1), and others.
#include <linux/fs.h>
#include <linux/fuse.h>

#include "client/pmfs_ioctl.h"
#include "fuzz/bodies.h"

namespace pmfs::test {
namespace {

// The fields that most structures of ioctls begin with, and `rest` behind them.
template <class T>
T io_of(const Step &step) {
    T io{};
    io.version = (step.d & 0xc0) == 0xc0 ? step.d : PMFS_ABI_VERSION;
    return io;
}

struct IoctlBody {
    std::uint32_t command = 0;
    std::string in;
};

template <class T>
IoctlBody ioctl_body(unsigned long command, const T &io) {
    return {static_cast<std::uint32_t>(command), text_of(io)};
}

template <class T>
IoctlBody page_of(const Step &step, unsigned long command) {
    auto io = io_of<T>(step);
    io.from = number(step.offset);
    return ioctl_body(command, io);
}

IoctlBody grant_of(const Step &step) {
    auto io = io_of<pmfs_io_grant>(step);
    io.kind = step.a % 5;
    io.flags = step.b;
    io.offset = number(step.offset);
    io.length = number(step.size);
    return ioctl_body(PMFS_IOC_GRANT, io);
}

IoctlBody attributes_of(const Step &step) {
    fsxattr attributes{};
    attributes.fsx_xflags = flags_of(step);
    attributes.fsx_projid = step.more == 255 ? 1 : 0;
    return ioctl_body(FS_IOC_FSSETXATTR, attributes);
}

std::uint64_t grant_id(std::uint8_t byte, const Known &known) {
    return known.grants.empty() || byte >= 0xf0 ? byte & 0xfu
                                                : known.grants[byte % known.grants.size()];
}

// Of the whole volume; and what is no ioctl of ours.
IoctlBody volume_of(const Step &step) {
    switch (step.value % 22) {
        case 13:
            return ioctl_body(PMFS_IOC_VOLUME, io_of<pmfs_volume>(step));
        case 14: {
            auto io = io_of<pmfs_chunks>(step);
            io.first = number(step.offset);
            return ioctl_body(PMFS_IOC_CHUNKS, io);
        }
        case 15:
            return page_of<pmfs_clients>(step, PMFS_IOC_CLIENTS);
        case 16: {
            auto io = io_of<pmfs_io_grow>(step);
            io.size = number(step.size);
            return ioctl_body(PMFS_IOC_GROW, io);
        }
        case 17: {
            auto io = io_of<pmfs_io_tune>(step);
            io.flags = step.a % 3;
            io.reserve = static_cast<std::uint32_t>(number(step.size));
            return ioctl_body(PMFS_IOC_TUNE, io);
        }
        case 18: {
            auto io = io_of<pmfs_io_compact>(step);
            io.from = step.more;
            return ioctl_body(PMFS_IOC_COMPACT, io);
        }
        default:
            return {flags_of(step), std::string(number(step.size) & 0xffff, '\0')};
    }
}

IoctlBody ioctl_of(const Step &step, const Known &known) {
    switch (step.value % 22) {
        case 0:
            return ioctl_body(PMFS_IOC_INFO, io_of<pmfs_info>(step));
        case 1:
            return page_of<pmfs_extents>(step, PMFS_IOC_EXTENTS);
        case 2:
            return page_of<pmfs_holders>(step, PMFS_IOC_HOLDERS);
        case 3:
        case 4: {
            auto io = io_of<pmfs_io_seal>(step);
            io.level = step.a % 4;
            return ioctl_body(PMFS_IOC_SEAL, io);
        }
        case 5:
            return ioctl_body(PMFS_IOC_UNSEAL, io_of<pmfs_io_unseal>(step));
        case 6: {
            auto io = io_of<pmfs_io_prepare>(step);
            io.flags = step.a % 3;
            io.offset = number(step.offset);
            io.length = number(step.size);
            io.unit = number(step.b);
            return ioctl_body(PMFS_IOC_PREPARE, io);
        }
        case 7:
        case 8:
            return grant_of(step);
        case 9: {
            auto io = io_of<pmfs_io_release_grant>(step);
            io.grant = grant_id(step.more, known);
            return ioctl_body(PMFS_IOC_RELEASE_GRANT, io);
        }
        case 10: {
            auto io = io_of<pmfs_io_revoke>(step);
            io.inode = step.a < 0x80 ? 0 : node_of(step.other, known);
            io.grant = step.more < 0x80 ? 0 : grant_id(step.more, known);
            return ioctl_body(PMFS_IOC_REVOKE, io);
        }
        case 11:
            return page_of<pmfs_quarantine>(step, PMFS_IOC_QUARANTINE);
        case 12: {
            auto io = io_of<pmfs_io_quarantine_release>(step);
            io.id = step.more;
            return ioctl_body(PMFS_IOC_QUARANTINE_RELEASE, io);
        }
        case 19:
            return ioctl_body(step.more % 2 == 0 ? FS_IOC_SETFLAGS : FS_IOC_GETFLAGS,
                              flags_of(step) & (step.more < 0xf0 ? 0xf0u : ~0u));
        case 20:
            return attributes_of(step);
        default:
            return volume_of(step);
    }
}

}  // namespace

std::string ioctl_text(const Step &step, const Known &known, std::uint64_t fh) {
    const IoctlBody body = ioctl_of(step, known);
    fuse_ioctl_in in{};
    in.fh = fh;
    in.flags = step.twist_where % 8 == 7 ? FUSE_IOCTL_DIR : 0;
    if (in.flags != 0) in.fh = 0;
    in.cmd = body.command;
    in.in_size = in.out_size = static_cast<std::uint32_t>(body.in.size());
    return text_of(in) + body.in;
}

bool takes_grant(const Step &step) {
    return step.what == FUSE_IOCTL && (step.value % 22 == 7 || step.value % 22 == 8);
}

}  // namespace pmfs::test
