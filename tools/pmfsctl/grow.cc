// grow and tune: changes of the whole volume.
#include <fmt/format.h>

#include <cerrno>

#include "base/printable.h"
#include "base/units.h"
#include "json.h"
#include "sentences.h"
#include "verbs.h"

namespace pmfs::ctl {
namespace {

// Messages for errors that need numbers; empty: that of the errno is enough.
std::string why_not(const File &file, const pmfs_io_grow &io, std::uint64_t wanted, int error) {
    const std::string name = file.name();
    if (file.error() != 0) return "";
    switch (error) {
        case ENOTTY:
            return fmt::format(
                "{} is not on a mounted pmfs volume: mount the volume, and give a path on it",
                name);
        case EINVAL:
            return fmt::format("{}: the volume has {}, and cannot shrink to {}", name,
                               size_words(io.before), size_words(wanted));
        case ENOSPC:
            return fmt::format(
                "{}: the medium of the volume has only {}; extend the medium first (an image file "
                "with "
                "fallocate or truncate)",
                name, size_words(io.medium));
        case ENOMEM:
        case EOPNOTSUPP:
            return fmt::format(
                "{}: the new space of the medium cannot be used by this mount; unmount the volume, "
                "mount it again, then grow it",
                name);
        default:
            return "";
    }
}

std::string percent(std::uint32_t reserve) {
    return fmt::format("{:g} %", reserve / 100.0);
}

}  // namespace

int grow(const Options &options) {
    const File file(options.path, File::Access::read);
    pmfs_io_grow io{};
    io.size = options.size;
    if (const int error = file.grow(&io)) {
        const std::string why = why_not(file, io, options.size, error);
        if (why.empty()) return complain(file, Verb::grow, error);
        fmt::print(stderr, "pmfsctl: {}\n", why);
        return kFailed;
    }
    if (options.json)
        return print({{"before", io.before}, {"size", io.now}, {"medium", io.medium}});
    if (io.now == io.before)
        fmt::print("{}: the volume has {}, and its medium {}: there is no more space to use\n",
                   file.name(), size_words(io.now), size_words(io.medium));
    else
        fmt::print("{}: the volume has grown from {} to {}\n", file.name(), size_words(io.before),
                   size_words(io.now));
    return kDone;
}

int tune(const Options &options) {
    const File file(options.path, File::Access::read);
    pmfs_io_tune io{};
    if (options.reserve) {
        io.flags = PMFS_TUNE_RESERVE;
        io.reserve = *options.reserve;
    }
    if (const int error = file.tune(&io)) return complain(file, Verb::tune, error);
    if (options.json) return print({{"reserve_percent", io.reserve / 100.0}});
    fmt::print("{}: reserved for root: {} of the volume\n", file.name(), percent(io.reserve));
    return kDone;
}

}  // namespace pmfs::ctl
