// The ioctl interface: versions, reserved fields, sizes, pages.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <future>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "fixture.h"
#include "front/requests/ioctl.h"

using namespace pmfs;
using namespace pmfs::test;

namespace {

template <class T>
T versioned(std::uint32_t version = PMFS_ABI_VERSION) {
    T io;
    std::memset(&io, 0, sizeof io);
    io.version = version;
    return io;
}

// An unknown version and an unknown flag are EINVAL, and nothing happens.
template <class T>
void check_words(Wire &wire, const OpenFile &file, unsigned long command, const char *name) {
    CAPTURE(name);
    for (const std::uint32_t version : {0u, 2u, ~0u}) {
        T io = versioned<T>(version);
        CHECK(wire.ioctl(file, command, &io) == EINVAL);
    }
    T io = versioned<T>();
    io.flags = 1u << 31;
    CHECK(wire.ioctl(file, command, &io) == EINVAL);
}

}  // namespace

TEST_CASE("ioctl: unknown flags and reserved fields are refused") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = wire.create("f");
    REQUIRE(wire.write(file, 0, pattern(kBlock, 1)) == 0);
    check_words<pmfs_info>(wire, file, PMFS_IOC_INFO, "INFO");
    check_words<pmfs_extents>(wire, file, PMFS_IOC_EXTENTS, "EXTENTS");
    check_words<pmfs_holders>(wire, file, PMFS_IOC_HOLDERS, "HOLDERS");
    check_words<pmfs_io_seal>(wire, file, PMFS_IOC_SEAL, "SEAL");
    check_words<pmfs_io_unseal>(wire, file, PMFS_IOC_UNSEAL, "UNSEAL");
    check_words<pmfs_io_prepare>(wire, file, PMFS_IOC_PREPARE, "PREPARE");
    check_words<pmfs_io_grant>(wire, file, PMFS_IOC_GRANT, "GRANT");
    check_words<pmfs_io_release_grant>(wire, file, PMFS_IOC_RELEASE_GRANT, "RELEASE_GRANT");
    check_words<pmfs_volume>(wire, file, PMFS_IOC_VOLUME, "VOLUME");
    check_words<pmfs_chunks>(wire, file, PMFS_IOC_CHUNKS, "CHUNKS");
    check_words<pmfs_clients>(wire, file, PMFS_IOC_CLIENTS, "CLIENTS");

    auto info = versioned<pmfs_info>();
    info.reserved[3] = 1;
    CHECK(wire.ioctl(file, PMFS_IOC_INFO, &info) == EINVAL);
    auto seal = versioned<pmfs_io_seal>();
    seal.level = PMFS_SEAL_FULL;
    seal.reserved = 1;
    CHECK(wire.ioctl(file, PMFS_IOC_SEAL, &seal) == EINVAL);
    for (const std::uint32_t level : {0u, 3u, ~0u}) {
        seal = versioned<pmfs_io_seal>();
        seal.level = level;
        CHECK(wire.ioctl(file, PMFS_IOC_SEAL, &seal) == EINVAL);
    }
    for (const std::uint32_t kind : {0u, 4u, ~0u}) {
        auto grant = versioned<pmfs_io_grant>();
        grant.kind = kind;
        CHECK(wire.ioctl(file, PMFS_IOC_GRANT, &grant) == EINVAL);
    }
    CHECK(info_of(wire, file).seal == PMFS_SEAL_NONE);
    wire.release(file);
}

TEST_CASE("ioctl: an unknown command is ENOTTY") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = wire.create("f");
    char room[256] = {};
    CHECK(wire.ioctl(file, _IOWR(PMFS_IOC_MAGIC, 0x7f, char[8]), &room) == ENOTTY);
    CHECK(wire.ioctl(file, _IO(PMFS_IOC_MAGIC, 0x01), &room) == ENOTTY);
    // A number of ours with another structure is another command.
    CHECK(wire.ioctl(file, _IOWR(PMFS_IOC_MAGIC, 0x01, char[160]), &room) == ENOTTY);
    CHECK(wire.ioctl(file, _IOR('f', 99, long), &room) == ENOTTY);
    wire.release(file);
}

