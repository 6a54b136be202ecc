// Guests without a guest: FUSE by virtqueues, from a front end that speaks vhost-user by hand.
//
// Holds docs/security.md "Guests".
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <mutex>

#include "guest.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

// What the front end was asked to map, as a VMM would have it.
class Window {
public:
    struct Mapped {
        std::uint64_t offset, size;  // in the window
        std::string begin;           // the first bytes of the piece
    };
    std::uint64_t answer(virtio::BackEndRequest what, const virtio::WindowMap &map, int fd) {
        const std::lock_guard held(mutex_);
        if (what == virtio::BackEndRequest::shmem_map) {
            std::string bytes(8, '\0');
            if (::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(map.fd_offset)) < 0)
                return 1;
            mapped_.push_back({map.window_offset, map.size, bytes});
        } else if (what == virtio::BackEndRequest::shmem_unmap) {
            unmapped_.push_back(map.window_offset);
        }
        return 0;
    }
    std::vector<Mapped> mapped() {
        const std::lock_guard held(mutex_);
        return mapped_;
    }
    std::vector<std::uint64_t> unmapped() {
        const std::lock_guard held(mutex_);
        return unmapped_;
    }

private:
    std::mutex mutex_;
    std::vector<Mapped> mapped_;
    std::vector<std::uint64_t> unmapped_;
};

constexpr std::uint64_t kRange = front::DaxWindow::kRange;
constexpr std::uint64_t kWindow = 8 * kRange;

front::GuestOptions with_window() {
    front::GuestOptions options;
    options.window = kWindow;
    return options;
}

// A guest that has begun, and its VMM, which maps what it is asked to.
struct Mapper {
    explicit Mapper(Host &host) : guest(host) {
        guest.front.answer_back_end(
            [this](auto what, const auto &map, int fd) { return window.answer(what, map, fd); });
        REQUIRE(guest.begin() == 0);
    }
    Window window;  // outlives the front end, which asks it
    Guest guest;
};

// A file that is not open.
void make_file(Host &host, const std::string &name, std::uint64_t size) {
    Wire &here = host.world.wire();
    const OpenFile file = here.create(name);
    REQUIRE(here.truncate(file.node, size) == 0);
    here.release(file);
}

int set_up(Guest &guest, std::uint64_t node, std::uint64_t file, std::uint64_t window,
           std::uint64_t length = kRange,
           std::uint64_t flags = FUSE_SETUPMAPPING_FLAG_WRITE | FUSE_SETUPMAPPING_FLAG_READ) {
    fuse_setupmapping_in in{};
    in.fh = ~std::uint64_t{0};
    in.foffset = file;
    in.moffset = window;
    in.len = length;
    in.flags = flags;
    return guest.call(FUSE_SETUPMAPPING, node, bytes_text(in)).error;
}

int remove(Guest &guest, std::uint64_t window, std::uint64_t length = kRange) {
    return guest
        .call(FUSE_REMOVEMAPPING, kRoot,
              bytes_text(fuse_removemapping_in{1}) +
                  bytes_text(fuse_removemapping_one{window, length}))
        .error;
}

bool nobody_holds(Host &host, std::uint64_t node) {
    const auto holders = host.world.volume().holders(InodeNo(node));
    return holders.ok() && holders.value().empty();
}

}  // namespace

