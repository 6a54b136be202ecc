// What many of a kind cost: a file of many extents, a directory of many files, a volume of many
// files.
//
// On an image file, which stays there for whoever wants to mount it (scale.py).  The last calls are
// compared with the first ones.
#include "engine_world.h"

namespace pmfs::bench {
namespace {

constexpr std::size_t kBatch = 50;
constexpr std::size_t kFilesOfDirectory = 1000;

// The median of the last part of `count` calls beside that of the first part.
template <class Call>
void grow(const std::string &name, std::size_t count, Call call) {
    const std::size_t part = std::min<std::size_t>(10'000, count / 4);
    const auto run = [&](std::size_t from, std::size_t calls) {
        return time_calls(calls, kBatch, [&](std::size_t i) { call(from + i); });
    };
    const double first = run(0, part);
    for (std::size_t at = part; at < count - part;) {
        const std::size_t calls = std::min(part, count - part - at);
        for (std::size_t i = 0; i < calls; ++i) call(at + i);
        at += calls;
    }
    print_row("scale." + name + "_last", run(count - part, part), "us", first);
}

void grow_extents(World &world, std::size_t count) {
    const Open file = world.create(InodeNo(1), "file");
    const std::vector<std::byte> page(kBlock, std::byte{1});
    grow("extents", count, [&](std::size_t i) { world.write(file.ino, 2 * i, page); });
    world.close(file);
}

void grow_directory(World &world, std::size_t count) {
    const InodeNo dir = world.directory("directory");
    grow("directory", count, [&](std::size_t i) { world.close(world.create(dir, name_of(i))); });
}

void grow_volume(World &world, std::size_t count) {
    InodeNo dir;
    grow("volume", count, [&](std::size_t i) {
        if (i % kFilesOfDirectory == 0) dir = world.directory(fmt::format("directory-{}", i));
        world.close(world.create(dir, name_of(i)));
    });
}

}  // namespace

void measure_scale(const std::string &what, std::size_t count, const std::string &image) {
    World world(must(pm::open_region(image, {}), "image"));
    if (what == "extents") grow_extents(world, count);
    if (what == "directory") grow_directory(world, count);
    if (what == "volume") grow_volume(world, count);
    must(world.volume().close(), "close");
}

}  // namespace pmfs::bench