TEST_CASE("ioctl: EXTENTS comes in pages that fit together") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = wire.create("f");
    // Every second block, so that nothing joins: more than two pages.
    constexpr std::uint64_t kPieces = 2 * PMFS_EXTENTS_MAX + 30;
    for (std::uint64_t i = 0; i < kPieces; i++) REQUIRE(wire.write(file, 2 * i * kBlock, "x") == 0);
    auto page = std::make_unique<pmfs_extents>(versioned<pmfs_extents>());
    std::uint64_t seen = 0, pages = 0;
    do {
        page->from = page->next;
        REQUIRE(wire.ioctl(file, PMFS_IOC_EXTENTS, page.get()) == 0);
        for (std::uint32_t i = 0; i < page->count; i++, seen++) {
            REQUIRE(page->extent[i].offset == 2 * seen * kBlock);
            REQUIRE(page->extent[i].length == kBlock);
        }
        pages++;
    } while (page->next != 0);
    CHECK(seen == kPieces);
    CHECK(pages == 3);
    page->from = 2 * kBlock + 17;  // from within an extent
    REQUIRE(wire.ioctl(file, PMFS_IOC_EXTENTS, page.get()) == 0);
    CHECK(page->extent[0].offset == 2 * kBlock);
    page->from = ~std::uint64_t{0};
    REQUIRE(wire.ioctl(file, PMFS_IOC_EXTENTS, page.get()) == 0);
    CHECK(page->count == 0);
    CHECK(page->next == 0);
    wire.release(file);
}

TEST_CASE("ioctl: VOLUME and CHUNKS work on a directory, and agree") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile root{.node = FUSE_ROOT_ID, .handle = wire.open_directory(FUSE_ROOT_ID)};
    auto volume = versioned<pmfs_volume>();
    REQUIRE(wire.ioctl(root, PMFS_IOC_VOLUME, &volume) == 0);
    CHECK(volume.size == 64 << 20);
    CHECK(volume.chunk_size == 2 << 20);
    CHECK(volume.chunks == 32);
    CHECK(volume.block_size == kBlock);
    CHECK(volume.medium == PMFS_MEDIUM_MEMORY);
    auto chunks = std::make_unique<pmfs_chunks>(versioned<pmfs_chunks>());
    chunks->first = 1;
    REQUIRE(wire.ioctl(root, PMFS_IOC_CHUNKS, chunks.get()) == 0);
    CHECK(chunks->count == 31);
    for (const std::uint64_t first : {std::uint64_t{32}, ~std::uint64_t{0}}) {
        *chunks = versioned<pmfs_chunks>();
        chunks->first = first;
        REQUIRE(wire.ioctl(root, PMFS_IOC_CHUNKS, chunks.get()) == 0);
        CHECK(chunks->count == 0);
    }
    auto info = versioned<pmfs_info>();
    CHECK(wire.ioctl(root, PMFS_IOC_INFO, &info) == 0);
    CHECK(S_ISDIR(info.mode));
    auto extents = std::make_unique<pmfs_extents>(versioned<pmfs_extents>());
    CHECK(wire.ioctl(root, PMFS_IOC_EXTENTS, extents.get()) == EINVAL);
}

TEST_CASE("ioctl: no bytes, handle or node crash the server or pass for a handle that is open") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = wire.create("f");
    REQUIRE(wire.write(file, 0, pattern(20 * kBlock, 1)) == 0);
    const std::uint64_t directory = wire.make_node("d", S_IFDIR | 0755);
    static constexpr unsigned long kCommands[] = {
        PMFS_IOC_INFO,   PMFS_IOC_EXTENTS, PMFS_IOC_HOLDERS,       PMFS_IOC_SEAL,
        PMFS_IOC_UNSEAL, PMFS_IOC_GRANT,   PMFS_IOC_RELEASE_GRANT, PMFS_IOC_VOLUME,
        PMFS_IOC_CHUNKS, PMFS_IOC_PREPARE, PMFS_IOC_CLIENTS};
    const std::uint32_t seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    std::vector<char> io(1 << 14);
    for (int round = 0; round < 20000; round++) {
        const auto command = static_cast<unsigned>(kCommands[random() % std::size(kCommands)]);
        // Mostly zeroes and a good version, so that something gets behind the first check.
        std::fill(io.begin(), io.end(), 0);
        io[0] = random() % 8 != 0 ? 1 : 2;
        for (std::uint64_t i = random() % 6; i > 0; i--) {
            const std::uint64_t value = random() % 2 ? random() : random() % 5;
            std::memcpy(&io[4 + random() % 60], &value, 1u << random() % 4);
        }
        const std::uint64_t nodes[] = {file.node, directory, FUSE_ROOT_ID};
        const std::uint64_t handles[] = {file.handle, 0, random(), file.handle + 1};
        const std::uint64_t handle = handles[random() % 4];
        const int error = wire.ioctl_raw(nodes[random() % 3], handle, command, io.data());
        const bool changes = _IOC_NR(command) >= 0x10 && _IOC_NR(command) < 0x30;
        if (changes && handle != file.handle) CHECK(error != 0);
    }
    unseal_ioctl(wire, file);
    wire.release(file);
    const OpenFile again = wire.open(file.node, O_RDWR | O_DIRECT);
    CHECK(info_of(wire, again).grants == 0);
    CHECK(look(wire, again).data == pattern(20 * kBlock, 1));
    wire.release(again);
}

