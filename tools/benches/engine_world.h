// A volume without a front end, and the calls that one would make: what the benchmarks of the
// engine share.
//
// Whatever fails ends the program with a sentence: a benchmark has nothing to go on with.
#pragma once
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "base/assert.h"
#include "base/errors.h"
#include "measure.h"
#include "mkfs/make.h"
#include "pm/region.h"
#include "volume/volume.h"

namespace pmfs::bench {

inline constexpr std::size_t kBlock = 4096;
inline constexpr std::size_t kMiB = 1 << 20;

[[noreturn]] inline void give_up(const Error &error, const char *what) {
    fmt::print(stderr, "bench_engine: {}: {}\n", what, error.what());
    std::exit(1);
}
template <class T>
T must(Result<T> result, const char *what) {
    if (!result.ok()) give_up(result.error(), what);
    if constexpr (!std::is_void_v<T>) return std::move(result).take();
}
inline void must(Result<> result, const char *what) {
    if (!result.ok()) give_up(result.error(), what);
}

// Makes every page present, so that allocating memory in the kernel is not measured.
inline void populate(const void *start, std::size_t size) {
    PMFS_ASSERT(::madvise(const_cast<void *>(start), size, MADV_POPULATE_WRITE) == 0);
}

struct Open {
    InodeNo ino;
    HandleId handle;
};

class World {
    // Calls that may have to wait for a checkpoint, on an image file, do so here.
    template <class Call>
    auto patient(Call call, const char *what) {
        for (;;) {
            auto result = call();
            if (result.ok() || !must_park(result.error())) return must(std::move(result), what);
            must(volume_->commit_group(), "checkpoint");
        }
    }

public:
    // On memory, all of whose pages are there.
    explicit World(std::uint64_t size) {
        auto region = must(pm::memory_region(size), "memory");
        populate(region->data(), size);
        must(mkfs::make(*region, {}), "mkfs");
        volume_ = must(Volume::open(std::move(region), {}), "mount");
    }
    // On a region that has a volume.
    explicit World(std::unique_ptr<pm::Region> region)
        : volume_(must(Volume::open(std::move(region), {}), "mount")) {}

    Volume &volume() { return *volume_; }

    InodeNo directory(const std::string &name) {
        return patient([&] { return volume_->make(InodeNo(1), name, S_IFDIR | 0755, 0, {}); },
                       "mkdir")
            .ino;
    }
    Open create(InodeNo dir, const std::string &name) {
        OpenRequest request;
        request.write = true;
        OpenReply reply;
        const Attr made = patient(
            [&] { return volume_->create(dir, name, S_IFREG | 0644, request, &reply); }, "create");
        return {made.ino, reply.handle};
    }
    void close(Open file) {
        volume_->release(file.handle);
        volume_->forget(file.ino, 1);
    }
    void write(InodeNo ino, std::uint64_t block, std::span<const std::byte> bytes) {
        patient([&] { return volume_->write(ino, block * kBlock, bytes, false, {}); }, "write");
    }
    void unlink(InodeNo dir, const std::string &name) {
        must(volume_->unlink(dir, name), "unlink");
    }
    void truncate(InodeNo ino, std::uint64_t size) {
        SetAttr set;
        set.size = size;
        must(volume_->setattr(ino, set, {}), "truncate");
    }

private:
    std::unique_ptr<Volume> volume_;
};

inline std::string name_of(std::size_t i) {
    return fmt::format("entry-{:07}", i);
}
inline std::vector<std::string> names_of(std::size_t from, std::size_t count) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < count; ++i) names.push_back(name_of(from + i));
    return names;
}

inline void print_row(const std::string &name, double value, const char *unit) {
    fmt::print("{{\"name\": \"{}\", \"value\": {:.4f}, \"unit\": \"{}\"}}\n", name, value, unit);
    std::fflush(stdout);
}
inline void print_row(const std::string &name, double value, const char *unit, double peer) {
    Figure figure;
    figure.add(value, peer);
    figure.print(name.c_str(), unit);
}

// The parts that are files of their own.  what: extents, directory or volume.
void measure_holds(std::size_t extents);
void measure_pair();
void measure_threads();
void measure_scale(const std::string &what, std::size_t count, const std::string &image);

}  // namespace pmfs::bench