TEST_CASE("guest: the host reads what a guest writes, and the other way round") {
    Host host;
    Guest guest(host);
    REQUIRE(guest.begin() == 0);
    const OpenFile made = guest.create("from-guest");
    REQUIRE(made.error == 0);
    const std::string bytes(100'000, 'g');
    CHECK(guest.write(made, 0, bytes) == 0);
    Wire &here = host.world.wire();
    const OpenFile seen = here.open(here.lookup("from-guest"), O_RDWR);
    CHECK(here.read(seen, 0, 200'000).text() == bytes);
    CHECK(here.write(seen, 10, "host") == 0);
    CHECK(guest.read(made, 8, 8) == "gghostgg");
    CHECK(guest.read(made, 0, 1 << 20).size() == 100'000);
}

TEST_CASE("guest: a request before INIT, and after DESTROY, is answered with an error") {
    Host host;
    Guest guest(host);
    const auto getattr = [&] {
        return guest.call(FUSE_GETATTR, kRoot, bytes_text(fuse_getattr_in{})).error;
    };
    CHECK(getattr() == ENOTCONN);
    REQUIRE(guest.begin() == 0);
    CHECK(getattr() == 0);
    CHECK(guest.call(FUSE_DESTROY, 0, "").error == 0);
    CHECK(getattr() == ENOTCONN);
    CHECK(guest.begin() == 0);  // it mounts again
    CHECK(getattr() == 0);
}

TEST_CASE("guest: a guest cannot name nodes that it was not given") {
    Host host;
    Wire &here = host.world.wire();
    const OpenFile theirs = here.create("secret");
    REQUIRE(here.write(theirs, 0, "words") == 0);
    Guest guest(host);
    REQUIRE(guest.begin() == 0);
    CHECK(guest.call(FUSE_GETATTR, theirs.node, bytes_text(fuse_getattr_in{})).error == ESTALE);
    fuse_read_in in{};
    in.fh = theirs.handle;
    in.size = 5;
    CHECK(guest.call(FUSE_READ, theirs.node, bytes_text(in)).error != 0);
    CHECK(guest.lookup("secret") == theirs.node);
    CHECK(guest.call(FUSE_READ, theirs.node, bytes_text(in)).error == EBADF);
}

TEST_CASE("guest: when its VMM ends, or it starts again, everything that it held is released") {
    for (const bool hangs_up : {true, false}) {
        CAPTURE(hangs_up);
        Host host;
        Wire &here = host.world.wire();
        Guest guest(host);
        REQUIRE(guest.begin() == 0);
        const std::uint64_t before = host.world.volume().info().inodes_used;
        const OpenFile file = guest.create("f");
        REQUIRE(guest.write(file, 0, std::string(100'000, 'x')) == 0);
        REQUIRE(here.unlink("f") == 0);
        CHECK(guest.read(file, 0, 4) == "xxxx");  // it has it open
        CHECK(host.world.volume().info().inodes_used == before + 1);
        if (hangs_up)
            guest.front.hang_up();
        else
            CHECK(guest.begin() == 0);
        CHECK(comes([&] { return host.world.volume().info().inodes_used == before; }));
        if (!hangs_up) continue;
        Guest next(host);  // the socket serves the next one
        CHECK(next.begin() == 0);
    }
}

TEST_CASE("guest: a forget is taken by either queue, and has no answer") {
    Host host;
    Guest guest(host);
    REQUIRE(guest.begin() == 0);
    host.world.wire().create("f");
    for (const unsigned queue : {kUrgent, kRequests}) {
        const std::uint64_t node = guest.lookup("f");
        REQUIRE(node != 0);
        guest.front.queue(queue).submit(
            guest.message(FUSE_FORGET, node, bytes_text(fuse_forget_in{1})), 0);
        const auto used = guest.front.queue(queue).wait();
        REQUIRE(used);
        CHECK(used->written == 0);
        CHECK(guest.call(FUSE_GETATTR, node, bytes_text(fuse_getattr_in{})).error == ESTALE);
    }
}

TEST_CASE("guest: an invalid request is returned, and the next one is served") {
    Host host;
    Guest guest(host);
    REQUIRE(guest.begin() == 0);
    DriverQueue &queue = guest.front.queue(kRequests);
    const std::string good = guest.message(FUSE_GETATTR, kRoot, bytes_text(fuse_getattr_in{}));
    queue.submit("", 64);
    CHECK(queue.wait()->written == 0);
    queue.submit(good.substr(0, 20), 64);
    CHECK(queue.wait()->written == 0);
    std::string lies = good;  // longer than it is
    lies[0] = 127;
    queue.submit(lies, 64);
    CHECK(-load<fuse_out_header>(std::as_bytes(std::span(queue.wait()->bytes))).error == EINVAL);
    queue.submit(good, 8);  // no room for an answer
    CHECK(queue.wait()->written < 16);
    const auto room = guest.front.ram().take(4096);
    // A piece of the request, and then of the answer, where the guest has no memory.
    queue.submit({{guest.front.ram().guest(room), 40, false},
                  {1 << 20, 16, false},
                  {guest.front.ram().guest(room), 4096, true}});
    CHECK(queue.wait()->written <= 16);
    queue.submit({{guest.front.ram().guest(room), 56, false}, {1 << 20, 4096, true}});
    CHECK(queue.wait()->written == 0);
    CHECK(guest.call(FUSE_GETATTR, kRoot, bytes_text(fuse_getattr_in{})).error == 0);
}

TEST_CASE("guest: a read-only guest changes nothing") {
    front::GuestOptions options;
    options.policy.read_only = true;
    Host host(options);
    Wire &here = host.world.wire();
    REQUIRE(here.write(here.create("f"), 0, "words") == 0);
    Guest guest(host);
    REQUIRE(guest.begin() == 0);
    CHECK(guest.create("g").error == EROFS);
    CHECK(guest.call(FUSE_UNLINK, kRoot, name("f")).error == EROFS);
    const std::uint64_t node = guest.lookup("f");
    fuse_open_in in{};
    in.flags = O_RDONLY;
    const Reply opened = guest.call(FUSE_OPEN, node, bytes_text(in));
    REQUIRE(opened.error == 0);
    CHECK(guest.read({.node = node, .handle = opened.as<fuse_open_out>().fh}, 0, 99) == "words");
}

// Each 8 bytes say where they are.
std::string numbered(std::size_t size) {
    std::string text;
    for (std::uint64_t at = 0; at < size; at += 8) text += bytes_text(at);
    text.resize(size);
    return text;
}

TEST_CASE("guest: the payload of a large write is copied once, to its place in the file") {
    Host host;
    Guest guest(host);
    REQUIRE(guest.begin() == 0);
    const OpenFile file = guest.create("f");
    const std::string text = numbered(1 << 20);
    for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{12'345}}) {  // new, and not
        CHECK(guest.write(file, offset, text) == 0);
        CHECK(guest.read(file, offset, 1 << 20) == text);
    }
    CHECK(guest.read(file, 0, 12'345) == text.substr(0, 12'345));
    fuse_write_in in{};
    in.fh = file.handle;
    for (const std::uint32_t lies : {(1u << 20) - 1, (1u << 20) + 1, 0u, ~0u}) {
        in.size = lies;
        CHECK(guest.call(FUSE_WRITE, file.node, bytes_text(in).append(text)).error == EINVAL);
    }
    CHECK(guest.write({.node = file.node, .handle = file.handle + 1}, 0, text) == EBADF);
}

TEST_CASE("guest: a large write that has to wait is whole when its turn comes") {
    Host host;
    Wire &here = host.world.wire();
    Guest guest(host);
    REQUIRE(guest.begin() == 0);
    const OpenFile file = guest.create("f");
    REQUIRE(guest.write(file, 0, "begin") == 0);
    OpenRequest open;
    open.write = open.direct = true;
    const InodeNo ino(here.lookup("f"));
    const auto holder = host.world.volume().open_file(ino, open);
    REQUIRE(holder.ok());
    GrantRequest lease;
    lease.kind = GrantKind::breakable;
    std::uint64_t bad = 0;
    const auto grant = host.world.volume().take_grant(holder.value().handle, lease, {}, &bad);
    REQUIRE(grant.ok());
    const std::string text = numbered(256 << 10);
    fuse_write_in in{};
    in.fh = file.handle;
    in.offset = 8192;
    in.size = static_cast<std::uint32_t>(text.size());
    auto &queue = guest.front.queue(kRequests);
    queue.submit(guest.message(FUSE_WRITE, file.node, bytes_text(in).append(text)), 4096, 3);
    CHECK_FALSE(queue.wait(std::chrono::milliseconds(50)));
    REQUIRE(host.world.volume().drop_grant(holder.value().handle, grant.value()).ok());
    const auto used = queue.wait();
    REQUIRE(used);
    CHECK(guest.reply(used->bytes, used->written).error == 0);
    CHECK(guest.read(file, 8192, 256 << 10) == text);
}

TEST_CASE("guest: the server survives the truncation of a guest's memory") {
    Host host;
    Guest guest(host);
    REQUIRE(guest.begin() == 0);
    const OpenFile file = guest.create("f");
    REQUIRE(guest.write(file, 0, std::string(8192, 'x')) == 0);
    GuestRam &ram = guest.front.ram();
    const std::size_t far = 12 * kMiB;
    fuse_read_in in{};
    in.fh = file.handle;
    in.size = 8192;
    const std::string message = guest.message(FUSE_READ, file.node, bytes_text(in));
    const auto sent = ram.take(message.size());
    std::memcpy(ram.at(sent), message.data(), message.size());
    REQUIRE(::ftruncate(ram.fd(), 8 * kMiB) == 0);
    guest.front.queue(kRequests).submit(
        {{ram.guest(sent), static_cast<std::uint32_t>(message.size()), false},
         {ram.guest(far), 16 + 8192, true}});
    CHECK(guest.front.queue(kRequests).wait());
    Wire &here = host.world.wire();
    CHECK(here.getattr(here.lookup("f")).size == 8192);
}

TEST_CASE(
    "window: a file that chattr protects is never in it, and the guest's kernel does not try") {
    Host host(with_window());
    Wire &here = host.world.wire();
    const OpenFile file = here.create("kept");
    REQUIRE(here.truncate(file.node, kRange) == 0);
    pmfs_io_prepare prepare{};
    prepare.version = PMFS_ABI_VERSION;
    REQUIRE(here.ioctl(file, PMFS_IOC_PREPARE, &prepare) == 0);
    REQUIRE(here.write(file, 0, "words") == 0);
    REQUIRE(here.setxattr(file.node, "trusted.pmfs.seal", "as-is") == 0);
    here.release(file);
    Mapper vmm(host);
    const std::uint64_t node = vmm.guest.lookup("kept");
    const auto is_dax = [&] {
        const Reply reply = vmm.guest.call(FUSE_GETATTR, node, bytes_text(fuse_getattr_in{}));
        return (reply.as<fuse_attr_out>().attr.flags & FUSE_ATTR_DAX) != 0;
    };
    for (const FileFlags &flags : {FileFlags{.immutable = true}, FileFlags{.append_only = true}}) {
        CHECK(is_dax());
        REQUIRE(host.world.volume().set_file_flags(InodeNo(node), flags).ok());
        CHECK_FALSE(is_dax());
        CHECK(set_up(vmm.guest, node, 0, 0) == EPERM);
        CHECK(vmm.window.mapped().empty());
        const Reply opened = vmm.guest.call(FUSE_OPEN, node, bytes_text(fuse_open_in{}));
        REQUIRE(opened.error == 0);
        const OpenFile own{.node = node, .handle = opened.as<fuse_open_out>().fh};
        CHECK(vmm.guest.read(own, 0, 5) == "words");
        fuse_release_in gone{};
        gone.fh = own.handle;
        CHECK(vmm.guest.call(FUSE_RELEASE, node, bytes_text(gone)).error == 0);
        REQUIRE(host.world.volume().set_file_flags(InodeNo(node), {}).ok());
    }
    REQUIRE(set_up(vmm.guest, node, 0, 0) == 0);
    const auto late = host.world.volume().set_file_flags(InodeNo(node), {.immutable = true});
    CHECK((!late.ok() && late.error().errno_value() == EBUSY));  // a grant may store
}

TEST_CASE("window: a range of a sealed file is mapped, held, and given back") {
    Host host(with_window());
    Wire &here = host.world.wire();
    const OpenFile file = here.create("model");
    REQUIRE(here.truncate(file.node, 2 * kRange) == 0);
    pmfs_io_prepare prepare{};
    prepare.version = PMFS_ABI_VERSION;
    REQUIRE(here.ioctl(file, PMFS_IOC_PREPARE, &prepare) == 0);
    REQUIRE(here.write(file, 0, "first of") == 0);
    REQUIRE(here.write(file, kRange, "second o") == 0);
    REQUIRE(here.setxattr(file.node, "trusted.pmfs.seal", "as-is") == 0);
    here.release(file);

    Mapper vmm(host);
    Window &window = vmm.window;
    Guest &guest = vmm.guest;
    const std::uint64_t node = guest.lookup("model");
    REQUIRE(node == file.node);
    CHECK((guest.call(FUSE_GETATTR, node, bytes_text(fuse_getattr_in{}))
               .as<fuse_attr_out>()
               .attr.flags &
           FUSE_ATTR_DAX) != 0);
    CHECK(set_up(guest, node, kRange, 3 * kRange) == 0);
    REQUIRE(window.mapped().size() == 1);
    CHECK(window.mapped()[0].offset == 3 * kRange);
    CHECK(window.mapped()[0].size == kRange);
    CHECK(window.mapped()[0].begin == "second o");
    CHECK(set_up(guest, node, kRange, 3 * kRange) == 0);  // to write, too: as it is
    CHECK(window.mapped().size() == 1);

    const auto holders = host.world.volume().holders(InodeNo(node));
    REQUIRE(holders.ok());
    REQUIRE(holders.value().size() == 1);
    CHECK(holders.value()[0].offset == kRange);
    CHECK(holders.value()[0].maps);
    CHECK(here.removexattr(node, "trusted.pmfs.seal") == EBUSY);

    // Another range in the same place: the guest's kernel takes it without giving the old one back.
    CHECK(set_up(guest, node, 0, 3 * kRange) == 0);
    CHECK(window.unmapped() == std::vector{3 * kRange});
    REQUIRE(window.mapped().size() == 2);
    CHECK(window.mapped()[1].begin == "first of");
    CHECK(remove(guest, 3 * kRange) == 0);
    CHECK(window.unmapped().size() == 2);
    CHECK(comes([&] { return nobody_holds(host, node); }));
    CHECK(here.removexattr(node, "trusted.pmfs.seal") == 0);
}

TEST_CASE("window: a file's times change when a guest announces stores, and when the range ends") {
    Host host(with_window());
    make_file(host, "built", kRange);
    Mapper vmm(host);
    Guest &guest = vmm.guest;
    const std::uint64_t node = guest.lookup("built");
    auto moved = [&, last = Timespec{}]() mutable {
        const auto now = host.world.volume().getattr(InodeNo(node));
        REQUIRE(now.ok());
        const Timespec was = std::exchange(last, now.value().mtime);
        // More than a tick of the clock of files.
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        return was != last;
    };
    (void)moved();
    REQUIRE(set_up(guest, node, 0, 0, kRange, FUSE_SETUPMAPPING_FLAG_READ) == 0);
    CHECK_FALSE(moved());
    REQUIRE(remove(guest, 0) == 0);
    REQUIRE(comes([&] { return nobody_holds(host, node); }));
    CHECK_FALSE(moved());
    REQUIRE(set_up(guest, node, 0, 0, kRange, FUSE_SETUPMAPPING_FLAG_READ) == 0);
    CHECK(set_up(guest, node, 0, 0) == 0);  // as linux does before the first store
    CHECK(moved());
    CHECK(set_up(guest, node, 0, 0) == 0);  // it knows already
    CHECK_FALSE(moved());
    REQUIRE(remove(guest, 0) == 0);
    REQUIRE(comes([&] { return nobody_holds(host, node); }));
    CHECK(moved());
}

TEST_CASE(
    "window: while a file is read through the page cache, a range may be read but not stored to") {
    Host host(with_window());
    make_file(host, "read", kRange);
    Mapper vmm(host);
    Guest &guest = vmm.guest;
    const std::uint64_t node = guest.lookup("read");
    const auto open_here = [&](bool write) {
        OpenRequest request;
        request.write = write;
        const auto opened = host.world.volume().open_file(InodeNo(node), request);
        REQUIRE(opened.ok());
        return opened.value();
    };
    OpenReply opened = open_here(false);
    CHECK_FALSE(opened.direct_io);
    CHECK(set_up(guest, node, 0, 0, kRange, FUSE_SETUPMAPPING_FLAG_READ) == 0);
    CHECK(set_up(guest, node, 0, 0) == EBUSY);
    host.world.volume().release(opened.handle);
    opened = open_here(false);
    CHECK_FALSE(opened.direct_io);
    host.world.volume().release(opened.handle);
    opened = open_here(true);
    CHECK(opened.direct_io);  // the guest cannot be told when it is written back
    host.world.volume().release(opened.handle);

    CHECK(set_up(guest, node, 0, 0) == 0);
    opened = open_here(false);
    CHECK(opened.direct_io);
    host.world.volume().release(opened.handle);
    REQUIRE(remove(guest, 0) == 0);
    REQUIRE(comes([&] { return nobody_holds(host, node); }));

    opened = open_here(true);
    CHECK_FALSE(opened.direct_io);
    CHECK(set_up(guest, node, 0, 0, kRange, FUSE_SETUPMAPPING_FLAG_READ) == EBUSY);
    host.world.volume().release(opened.handle);
}

TEST_CASE("window: a range that is outside of it, not aligned or not in the file is refused") {
    Host host(with_window());
    Wire &here = host.world.wire();
    const OpenFile file = here.create("f");
    REQUIRE(here.truncate(file.node, kRange) == 0);
    here.release(file);
    const OpenFile other = here.create("g");
    Mapper vmm(host);
    Window &window = vmm.window;
    Guest &guest = vmm.guest;
    const std::uint64_t node = guest.lookup("f");
    CHECK(set_up(guest, other.node, 0, 0) == ESTALE);
    CHECK(set_up(guest, node, 0, kWindow) == EINVAL);
    CHECK(set_up(guest, node, 0, ~std::uint64_t{0} - kRange + 1) == EINVAL);
    CHECK(set_up(guest, node, 4096, 0) == EINVAL);
    CHECK(set_up(guest, node, 0, 4096) == EINVAL);
    CHECK(set_up(guest, node, 0, 0, 2 * kRange) == EINVAL);
    CHECK(set_up(guest, node, kRange, 0) == EINVAL);  // behind its end
    CHECK(set_up(guest, kRoot, 0, 0) != 0);
    CHECK(remove(guest, kWindow, kRange) == EINVAL);
    CHECK(remove(guest, 0, ~std::uint64_t{0}) == EINVAL);
    CHECK(window.mapped().empty());
    CHECK(set_up(guest, node, 0, 0) == 0);  // prepared for it
    CHECK(window.mapped().size() == 1);
    CHECK_FALSE(nobody_holds(host, node));
}

TEST_CASE(
    "window: when the VMM ends, its ranges are released; a range that it refuses does not exist") {
    Host host(with_window());
    Wire &here = host.world.wire();
    const OpenFile file = here.create("f");
    REQUIRE(here.truncate(file.node, kRange) == 0);
    here.release(file);
    {
        Guest guest(host);
        std::atomic<bool> refuses = true;
        guest.front.answer_back_end([&](auto what, const auto &, int) -> std::uint64_t {
            return refuses && what == virtio::BackEndRequest::shmem_map ? 1 : 0;
        });
        REQUIRE(guest.begin() == 0);
        const std::uint64_t node = guest.lookup("f");
        CHECK(set_up(guest, node, 0, 0) == EIO);
        CHECK(comes([&] { return nobody_holds(host, node); }));
        refuses = false;
        CHECK(set_up(guest, node, 0, 0) == 0);
        CHECK_FALSE(nobody_holds(host, node));
    }
    CHECK(comes([&] { return nobody_holds(host, file.node); }));
}

TEST_CASE("window: a request's buffers may be in it, but not at other addresses without memory") {
    Host host(with_window());
    Wire &here = host.world.wire();
    const OpenFile from = here.create("from"), to = here.create("to");
    REQUIRE(here.write(from, 0, std::string(8192, 'a')) == 0);
    REQUIRE(here.truncate(to.node, kRange) == 0);
    here.release(to);
    constexpr std::uint64_t kBase = 0x40'0000'0000;
    Guest guest(host);
    guest.front.answer_back_end([&](auto what, const auto &map, int fd) -> std::uint64_t {
        if (what != virtio::BackEndRequest::shmem_map) return 0;
        // As QEMU does, before it answers: the range stands in the memory table.
        const GuestRam &ram = guest.front.ram();
        const virtio::MemoryRegion regions[] = {
            ram.region(), {kBase + map.window_offset, map.size, 0x1000'0000'0000, map.fd_offset}};
        std::string table(8, '\0');
        table[0] = 2;
        for (const auto &region : regions) table += bytes_text(region);
        const int fds[] = {ram.fd(), fd};
        return guest.front.ask(virtio::Request::set_mem_table, std::as_bytes(std::span(table)),
                               fds);
    });
    REQUIRE(guest.begin() == 0);
    const std::uint64_t node = guest.lookup("to");
    REQUIRE(set_up(guest, node, 0, 2 * kRange) == 0);
    fuse_open_in open{};
    open.flags = O_RDWR;
    const std::uint64_t source = guest.lookup("from");
    const auto opened = guest.call(FUSE_OPEN, source, bytes_text(open)).as<fuse_open_out>();
    const auto read_to = [&](std::uint64_t address) {
        fuse_read_in in{};
        in.fh = opened.fh;
        in.size = 4096;
        const std::string message = guest.message(FUSE_READ, source, bytes_text(in));
        GuestRam &ram = guest.front.ram();
        const auto sent = ram.take(message.size()), head = ram.take(16);
        std::memcpy(ram.at(sent), message.data(), message.size());
        guest.front.queue(kRequests).submit(
            {{ram.guest(sent), static_cast<std::uint32_t>(message.size()), false},
             {ram.guest(head), 16, true},
             {address, 4096, true}});
        REQUIRE(guest.front.queue(kRequests).wait());
        return -load<fuse_out_header>({ram.at(head), 16}).error;
    };
    CHECK(read_to(kBase + 2 * kRange + 4096) == 0);
    const OpenFile seen = here.open(node, O_RDONLY);
    CHECK(here.read(seen, 4096, 4096).text() == std::string(4096, 'a'));
    CHECK(here.read(seen, 8192, 16).text() == std::string(16, '\0'));
    CHECK(read_to(kBase + 3 * kRange) == EFAULT);         // nothing is mapped there
    CHECK(read_to(kBase + 3 * kRange - 2048) == EFAULT);  // the half of it is
    CHECK(read_to(kBase - 4096) == EFAULT);
}
