// compact: empties partly used chunks, call by call, until none is left that is worth it.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>

#include "base/units.h"
#include "json.h"
#include "sentences.h"
#include "verbs.h"

namespace pmfs::ctl {
namespace {

using Clock = std::chrono::steady_clock;

struct Chunks {
    std::uint64_t free = 0, broken = 0;  // broken: data only, and at most three quarters of it
};

int count(const File &file, const pmfs_volume &volume, Chunks *out) {
    std::vector<pmfs_chunk> chunks;
    if (const int error = file.chunks(&chunks)) return error;
    const std::uint64_t most = volume.chunk_size / std::max(1u, volume.block_size) / 4 * 3;
    *out = {};
    for (const pmfs_chunk &chunk : chunks) {
        out->free += chunk.kind == PMFS_CHUNK_FREE ? 1 : 0;
        out->broken += chunk.kind == PMFS_CHUNK_DATA && chunk.used <= most ? 1 : 0;
    }
    return 0;
}

// A progress line that is overwritten, only on a terminal.
class Line {
public:
    explicit Line(bool json) : on_(!json && ::isatty(STDERR_FILENO) == 1) {}
    ~Line() { clear(); }
    void show(const pmfs_io_compact &sum, std::uint64_t left) {
        if (!on_) return;
        fmt::print(stderr, "\rchunks emptied: {}, data moved: {}, fragmented chunks left: {}\x1b[K",
                   sum.chunks, size_words(sum.moved), left);
        shown_ = true;
    }
    void clear() {
        if (std::exchange(shown_, false)) fmt::print(stderr, "\r\x1b[K");
    }
    bool due() {
        if (!on_ || Clock::now() < next_) return false;
        next_ = Clock::now() + std::chrono::seconds(1);
        return true;
    }

private:
    const bool on_;
    bool shown_ = false;
    Clock::time_point next_;
};

// A signal ends only this loop: a call is short, and nothing is lost.
class Ends {
public:
    Ends() {
        ::sigemptyset(&signals_);
        for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&signals_, number);
        ::sigprocmask(SIG_BLOCK, &signals_, nullptr);
    }
    bool came() const {
        constexpr timespec kAtOnce{};
        return ::sigtimedwait(&signals_, nullptr, &kAtOnce) > 0;
    }

private:
    sigset_t signals_;
};

}  // namespace

int compact(const Options &options) {
    const File file(options.path, File::Access::read);
    const Ends ends;
    pmfs_volume volume;
    Chunks before, now;
    int error = file.volume(&volume);
    if (error == 0) error = count(file, volume, &before);
    if (error != 0) return complain(file, Verb::compact, error);
    pmfs_io_compact sum{};
    bool interrupted = false;
    {
        Line line(options.json);
        now = before;
        for (sum.more = 1; error == 0 && sum.more != 0 && !interrupted;) {
            pmfs_io_compact io{};
            io.from = sum.next;
            error = file.compact(&io);
            if (error != 0) break;
            sum.chunks += io.chunks;
            sum.moved += io.moved;
            sum.next = io.next;
            sum.more = io.more;
            if (line.due()) {
                error = count(file, volume, &now);
                line.show(sum, now.broken);
            }
            interrupted = ends.came();
        }
    }
    if (error == 0) error = count(file, volume, &now);
    if (error != 0) return complain(file, Verb::compact, error);
    interrupted = interrupted && sum.more != 0;
    if (options.json)
        return print({{"chunks", sum.chunks},
                      {"moved", sum.moved},
                      {"free_before", before.free},
                      {"free", now.free},
                      {"broken", now.broken},
                      {"interrupted", interrupted}});
    fmt::print("chunks emptied: {}, data moved: {}; free chunks of {}: {}, before: {}\n",
               sum.chunks, size_words(sum.moved), size_words(volume.chunk_size), now.free,
               before.free);
    if (interrupted) fmt::print("interrupted: run the command again to continue\n");
    return kDone;
}

}  // namespace pmfs::ctl
