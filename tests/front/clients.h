// What tests of clients do with their files, and ask the volume about them.
#pragma once
#include <doctest/doctest.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "world.h"

namespace pmfs::test {

template <class T>
T versioned() {
    T io{};
    io.version = PMFS_ABI_VERSION;
    return io;
}

inline constexpr std::uint64_t kRoot = FUSE_ROOT_ID;

inline std::string name(const char *text) {
    return std::string(text) + '\0';
}

// A file of one block that the wire has open.
inline OpenFile written(Wire &wire, const char *text) {
    const OpenFile file = wire.create(text);
    REQUIRE(wire.write(file, 0, std::string(4096, 'x')) == 0);
    return file;
}

inline int lease(Wire &wire, const OpenFile &file, std::uint32_t kind = PMFS_GRANT_BREAKABLE) {
    auto io = versioned<pmfs_io_grant>();
    io.kind = kind;
    return wire.ioctl(file, PMFS_IOC_GRANT, &io);
}

// The host has a lease on a file of one block; what breaks it waits for longer than a test takes.
struct Leased {
    World world{{}, patient()};
    Wire &host = world.wire();
    const OpenFile file = written(host, "f");
    Leased() { REQUIRE(lease(host, file) == 0); }

private:
    static MountOptions patient() {
        MountOptions options;
        options.lease_break_ms = 60'000;
        return options;
    }
};

inline std::size_t handles(World &world, std::uint64_t node) {
    const auto all = world.volume().handles(InodeNo(node));
    REQUIRE(all.ok());
    return all.value().size();
}

inline std::size_t holders(World &world, std::uint64_t node) {
    const auto all = world.volume().holders(InodeNo(node));
    REQUIRE(all.ok());
    return all.value().size();
}

inline bool eventually(const std::function<bool()> &holds) {
    for (int i = 0; i < 2000; ++i) {
        if (holds()) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
}

}  // namespace pmfs::test
