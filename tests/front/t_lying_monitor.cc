// A VMM that keeps its mapping of the window, whatever it answers: unknown means unsafe.  Its
// blocks are held back until the kernel says that nobody maps them, so that what it stores reaches
// no other file.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <mutex>

#include "guest.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

constexpr std::uint64_t kRange = front::DaxWindow::kRange;

front::GuestOptions with_window() {
    front::GuestOptions options;
    options.window = 8 * kRange;
    return options;
}

// Maps what it is asked to, and never unmaps.
class Liar {
public:
    explicit Liar(std::uint64_t unmap_answer) : unmap_answer_(unmap_answer) {}
    ~Liar() { unmap(); }
    std::uint64_t answer(virtio::BackEndRequest what, const virtio::WindowMap &map, int fd) {
        if (what == virtio::BackEndRequest::shmem_unmap) return unmap_answer_;
        if (what != virtio::BackEndRequest::shmem_map) return 0;
        void *const at = ::mmap(nullptr, map.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                                static_cast<off_t>(map.fd_offset));
        if (at == MAP_FAILED) return 1;
        const std::lock_guard held(mutex_);
        mapped_.emplace_back(static_cast<char *>(at), map.size);
        return 0;
    }
    // The guest's programs go on storing.
    void store(char byte) {
        const std::lock_guard held(mutex_);
        for (const auto &[at, size] : mapped_) std::memset(at, byte, size);
    }
    void unmap() {
        const std::lock_guard held(mutex_);
        for (const auto &[at, size] : mapped_) ::munmap(at, size);
        mapped_.clear();
    }

private:
    const std::uint64_t unmap_answer_;
    std::mutex mutex_;
    std::vector<std::pair<char *, std::size_t>> mapped_;
};

class Child {
public:
    Child() : pid_(::fork()) {
        if (pid_ != 0) return;
        for (;;) ::pause();
    }
    ~Child() { end(); }
    void end() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        ::waitpid(std::exchange(pid_, 0), nullptr, 0);
    }

private:
    pid_t pid_;
};

struct Lied {
    explicit Lied(std::uint64_t unmap_answer) : host(with_window()), liar(unmap_answer) {
        Wire &here = host.world.wire();
        const OpenFile file = here.create("mapped");
        REQUIRE(here.truncate(file.node, kRange) == 0);
        node = file.node;
        here.release(file);
        guest = std::make_unique<Guest>(host);
        guest->front.answer_back_end(
            [this](auto what, const auto &map, int fd) { return liar.answer(what, map, fd); });
        REQUIRE(guest->begin() == 0);
        REQUIRE(guest->lookup("mapped") == node);
        fuse_setupmapping_in in{};
        in.fh = ~std::uint64_t{0};
        in.len = kRange;
        in.flags = FUSE_SETUPMAPPING_FLAG_WRITE | FUSE_SETUPMAPPING_FLAG_READ;
        REQUIRE(guest->call(FUSE_SETUPMAPPING, node, bytes_text(in)).error == 0);
    }
    int remove() {
        const std::string removal = bytes_text(fuse_removemapping_in{.count = 1}) +
                                    bytes_text(fuse_removemapping_one{.moffset = 0, .len = kRange});
        return guest->call(FUSE_REMOVEMAPPING, 0, removal).error;
    }
    std::uint64_t held_back() {
        const auto all = host.world.volume().quarantine();
        REQUIRE(all.ok());
        std::uint64_t bytes = 0;
        for (const Quarantined &one : all.value()) bytes += one.held;
        return bytes;
    }
    bool quarantined() {
        const auto all = host.world.volume().quarantine();
        REQUIRE(all.ok());
        return !all.value().empty();
    }
    // The file gives up its blocks, and the volume is filled with others; the VMM stores into its
    // mapping, and none of them changes.
    void check_others_are_safe() {
        Wire &here = host.world.wire();
        REQUIRE(comes([&] { return quarantined(); }));
        REQUIRE(here.truncate(node, 0) == 0);
        fill();
        liar.store('!');
        const std::string text(kPiece, 'o');
        for (const OpenFile &file : others)
            for (std::uint64_t at = 0; at < sizes[file.node]; at += kPiece)
                REQUIRE(here.read(file, at, kPiece).text() == text);
        CHECK(held_back() >= kRange);
        CHECK(quarantined());
    }
    void check_it_ends() {
        const std::uint64_t before = host.world.volume().info().blocks_free;
        CHECK(comes([&] { return !quarantined(); }));
        CHECK(host.world.volume().info().blocks_free >= before + kRange / 4096);
    }
    void fill() {
        Wire &here = host.world.wire();
        const std::string text(kPiece, 'o');
        for (int i = 0; i < 8; ++i) {
            const OpenFile file = here.create("other" + std::to_string(i));
            if (file.error != 0) break;
            others.push_back(file);
            while (sizes[file.node] < 8 * kMiB) {
                fuse_write_in in{};
                in.fh = file.handle;
                in.offset = sizes[file.node];
                in.size = static_cast<std::uint32_t>(text.size());
                const Reply reply = here.call(FUSE_WRITE, file.node, bytes_text(in) + text);
                if (reply.error != 0 || reply.as<fuse_write_out>().size != text.size()) return;
                sizes[file.node] += text.size();
            }
        }
    }
    static constexpr std::uint32_t kPiece = 64 << 10;
    Host host;
    Liar liar;  // outlives the front end, which asks it
    std::unique_ptr<Guest> guest;
    std::uint64_t node = 0;
    std::vector<OpenFile> others;
    std::map<std::uint64_t, std::uint64_t> sizes;
};

}  // namespace

TEST_CASE(
    "liar: a VMM that refuses to unmap, or only says that it has, keeps its blocks held back") {
    for (const std::uint64_t answer : {0, 1}) {
        CAPTURE(answer);
        Lied world(answer);
        CHECK(world.remove() == 0);
        world.check_others_are_safe();
        world.liar.unmap();
        world.check_it_ends();
    }
}

TEST_CASE("liar: a VMM that hangs up and lives on, with its mapping") {
    Lied world(0);
    world.guest->front.hang_up();
    world.check_others_are_safe();
    SUBCASE("the next one comes, and the blocks are still held back") {
        world.guest = std::make_unique<Guest>(world.host);
        REQUIRE(world.guest->begin() == 0);
        world.liar.store('?');
        CHECK(world.quarantined());
    }
    world.liar.unmap();
    world.check_it_ends();
}

TEST_CASE("liar: a device that is reset does not prove that its ranges are unmapped") {
    Lied world(0);
    CHECK(world.guest->front.ask(virtio::Request::reset_device) == 0);
    world.check_others_are_safe();
    world.liar.unmap();
    world.check_it_ends();
}

TEST_CASE("liar: blocks are held back until the last process that maps them is gone") {
    Lied world(0);
    Child child;  // it has the mapping, too
    CHECK(world.remove() == 0);
    world.guest->front.hang_up();
    world.check_others_are_safe();
    world.liar.unmap();
    std::this_thread::sleep_for(std::chrono::milliseconds(600));  // it is asked four times a second
    CHECK(world.quarantined());
    child.end();
    world.check_it_ends();
}
