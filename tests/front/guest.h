// A guest without a guest: sends FUSE by virtqueues, from a front end that speaks vhost-user by
// hand, to a volume that is mounted here, too.
#pragma once
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <chrono>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "front/transports/vhost_fs.h"
#include "seal/wire.h"
#include "virtio/front_end.h"
#include "world.h"

namespace pmfs::test {

inline constexpr std::uint64_t kRoot = FUSE_ROOT_ID;
inline constexpr unsigned kUrgent = 0, kRequests = 1;

inline std::string name(std::string_view text) {
    return std::string(text) + '\0';
}

// A volume that is mounted here (the world's wire) and given to a guest.
struct Host {
    explicit Host(const front::GuestOptions &options = {})
        : Host([&options](Wire &) { return options; }) {}
    // With options that depend on what is there.
    explicit Host(const std::function<front::GuestOptions(Wire &)> &make_options) {
        front::GuestOptions options = make_options(world.wire());
        options.socket = place.path();
        auto started = front::VhostFs::start(world.wire().clients(), {}, options,
                                             virtio::Listener::bind(options.socket).take(),
                                             [this](const std::string &sentence) {
                                                 const std::lock_guard held(mutex);
                                                 log.push_back(sentence);
                                             });
        REQUIRE(started.ok());
        device = std::move(started).take();
    }
    std::vector<std::string> logged() {
        const std::lock_guard held(mutex);
        return log;
    }
    World world;
    SocketPlace place;
    std::mutex mutex;
    std::vector<std::string> log;  // by the device
    std::unique_ptr<front::VhostFs> device;
};

class Guest {
public:
    explicit Guest(Host &host, bool indirect = false) : front(host.place.path(), 16 * kMiB) {
        front.negotiate();
        front.share_memory();
        front.add_queue(kUrgent, 16);
        front.add_queue(kRequests, 64, indirect);
    }

    std::string message(std::uint32_t opcode, std::uint64_t node, std::string_view body) {
        fuse_in_header header{};
        header.len = static_cast<std::uint32_t>(sizeof header + body.size());
        header.opcode = opcode;
        header.unique = next_unique_ += 2;
        header.nodeid = node;
        return bytes_text(header).append(body);
    }
    Reply reply(const std::string &bytes, std::uint32_t written) {
        REQUIRE(written >= sizeof(fuse_out_header));
        const ConstBytes all = std::as_bytes(std::span(bytes)).first(written);
        const auto header = load<fuse_out_header>(all);
        CHECK(header.len == written);
        CHECK(header.unique == next_unique_);
        const ConstBytes body = all.subspan(sizeof header);
        return {-header.error, {body.begin(), body.end()}};
    }
    Reply call(std::uint32_t opcode, std::uint64_t node, std::string_view body,
               std::size_t room = 4096) {
        const std::size_t mark = front.ram().used();
        front.queue(kRequests).submit(message(opcode, node, body), room, 3);
        const auto used = front.queue(kRequests).wait();
        REQUIRE(used);
        front.ram().give_back_to(mark);
        return reply(used->bytes, used->written);
    }
    int begin() {
        fuse_init_in in{};
        in.major = FUSE_KERNEL_VERSION;
        in.minor = 38;
        in.max_readahead = 1 << 20;
        in.flags = FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_DO_READDIRPLUS;
        return call(FUSE_INIT, 0, bytes_text(in)).error;
    }
    std::uint64_t lookup(std::string_view what) {
        const Reply found = call(FUSE_LOOKUP, kRoot, name(what));
        return found.error != 0 ? 0 : found.as<fuse_entry_out>().nodeid;
    }
    OpenFile create(std::string_view what) {
        fuse_create_in in{};
        in.flags = O_RDWR;
        in.mode = S_IFREG | 0644;
        const Reply made = call(FUSE_CREATE, kRoot, bytes_text(in) + name(what));
        if (made.error != 0) return {.error = made.error};
        const auto entry = made.as<fuse_entry_out>();
        return {.node = entry.nodeid, .handle = made.as<fuse_open_out>(sizeof entry).fh};
    }
    int write(const OpenFile &file, std::uint64_t offset, std::string_view bytes) {
        fuse_write_in in{};
        in.fh = file.handle;
        in.offset = offset;
        in.size = static_cast<std::uint32_t>(bytes.size());
        return call(FUSE_WRITE, file.node, bytes_text(in).append(bytes)).error;
    }
    std::string read(const OpenFile &file, std::uint64_t offset, std::uint32_t size) {
        fuse_read_in in{};
        in.fh = file.handle;
        in.offset = offset;
        in.size = size;
        return call(FUSE_READ, file.node, bytes_text(in), size + sizeof(fuse_out_header)).text();
    }

    FrontEnd front;

private:
    std::uint64_t next_unique_ = 0;
};

// Until it is so; false: it does not come to be.
template <class Condition>
bool comes(Condition condition) {
    for (int i = 0; i < 5000 && !condition(); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return condition();
}

}  // namespace pmfs::test