TEST_CASE("ioctl: what grows with the holders does not keep a thread from requests") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    const OpenFile file = wire.create("f");
    front::IoctlContext context{.volume = mounted.volume(),
                                .clients = wire.clients(),
                                .client = wire.dispatcher().client()};
    const auto answers_here = [&](unsigned long command) {
        std::vector<std::byte> io(_IOC_SIZE(command));
        io[0] = std::byte{PMFS_ABI_VERSION};
        front::IoctlRequest request;
        request.ino = InodeNo(file.node);
        request.handle = file.handle;
        request.command = static_cast<unsigned>(command);
        request.in = io;
        request.out_size = io.size();
        std::promise<std::pair<int, std::thread::id>> answer;
        front::handle_ioctl(context, request, [&](const front::IoctlReply &reply) {
            answer.set_value({reply.error, std::this_thread::get_id()});
        });
        const auto [error, thread] = answer.get_future().get();
        CHECK(error == 0);
        return thread == std::this_thread::get_id();
    };
    CHECK(answers_here(PMFS_IOC_INFO));
    for (const unsigned long command : {PMFS_IOC_HOLDERS, PMFS_IOC_VOLUME, PMFS_IOC_QUARANTINE})
        CHECK(!answers_here(command));
    wire.release(file);
}

TEST_CASE("ioctl: a request that was flushed leaves the flushing thread, and waits for its turn") {
    Mounted mounted(Medium::memory);
    Wire &wire = mounted.wire();
    Volume &volume = mounted.volume();
    const OpenFile file = wire.create("f");
    REQUIRE(wire.write(file, 0, pattern(kBlock, 1)) == 0);
    std::mutex mutex;
    std::condition_variable changed;
    bool busy = false, blocked = true, answered = false;
    const auto wait_for = [&](bool &what, bool value) {
        std::unique_lock held(mutex);
        return changed.wait_for(held, std::chrono::seconds(20), [&] { return what == value; });
    };
    // Something else goes on with the same file.
    volume.run_later(7, file.node, false, [&] {
        {
            const std::lock_guard held(mutex);
            busy = true;
            changed.notify_all();
        }
        CHECK(wait_for(blocked, false));
    });
    REQUIRE(wait_for(busy, true));
    std::atomic<bool> flushed = false;
    wire.on_invalidate = [&](std::uint64_t) { flushed = true; };
    front::IoctlContext context{
        .volume = volume, .clients = wire.clients(), .client = wire.dispatcher().client()};
    auto io = versioned<pmfs_io_prepare>();
    front::IoctlRequest request;
    request.ino = InodeNo(file.node);
    request.handle = file.handle;
    request.command = PMFS_IOC_PREPARE;
    request.in = std::as_bytes(std::span(&io, 1));
    int error = -1;
    front::handle_ioctl(context, request, [&](const front::IoctlReply &reply) {
        const std::lock_guard held(mutex);
        error = reply.error;
        answered = true;
        changed.notify_all();
    });
    wire.dispatcher().finish_notifications();  // waits for the thread that flushes
    CHECK(flushed);
    {
        const std::lock_guard held(mutex);
        CHECK(!answered);
        blocked = false;
        changed.notify_all();
    }
    CHECK(wait_for(answered, true));
    CHECK(error == 0);
    wire.release(file);
}
