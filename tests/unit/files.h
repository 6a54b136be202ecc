// Files of a volume, for tests of the engine: made, named, read and compared in one line.
#pragma once
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstdint>
#include <span>
#include <string>

#include "fsck/check.h"
#include "volume/volume.h"

namespace pmfs::test {

inline const InodeNo kRoot(media::kRootIno);
inline constexpr std::uint64_t kBlock = media::kBlockSize, kChunk = media::kChunkSize;
inline constexpr Caller kUser{1000, 1000, 1}, kAdmin{0, 0, 1};

// The user, whose operation keeps its place.
inline Caller user(Progress *progress = nullptr) {
    Caller caller = kUser;
    caller.progress = progress;
    return caller;
}

// 0: it went well.
template <class T>
int errno_of(const Result<T> &result) {
    return result.ok() ? 0 : result.error().errno_value();
}

inline std::span<const std::byte> bytes_of(const std::string &text) {
    return std::as_bytes(std::span(text));
}

inline SetAttr size_of(std::uint64_t size) {
    SetAttr set;
    set.size = size;
    return set;
}

inline InodeNo make_file(Volume &v, const std::string &name, InodeNo dir = kRoot) {
    const auto made = v.make(dir, name, S_IFREG | 0644, 0, kUser);
    REQUIRE(made.ok());
    return made.value().ino;
}

// Fewer bytes at the file's end.
inline std::string read_at(Volume &v, InodeNo ino, std::uint64_t offset, std::size_t size) {
    std::string text;
    REQUIRE(v.read(ino, offset, size, [&](auto pieces) {
                 for (const iovec &p : pieces)
                     text.append(static_cast<char *>(p.iov_base), p.iov_len);
             }).ok());
    return text;
}

// fsck finds nothing.
inline void check_clean(pm::Region &region) {
    const auto report = fsck::check(region);
    REQUIRE(report.ok());
    for (const auto &p : report.value().problems)
        MESSAGE(fsck::id_of(p.code), " ", fsck::info_of(p.code).sentence, " ", p.detail);
    CHECK(report.value().clean());
}

}  // namespace pmfs::test
