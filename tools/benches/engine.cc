// bench_engine: the cost of operations inside the server, without a kernel in between.
//
// A volume on a memfd with all pages allocated, without FUSE.  One JSON line a row.  Here are the
// calls of one thread and main(); engine_holds.cc, engine_threads.cc and engine_scale.cc have the
// other parts.
#include <array>
#include <random>

#include "engine_floor.h"
#include "engine_world.h"

namespace {

using namespace pmfs;
using namespace pmfs::bench;

constexpr std::size_t kRounds = 21;
constexpr std::size_t kEntries = 10'000;  // of the directory that is searched
constexpr std::size_t kCalls = 2'000;     // of a round
constexpr std::size_t kBatch = 50;
constexpr std::size_t kMillion = 1'000'000;
constexpr std::size_t kMillionPart = 10'000;
constexpr std::uint64_t kFileBlocks = 16 << 10;  // 64 MiB: more than caches hold

// Names in a directory of 10,000.
class Names {
public:
    explicit Names(World &b)
        : b_(b),
          dir_(b.directory("ten-thousand")),
          there_(names_of(0, kEntries)),
          more_(names_of(kEntries, kCalls)) {
        for (const std::string &name : there_) b_.close(b_.create(dir_, name));
    }

    void round() {
        std::ranges::shuffle(there_, random_);
        std::vector<InodeNo> found(kEntries);
        lookup_.add(time_calls(kEntries, kBatch, [&](std::size_t i) {
            found[i] = must(b_.volume().lookup(dir_, there_[i]), "lookup").ino;
        }));
        for (const InodeNo ino : found) b_.volume().forget(ino, 1);
        getattr_.add(time_calls(kEntries, kBatch, [&](std::size_t i) {
            must(b_.volume().getattr(found[i]), "getattr");
        }));
        std::vector<Open> made(kCalls);
        create_.add(time_calls(kCalls, kBatch, [&](std::size_t i) {
            made[i] = b_.create(dir_, more_[i]);
            b_.volume().release(made[i].handle);
        }));
        unlink_.add(time_calls(kCalls, kBatch, [&](std::size_t i) {
            must(b_.volume().unlink(dir_, more_[i]), "unlink");
            b_.volume().forget(made[i].ino, 1);
        }));
    }
    void print() const {
        lookup_.print("engine.lookup", "us");
        getattr_.print("engine.getattr", "us");
        create_.print("engine.create", "us");
        unlink_.print("engine.unlink", "us");
    }

private:
    World &b_;
    InodeNo dir_;
    std::vector<std::string> there_, more_;
    std::minstd_rand random_;
    Figure lookup_, getattr_, create_, unlink_;
};

// Data, beside the floor.
class Data {
public:
    explicit Data(World &b) : b_(b), dir_(b.directory("data")), file_(b.create(dir_, "file")) {
        const std::vector<std::byte> mib(1 << 20, std::byte{1});
        for (std::uint64_t at = 0; at < kFileBlocks; at += mib.size() / kBlock)
            b_.write(file_.ino, at, mib);
    }

    void round() {
        const double floor = time_calls(kCalls, kBatch, [&](std::size_t) {
            floor_.copy(random_() % kFileBlocks * kBlock, page_.data(), kBlock);
        });
        const double overwrite = time_calls(kCalls, kBatch, [&](std::size_t) {
            b_.write(file_.ino, random_() % kFileBlocks, page_);
        });
        const Open log = b_.create(dir_, "log");
        const double append =
            time_calls(kCalls, kBatch, [&](std::size_t i) { b_.write(log.ino, i, page_); });
        const double read = time_calls(kCalls, kBatch, [&](std::size_t) {
            must(b_.volume().read(file_.ino, random_() % kFileBlocks * kBlock, kBlock,
                                  [](std::span<const iovec>) {}),
                 "read");
        });
        must(b_.volume().unlink(dir_, "log"), "unlink");
        b_.close(log);
        overwrite_.add(overwrite, floor);
        append_.add(append, floor);
        read_.add(read);
    }
    void print() const {
        overwrite_.print("engine.overwrite_4k", "us");
        append_.print("engine.append_4k", "us");
        read_.print("engine.find_4k", "us");
    }

private:
    World &b_;
    InodeNo dir_;
    Open file_;
    Floor floor_{kFileBlocks * kBlock};
    std::array<std::byte, kBlock> page_{};
    std::minstd_rand random_;
    Figure overwrite_, append_, read_;
};

// A directory that grows to a million entries: the last ones against the first ones.
void grow() {
    World b(std::uint64_t{2} << 30);
    const InodeNo dir = b.directory("million");
    const auto part = [&](std::size_t from, std::size_t count) {
        const auto names = names_of(from, count);
        return time_calls(count, kBatch, [&](std::size_t i) { b.close(b.create(dir, names[i])); });
    };
    const double first = part(0, kMillionPart);
    for (std::size_t at = kMillionPart; at < kMillion - kMillionPart; at += kMillionPart)
        part(at, kMillionPart);
    Figure figure;
    figure.add(part(kMillion - kMillionPart, kMillionPart), first);
    figure.print("engine.create_millionth", "us");
}

void measure_calls() {
    World b(std::uint64_t{1} << 30);
    Names names(b);
    Data data(b);
    for (std::size_t round = 0; round < kRounds + 1; ++round) {
        names.round();
        data.round();
    }
    names.print();
    data.print();
}

}  // namespace

int main(int count, char **words) {
    const std::string part = count > 1 ? words[1] : "";
    if (part == "calls" && count == 2) {
        measure_calls();
        grow();
    } else if (part == "pair" && count == 2) {
        measure_pair();
    } else if (part == "holds" && count == 3) {
        measure_holds(std::strtoull(words[2], nullptr, 10));
    } else if (part == "threads" && count == 2) {
        measure_threads();
    } else if (part == "scale" && count == 5) {
        measure_scale(words[2], std::strtoull(words[3], nullptr, 10), words[4]);
    } else {
        fmt::print(stderr,
                   "usage: bench_engine calls | pair | holds EXTENTS | threads | scale KIND COUNT "
                   "IMAGE\n");
        return 2;
    }
    return 0;
}
