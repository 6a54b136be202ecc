// The table of requests: include/uapi/linux/fuse.h, protocol 7.31 (Linux 5.4) and up.  Newer
// kernels may send more than a row says, never less.
#include "front/requests/message_check.h"

#include <fcntl.h>
#include <linux/fuse.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>

#include "front/requests/statx.h"

namespace pmfs::front {
namespace {

constexpr unsigned kNone = ~0u;
constexpr std::uint32_t kMinorMin = 31;

enum class Node { named, not_named };  // whether the header's node means anything

struct Shape {
    std::uint32_t opcode;
    Effect effect;
    std::size_t fixed;          // bytes behind the header
    unsigned names = 0;         // then this many names, each with its final zero
    unsigned rest_at = kNone;   // and as many units as the 32-bit number at this place says
    unsigned rest_unit = 1;     // bytes each
    unsigned reply_at = kNone;  // a 32-bit number: bytes of reply that are asked for
    unsigned handle_at = kNone;
    unsigned other_node_at = kNone;
    Node node = Node::named;
    bool reply = true;
    bool writes = false;
    bool anybody = false;  // see from_anybody()
    bool gives_node = false, gives_handle = false;
};

// (Requests that are missing here get ENOSYS: the kernel does without them, or does not ask again.)
constexpr Shape kShapes[] = {
    {.opcode = FUSE_LOOKUP, .effect = Effect::none, .fixed = 0, .names = 1},
    {.opcode = FUSE_FORGET,
     .effect = Effect::none,
     .fixed = sizeof(fuse_forget_in),
     .node = Node::not_named,
     .reply = false,
     .anybody = true},
    {.opcode = FUSE_GETATTR,
     .effect = Effect::none,
     .fixed = sizeof(fuse_getattr_in),
     .handle_at = offsetof(fuse_getattr_in, fh)},
    {.opcode = FUSE_SETATTR,
     .effect = Effect::changes,
     .fixed = sizeof(fuse_setattr_in),
     .handle_at = offsetof(fuse_setattr_in, fh)},
    {.opcode = FUSE_READLINK, .effect = Effect::none, .fixed = 0},
    {.opcode = FUSE_SYMLINK, .effect = Effect::changes, .fixed = 0, .names = 2, .gives_node = true},
    {.opcode = FUSE_MKNOD,
     .effect = Effect::changes,
     .fixed = sizeof(fuse_mknod_in),
     .names = 1,
     .gives_node = true},
    {.opcode = FUSE_MKDIR,
     .effect = Effect::changes,
     .fixed = sizeof(fuse_mkdir_in),
     .names = 1,
     .gives_node = true},
    {.opcode = FUSE_UNLINK, .effect = Effect::changes, .fixed = 0, .names = 1},
    {.opcode = FUSE_RMDIR, .effect = Effect::changes, .fixed = 0, .names = 1},
    {.opcode = FUSE_RENAME,
     .effect = Effect::changes,
     .fixed = sizeof(fuse_rename_in),
     .names = 2,
     .other_node_at = offsetof(fuse_rename_in, newdir)},
    {.opcode = FUSE_LINK,
     .effect = Effect::changes,
     .fixed = sizeof(fuse_link_in),
     .names = 1,
     .other_node_at = offsetof(fuse_link_in, oldnodeid),
     .gives_node = true},
    {.opcode = FUSE_OPEN,
     .effect = Effect::by_argument,
     .fixed = sizeof(fuse_open_in),
     .gives_handle = true},
    {.opcode = FUSE_READ,
     .effect = Effect::none,
     .fixed = sizeof(fuse_read_in),
     .reply_at = offsetof(fuse_read_in, size),
     .handle_at = offsetof(fuse_read_in, fh)},
    {.opcode = FUSE_WRITE,
     .effect = Effect::changes,
     .fixed = sizeof(fuse_write_in),
     .rest_at = offsetof(fuse_write_in, size),
     .handle_at = offsetof(fuse_write_in, fh),
     .writes = true},
    {.opcode = FUSE_STATFS, .effect = Effect::none, .fixed = 0},
    {.opcode = FUSE_RELEASE,
     .effect = Effect::none,
     .fixed = sizeof(fuse_release_in),
     .handle_at = offsetof(fuse_release_in, fh),
     .anybody = true},
    {.opcode = FUSE_FSYNC,
     .effect = Effect::none,
     .fixed = sizeof(fuse_fsync_in),
     .handle_at = offsetof(fuse_fsync_in, fh)},
    // (More if FUSE_SETXATTR_EXT is agreed on.)
    {.opcode = FUSE_SETXATTR,
     .effect = Effect::changes,
     .fixed = FUSE_COMPAT_SETXATTR_IN_SIZE,
     .names = 1,
     .rest_at = offsetof(fuse_setxattr_in, size)},
    {.opcode = FUSE_GETXATTR,
     .effect = Effect::none,
     .fixed = sizeof(fuse_getxattr_in),
     .names = 1,
     .reply_at = offsetof(fuse_getxattr_in, size)},
    {.opcode = FUSE_LISTXATTR,
     .effect = Effect::none,
     .fixed = sizeof(fuse_getxattr_in),
     .reply_at = offsetof(fuse_getxattr_in, size)},
    {.opcode = FUSE_REMOVEXATTR, .effect = Effect::changes, .fixed = 0, .names = 1},
    {.opcode = FUSE_FLUSH,
     .effect = Effect::none,
     .fixed = sizeof(fuse_flush_in),
     .handle_at = offsetof(fuse_flush_in, fh),
     .anybody = true},
    {.opcode = FUSE_INIT,
     .effect = Effect::none,
     .fixed = offsetof(fuse_init_in, flags2),
     .node = Node::not_named,
     .anybody = true},
    // A directory's handle has no meaning and is ignored.
    {.opcode = FUSE_OPENDIR, .effect = Effect::none, .fixed = sizeof(fuse_open_in)},
    {.opcode = FUSE_READDIR,
     .effect = Effect::none,
     .fixed = sizeof(fuse_read_in),
     .reply_at = offsetof(fuse_read_in, size)},
    {.opcode = FUSE_READDIRPLUS,
     .effect = Effect::none,
     .fixed = sizeof(fuse_read_in),
     .reply_at = offsetof(fuse_read_in, size)},
    {.opcode = FUSE_RELEASEDIR,
     .effect = Effect::none,
     .fixed = sizeof(fuse_release_in),
     .node = Node::not_named,
     .anybody = true},
    {.opcode = FUSE_FSYNCDIR, .effect = Effect::none, .fixed = sizeof(fuse_fsync_in)},
    {.opcode = FUSE_GETLK,
     .effect = Effect::none,
     .fixed = sizeof(fuse_lk_in),
     .handle_at = offsetof(fuse_lk_in, fh)},
    {.opcode = FUSE_SETLK,
     .effect = Effect::none,
     .fixed = sizeof(fuse_lk_in),
     .handle_at = offsetof(fuse_lk_in, fh)},
    {.opcode = FUSE_SETLKW,
     .effect = Effect::none,
     .fixed = sizeof(fuse_lk_in),
     .handle_at = offsetof(fuse_lk_in, fh)},
    {.opcode = FUSE_CREATE,
     .effect = Effect::changes,
     .fixed = sizeof(fuse_create_in),
     .names = 1,
     .gives_node = true,
     .gives_handle = true},
    {.opcode = FUSE_INTERRUPT,
     .effect = Effect::none,
     .fixed = sizeof(fuse_interrupt_in),
     .node = Node::not_named,
     .reply = false,
     .anybody = true},
    {.opcode = FUSE_DESTROY,
     .effect = Effect::none,
     .fixed = 0,
     .node = Node::not_named,
     .anybody = true},
    {.opcode = FUSE_IOCTL,
     .effect = Effect::by_argument,
     .fixed = sizeof(fuse_ioctl_in),
     .rest_at = offsetof(fuse_ioctl_in, in_size),
     .reply_at = offsetof(fuse_ioctl_in, out_size),
     .handle_at = offsetof(fuse_ioctl_in, fh)},
    {.opcode = FUSE_BATCH_FORGET,
     .effect = Effect::none,
     .fixed = sizeof(fuse_batch_forget_in),
     .rest_at = offsetof(fuse_batch_forget_in, count),
     .rest_unit = sizeof(fuse_forget_one),
     .node = Node::not_named,
     .reply = false,
     .anybody = true},
    {.opcode = FUSE_FALLOCATE,
     .effect = Effect::changes,
     .fixed = sizeof(fuse_fallocate_in),
     .handle_at = offsetof(fuse_fallocate_in, fh),
     .writes = true},
    {.opcode = FUSE_RENAME2,
     .effect = Effect::changes,
     .fixed = sizeof(fuse_rename2_in),
     .names = 2,
     .other_node_at = offsetof(fuse_rename2_in, newdir)},
    {.opcode = kFuseStatx,
     .effect = Effect::none,
     .fixed = sizeof(StatxIn),
     .handle_at = offsetof(StatxIn, fh)},
    {.opcode = FUSE_LSEEK,
     .effect = Effect::none,
     .fixed = sizeof(fuse_lseek_in),
     .handle_at = offsetof(fuse_lseek_in, fh)},
    {.opcode = FUSE_SYNCFS,
     .effect = Effect::none,
     .fixed = sizeof(fuse_syncfs_in),
     .node = Node::not_named},
    {.opcode = FUSE_TMPFILE,
     .effect = Effect::changes,
     .fixed = sizeof(fuse_create_in),
     .names = 1,
     .gives_node = true,
     .gives_handle = true},
};

static_assert(std::ranges::none_of(kShapes, [](const Shape &shape) {
    return shape.effect == Effect::unsaid;
}));

// Indexed by opcode, because every request is looked up.
constexpr auto kByOpcode = [] {
    std::array<const Shape *, 64> table{};
    for (const Shape &shape : kShapes) table[shape.opcode] = &shape;
    return table;
}();

const Shape *shape_of(ConstBytes message) {
    const std::uint32_t opcode = load<fuse_in_header>(message).opcode;
    return opcode < kByOpcode.size() ? kByOpcode[opcode] : nullptr;
}

// Removes a name and its final zero from the front of `rest`.
bool take_name(ConstBytes *rest) {
    const auto end = std::ranges::find(*rest, std::byte{0});
    if (end == rest->end()) return false;
    *rest = rest->subspan(static_cast<std::size_t>(end - rest->begin()) + 1);
    return true;
}

int check_init(ConstBytes body) {
    const auto init = load<std::array<std::uint32_t, 4>>(body);  // major, minor, read-ahead, flags
    if (init[0] != FUSE_KERNEL_VERSION || init[1] < kMinorMin) return EPROTO;
    const bool longer = (init[3] & FUSE_INIT_EXT) != 0;
    return longer && body.size() < sizeof(fuse_init_in) ? EINVAL : 0;
}

// The host's kernel sends none else; a guest may.
bool times_are_whole(ConstBytes body) {
    constexpr std::uint32_t kNanosecondsEnd = 1'000'000'000;
    const auto set = load<fuse_setattr_in>(body);
    const auto is_whole = [&set](std::uint32_t given, std::uint32_t nanoseconds) {
        return (set.valid & given) == 0 || nanoseconds < kNanosecondsEnd;
    };
    return is_whole(FATTR_ATIME, set.atimensec) && is_whole(FATTR_MTIME, set.mtimensec) &&
           is_whole(FATTR_CTIME, set.ctimensec);
}

// A handle that the client says it does not use.
bool without_handle(const Shape &shape, ConstBytes body) {
    switch (shape.opcode) {
        case FUSE_GETATTR:
            return (load<fuse_getattr_in>(body).getattr_flags & FUSE_GETATTR_FH) == 0;
        case kFuseStatx:
            return (load<StatxIn>(body).getattr_flags & FUSE_GETATTR_FH) == 0;
        case FUSE_SETATTR:
            return (load<fuse_setattr_in>(body).valid & FATTR_FH) == 0;
        case FUSE_IOCTL: {  // of a directory, whose handle is 0
            const auto ioctl = load<fuse_ioctl_in>(body);
            return (ioctl.flags & FUSE_IOCTL_DIR) != 0 && ioctl.fh == 0;
        }
        default:
            return false;
    }
}

}  // namespace

bool has_reply(ConstBytes message) {
    if (message.size() < sizeof(fuse_in_header)) return false;
    const auto header = load<fuse_in_header>(message);
    if (header.unique == 0 || header.opcode == FUSE_NOTIFY_REPLY) return false;
    const Shape *shape = shape_of(message);
    return shape == nullptr || shape->reply;
}

int check_message(ConstBytes message, std::size_t apart, bool long_setxattr) {
    if (message.size() < sizeof(fuse_in_header)) return EINVAL;
    const auto header = load<fuse_in_header>(message);
    const Shape *shape = shape_of(message);
    if (shape == nullptr) return ENOSYS;
    if (header.len != message.size() + apart || (shape->reply && header.unique == 0)) return EINVAL;

    const ConstBytes body = message.subspan(sizeof header);
    const bool longer = long_setxattr && header.opcode == FUSE_SETXATTR;
    const std::size_t fixed = longer ? sizeof(fuse_setxattr_in) : shape->fixed;
    if (body.size() < fixed) return EINVAL;
    if (apart != 0 && (header.opcode != FUSE_WRITE || load<fuse_write_in>(body).size != apart))
        return EINVAL;
    ConstBytes rest = body.subspan(fixed);
    for (unsigned i = 0; i < shape->names; ++i)
        if (!take_name(&rest)) return EINVAL;
    if (shape->rest_at != kNone &&
        load<std::uint32_t>(body, shape->rest_at) > (rest.size() + apart) / shape->rest_unit)
        return EINVAL;
    if (shape->reply_at != kNone && load<std::uint32_t>(body, shape->reply_at) > kPayloadMax)
        return EINVAL;
    if (shape->opcode == FUSE_SETATTR && !times_are_whole(body)) return EINVAL;
    return shape->opcode == FUSE_INIT ? check_init(body) : 0;
}

Effect effect_of(std::uint32_t opcode) {
    if (opcode >= kByOpcode.size() || kByOpcode[opcode] == nullptr) return Effect::unsaid;
    return kByOpcode[opcode]->effect;
}

bool may_change(ConstBytes message) {
    const auto header = load<fuse_in_header>(message);
    if (header.opcode == FUSE_OPEN) {
        const auto flags = load<fuse_open_in>(message.subspan(sizeof header)).flags;
        return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
    }
    return effect_of(header.opcode) == Effect::changes;
}

std::size_t other_node_place(ConstBytes message) {
    const unsigned at = shape_of(message)->other_node_at;
    return at == kNone ? 0 : sizeof(fuse_in_header) + at;
}

bool from_anybody(ConstBytes message) {
    const Shape &shape = *shape_of(message);
    if (shape.opcode != FUSE_SETLK && shape.opcode != FUSE_SETLKW) return shape.anybody;
    return load<fuse_lk_in>(message, sizeof(fuse_in_header)).lk.type == F_UNLCK;
}
bool written_back(ConstBytes message) {
    return load<fuse_in_header>(message).opcode == FUSE_WRITE &&
           (load<fuse_write_in>(message, sizeof(fuse_in_header)).write_flags & FUSE_WRITE_CACHE) !=
               0;
}

Subject subject_of(ConstBytes message) {
    const Shape &shape = *shape_of(message);
    const ConstBytes body = message.subspan(sizeof(fuse_in_header));
    Subject subject;
    if (shape.node == Node::named) subject.node = load<fuse_in_header>(message).nodeid;
    if (shape.other_node_at != kNone)
        subject.other_node = load<std::uint64_t>(body, shape.other_node_at);
    if (shape.handle_at != kNone && !without_handle(shape, body))
        subject.handle = load<std::uint64_t>(body, shape.handle_at);
    subject.writes = shape.writes;
    subject.gives_node = shape.gives_node;
    subject.gives_handle = shape.gives_handle;
    subject.by_number =
        shape.opcode == FUSE_LOOKUP && body[0] == std::byte{'.'} && body[1] == std::byte{0};
    return subject;
}

bool may_run_again(std::uint32_t opcode) {
    switch (opcode) {
        case FUSE_LOOKUP:
        case FUSE_GETATTR:
        case kFuseStatx:
        case FUSE_SETATTR:
        case FUSE_READLINK:
        case FUSE_SYMLINK:
        case FUSE_MKNOD:
        case FUSE_MKDIR:
        case FUSE_UNLINK:
        case FUSE_RMDIR:
        case FUSE_RENAME:
        case FUSE_RENAME2:
        case FUSE_LINK:
        case FUSE_OPEN:
        case FUSE_CREATE:
        case FUSE_TMPFILE:
        case FUSE_READ:
        case FUSE_WRITE:
        case FUSE_STATFS:
        case FUSE_SETXATTR:
        case FUSE_GETXATTR:
        case FUSE_LISTXATTR:
        case FUSE_REMOVEXATTR:
        case FUSE_READDIR:
        case FUSE_READDIRPLUS:
        case FUSE_FALLOCATE:
        case FUSE_LSEEK:
        case FUSE_COPY_FILE_RANGE:
            return true;
        default:
            return false;
    }
}

}  // namespace pmfs::front
