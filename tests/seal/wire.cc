// Requests as bytes, and what comes back.
#include "wire.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

namespace pmfs::test {
namespace {

constexpr auto kWaitMax = std::chrono::seconds(20);
constexpr std::uint64_t kRoot = FUSE_ROOT_ID;

std::string named(std::string_view fixed, std::initializer_list<std::string_view> names) {
    std::string body(fixed);
    for (const std::string_view name : names) (body += name) += '\0';
    return body;
}

}  // namespace

Wire::Wire(Volume &volume, const front::DispatchOptions &options)
    : own_clients_(std::make_unique<front::Clients>(volume)), clients_(own_clients_.get()) {
    begin({}, options);
}

Wire::Wire(Wire &first, front::Policy policy, const front::DispatchOptions &options)
    : clients_(first.clients_) {
    begin(std::move(policy), options);
}

void Wire::begin(front::Policy policy, const front::DispatchOptions &options) {
    const bool hears = policy.notifiable;
    auto client = clients_->admit(std::move(policy));
    REQUIRE(client.ok());
    auto made = front::Dispatcher::create(*clients_, std::move(client).take(), options);
    REQUIRE(made.ok());
    dispatcher_ = std::move(made).take();
    if (hears) dispatcher_->set_notification_port(this);
    fuse_init_in init{};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = FUSE_KERNEL_MINOR_VERSION;
    init.max_readahead = 1 << 17;
    init.flags = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_EXPORT_SUPPORT | FUSE_BIG_WRITES |
                 FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO |
                 FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS |
                 FUSE_WRITEBACK_CACHE | FUSE_HANDLE_KILLPRIV_V2 | FUSE_HAS_IOCTL_DIR |
                 FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS;
    if (options.dax) {  // as a kernel does that has a window, with mount -o dax=inode
        init.flags |= FUSE_MAP_ALIGNMENT | FUSE_INIT_EXT;
        init.flags2 = static_cast<std::uint32_t>(FUSE_HAS_INODE_DAX >> 32);
    }
    const Reply reply = call(FUSE_INIT, 0, bytes_text(init));
    REQUIRE(reply.error == 0);
    agreed_ = reply.as<fuse_init_out>().flags;
}

Wire::~Wire() {
    if (own_clients_ == nullptr) leave();
    dispatcher_->finish_notifications();
}

void Wire::leave() {
    if (!std::exchange(left_, true)) dispatcher_->leave();
}

std::uint64_t Wire::post(std::uint32_t opcode, std::uint64_t node, std::string_view body, As as) {
    fuse_in_header header{};
    {
        const std::lock_guard held(mutex_);
        header.unique = next_unique_;
        next_unique_ += 2;
    }
    header.len = static_cast<std::uint32_t>(sizeof header + body.size());
    header.opcode = opcode;
    header.nodeid = node;
    header.uid = as.uid;
    header.gid = as.gid;
    header.pid = as.pid != 0 ? as.pid : static_cast<std::uint32_t>(::getpid());
    std::vector<std::byte> message(header.len);
    std::memcpy(message.data(), &header, sizeof header);
    std::memcpy(message.data() + sizeof header, body.data(), body.size());
    dispatcher_->dispatch(*this, message);
    return header.unique;
}

ssize_t Wire::send(std::span<const iovec> message) {
    std::vector<std::byte> bytes;
    for (const iovec &piece : message) {
        const auto *start = static_cast<const std::byte *>(piece.iov_base);
        bytes.insert(bytes.end(), start, start + piece.iov_len);
    }
    const auto header = load<fuse_out_header>(bytes);
    PMFS_ASSERT(header.len == bytes.size());
    if (header.unique == 0) {
        notify(bytes);
        return static_cast<ssize_t>(bytes.size());
    }
    const std::lock_guard held(mutex_);
    sent_.push_back("reply " + std::to_string(-header.error));
    replies_[header.unique] = {-header.error, {bytes.begin() + sizeof header, bytes.end()}};
    arrived_.notify_all();
    return static_cast<ssize_t>(bytes.size());
}

void Wire::notify(std::span<const std::byte> message) {
    if (load<fuse_out_header>(message).error == FUSE_NOTIFY_INVAL_ENTRY) {
        constexpr std::size_t kName = sizeof(fuse_out_header) + sizeof(fuse_notify_inval_entry_out);
        const auto what = load<fuse_notify_inval_entry_out>(message, sizeof(fuse_out_header));
        const std::string name(reinterpret_cast<const char *>(message.data()) + kName,
                               what.namelen);
        const std::lock_guard held(mutex_);
        sent_.push_back("name " + std::to_string(what.parent) + " " + name);
        return;
    }
    if (load<fuse_out_header>(message).error != FUSE_NOTIFY_INVAL_INODE) return;
    const auto what = load<fuse_notify_inval_inode_out>(message, sizeof(fuse_out_header));
    const bool pages = what.off >= 0;
    std::string text = (pages ? "pages " : "attr ") + std::to_string(what.ino);
    if (pages) text += " " + std::to_string(what.off) + " " + std::to_string(what.len);
    if (pages && on_invalidate) on_invalidate(what.ino);
    const std::lock_guard held(mutex_);
    sent_.push_back(text);
}

std::vector<std::string> Wire::sent() {
    const std::lock_guard held(mutex_);
    return std::exchange(sent_, {});
}

std::ptrdiff_t Wire::count_sent(const std::string &what) {
    const std::lock_guard held(mutex_);
    return std::ranges::count(sent_, what);
}

Reply Wire::call(std::uint32_t opcode, std::uint64_t node, std::string_view body, As as) {
    const std::uint64_t unique = post(opcode, node, body, as);
    std::unique_lock held(mutex_);
    const bool came =
        arrived_.wait_for(held, kWaitMax, [&] { return replies_.find(unique) != replies_.end(); });
    if (!came) {  // instead of waiting for ever, fail the whole run, with the reason
        MESSAGE("no reply to FUSE opcode ", opcode);
        std::abort();
    }
    Reply reply = std::move(replies_[unique]);
    replies_.erase(unique);
    return reply;
}

// --- names

std::uint64_t Wire::lookup(std::string_view name) {
    const Reply reply = call(FUSE_LOOKUP, kRoot, named("", {name}));
    return reply.error != 0 ? 0 : reply.as<fuse_entry_out>().nodeid;
}

OpenFile Wire::create(std::string_view name, As as) {
    fuse_create_in in{};
    in.flags = O_RDWR;
    in.mode = S_IFREG | 0644;
    const Reply reply = call(FUSE_CREATE, kRoot, named(bytes_text(in), {name}), as);
    OpenFile file{.error = reply.error};
    if (reply.error != 0) return file;
    file.node = reply.as<fuse_entry_out>().nodeid;
    const auto opened = reply.as<fuse_open_out>(sizeof(fuse_entry_out));
    file.handle = opened.fh;
    file.open_flags = opened.open_flags;
    return file;
}

int Wire::unlink(const std::string &name) {
    return call(FUSE_UNLINK, kRoot, named("", {name})).error;
}

int Wire::rename(const std::string &from, const std::string &to) {
    const fuse_rename_in in{.newdir = kRoot};
    return call(FUSE_RENAME, kRoot, named(bytes_text(in), {from, to})).error;
}

int Wire::link(std::uint64_t node, const std::string &name) {
    const fuse_link_in in{.oldnodeid = node};
    return call(FUSE_LINK, kRoot, named(bytes_text(in), {name})).error;
}

std::uint64_t Wire::make_node(const std::string &name, std::uint32_t mode) {
    fuse_mknod_in in{};
    in.mode = mode;
    fuse_mkdir_in dir{};
    dir.mode = mode & 07777;
    const bool is_dir = S_ISDIR(mode);
    const Reply reply = is_dir ? call(FUSE_MKDIR, kRoot, named(bytes_text(dir), {name}))
                               : call(FUSE_MKNOD, kRoot, named(bytes_text(in), {name}));
    return reply.error != 0 ? 0 : reply.as<fuse_entry_out>().nodeid;
}

// --- open files

OpenFile Wire::open(std::uint64_t node, int flags, As as) {
    fuse_open_in in{};
    in.flags = static_cast<std::uint32_t>(flags);
    const std::string all = "pages " + std::to_string(node) + " 0 0";
    const std::ptrdiff_t before = count_sent(all);
    const Reply reply = call(FUSE_OPEN, node, bytes_text(in), as);
    OpenFile file{.error = reply.error, .node = node};
    if (reply.error != 0) return file;
    const auto opened = reply.as<fuse_open_out>();
    file.handle = opened.fh;
    file.open_flags = opened.open_flags;
    file.told = count_sent(all) != before;
    return file;
}

std::uint64_t Wire::open_directory(std::uint64_t node) {
    const Reply reply = call(FUSE_OPENDIR, node, bytes_text(fuse_open_in{}));
    // ENOSYS: the kernel opens directories by itself from then on.
    return reply.error != 0 ? 0 : reply.as<fuse_open_out>().fh;
}

void Wire::release(const OpenFile &file) {
    fuse_release_in in{};
    in.fh = file.handle;
    REQUIRE(call(FUSE_RELEASE, file.node, bytes_text(in)).error == 0);
}

Reply Wire::read(const OpenFile &file, std::uint64_t offset, std::uint32_t size) {
    fuse_read_in in{};
    in.fh = file.handle;
    in.offset = offset;
    in.size = size;
    // The kernel says so of what goes past its cache; other reads fill pages.
    if (file.direct()) in.read_flags = FUSE_READ_LOCKOWNER;
    return call(FUSE_READ, file.node, bytes_text(in));
}

int Wire::write(const OpenFile &file, std::uint64_t offset, std::string_view bytes, As as) {
    fuse_write_in in{};
    in.fh = file.handle;
    in.offset = offset;
    in.size = static_cast<std::uint32_t>(bytes.size());
    const Reply reply = call(FUSE_WRITE, file.node, bytes_text(in) + std::string(bytes), as);
    if (reply.error == 0) CHECK(reply.as<fuse_write_out>().size == bytes.size());
    return reply.error;
}

int Wire::write_back(std::uint64_t node, std::uint64_t handle, std::uint64_t offset,
                     std::string_view bytes) {
    fuse_write_in in{};
    in.fh = handle;
    in.offset = offset;
    in.size = static_cast<std::uint32_t>(bytes.size());
    in.write_flags = FUSE_WRITE_CACHE;
    return call(FUSE_WRITE, node, bytes_text(in) + std::string(bytes)).error;
}

int Wire::fallocate(const OpenFile &file, unsigned mode, std::uint64_t offset, std::uint64_t length,
                    As as) {
    fuse_fallocate_in in{};
    in.fh = file.handle;
    in.offset = offset;
    in.length = length;
    in.mode = mode;
    return call(FUSE_FALLOCATE, file.node, bytes_text(in), as).error;
}

int Wire::ioctl_raw(std::uint64_t node, std::uint64_t handle, unsigned command, void *io, As as) {
    fuse_ioctl_in in{};
    in.fh = handle;
    in.cmd = command;
    if (handle == 0) in.flags = FUSE_IOCTL_DIR;  // directories have no handles here
    const bool in_data = (_IOC_DIR(command) & _IOC_WRITE) != 0;
    const bool out_data = (_IOC_DIR(command) & _IOC_READ) != 0;
    in.in_size = in_data ? _IOC_SIZE(command) : 0;
    in.out_size = out_data ? _IOC_SIZE(command) : 0;
    const std::string data(static_cast<const char *>(io), in.in_size);
    const Reply reply = call(FUSE_IOCTL, node, bytes_text(in) + data, as);
    if (reply.error != 0) return reply.error;
    const auto out = reply.as<fuse_ioctl_out>();
    const std::size_t size = reply.body.size() - sizeof out;
    REQUIRE(size <= in.out_size);
    std::memcpy(io, reply.body.data() + sizeof out, size);
    REQUIRE(out.result <= 0);
    return -out.result;
}

// --- attributes

fuse_attr Wire::getattr(std::uint64_t node) {
    const Reply reply = call(FUSE_GETATTR, node, bytes_text(fuse_getattr_in{}));
    REQUIRE(reply.error == 0);
    return reply.as<fuse_attr_out>().attr;
}

int Wire::setattr(std::uint64_t node, const fuse_setattr_in &what, As as) {
    return call(FUSE_SETATTR, node, bytes_text(what), as).error;
}

int Wire::truncate(std::uint64_t node, std::uint64_t size, As as) {
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE;
    in.size = size;
    return setattr(node, in, as);
}

int Wire::setxattr(std::uint64_t node, const std::string &name, std::string_view value, As as) {
    // Without FUSE_SETXATTR_EXT the kernel sends the short form.
    fuse_setxattr_in in{};
    in.size = static_cast<std::uint32_t>(value.size());
    const std::string fixed = bytes_text(in).substr(0, FUSE_COMPAT_SETXATTR_IN_SIZE);
    return call(FUSE_SETXATTR, node, named(fixed, {name}) + std::string(value), as).error;
}

int Wire::removexattr(std::uint64_t node, const std::string &name, As as) {
    return call(FUSE_REMOVEXATTR, node, named("", {name}), as).error;
}

Reply Wire::getxattr(std::uint64_t node, const std::string &name) {
    fuse_getxattr_in in{};
    in.size = 4096;
    return call(FUSE_GETXATTR, node, named(bytes_text(in), {name}));
}

std::string Wire::listxattr(std::uint64_t node) {
    fuse_getxattr_in in{};
    in.size = 4096;
    const Reply reply = call(FUSE_LISTXATTR, node, bytes_text(in));
    REQUIRE(reply.error == 0);
    return reply.text();
}

}  // namespace pmfs::test
