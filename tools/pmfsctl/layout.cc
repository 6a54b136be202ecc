// layout: a file's place on the device, for people, programs and QEMU.  See layout.h.
#include "layout.h"

#include <fmt/format.h>

#include "base/units.h"
#include "json.h"
#include "sentences.h"
#include "verbs.h"
#include "words.h"

namespace pmfs::ctl {
namespace {

constexpr std::uint64_t kUnit = 2 << 20;  // the unit in which a guest's kernel maps DAX memory

std::uint64_t units_up(std::uint64_t bytes) {
    return (bytes + kUnit - 1) / kUnit * kUnit;
}

bool refuse(const File &file, const std::string &why) {
    fmt::print(stderr, "pmfsctl: {} {}\n", file.name(), why);
    return false;
}

std::string how_to(const File &file) {
    return fmt::format("use `pmfsctl seal --prepare --contiguous {}`", file.name());
}

// In QEMU's options a comma ends a value, and two of them are one.
std::string quoted(const std::string &value) {
    std::string text;
    for (const char c : value) text += c == ',' ? ",," : std::string(1, c);
    return text;
}

}  // namespace

bool find_slices(const File &file, std::vector<Slice> *out) {
    pmfs_info info;
    std::vector<pmfs_extent> extents;
    int error = file.info(&info);
    if (error == 0 && !file.is_regular()) error = EISDIR;
    if (error == 0) error = file.extents(&extents);
    if (error != 0) {
        complain(file, Verb::layout, error);
        return false;
    }
    if (info.size == 0) return refuse(file, "is empty: there is nothing to give to a guest");
    if (info.seal != PMFS_SEAL_FULL)
        return refuse(file, "is not sealed full, so its blocks may move; " + how_to(file));
    const std::uint64_t end = units_up(info.size);
    std::uint64_t at = 0;
    for (const pmfs_extent &extent : extents) {
        const std::uint64_t length = std::min(end - at, PMFS_CONTIGUOUS_MAX);
        if (at == end) break;
        if (extent.offset != at || extent.length < length || extent.device % kUnit != 0) break;
        out->push_back({extent.device, length});
        at += length;
    }
    if (at == end) return true;
    out->clear();
    return refuse(file, fmt::format("has {}, or is not in whole units of 2 MiB, and a guest needs "
                                    "one extent; unseal it, then {}",
                                    counted(extents.size(), "extent"), how_to(file)));
}

std::vector<std::string> qemu_words(const std::string &path, const std::vector<Slice> &slices,
                                    unsigned *number) {
    std::vector<std::string> words;
    for (const Slice &slice : slices) {
        const unsigned n = (*number)++;
        words.emplace_back("-object");
        words.push_back(
            fmt::format("memory-backend-file,id=pmfs{},mem-path={},offset={},size={},share=on,"
                        "readonly=on,rom=on",
                        n, quoted(path), slice.offset, slice.length));
        words.emplace_back("-device");
        words.push_back(fmt::format("virtio-pmem-pci,id=pmem{},memdev=pmfs{}", n, n));
    }
    return words;
}

int layout(const Options &options) {
    const File file(options.path, File::Access::read);
    pmfs_volume volume;
    if (const int error = file.volume(&volume)) return complain(file, Verb::layout, error);
    std::vector<Slice> slices;
    if (!find_slices(file, &slices)) return kFailed;
    if (options.qemu) {
        unsigned number = 0;
        const auto words = qemu_words(volume.source, slices, &number);
        for (std::size_t i = 0; i < words.size(); i += 2)
            fmt::print("{} {}\n", words[i], words[i + 1]);
        return kDone;
    }
    if (options.json) {
        Json list = Json::array();
        for (const Slice &slice : slices)
            list.push_back({{"device", slice.offset}, {"length", slice.length}});
        return print({{"path", file.path()},
                      {"region", volume.source},
                      {"medium", medium_key(volume.medium)},
                      {"slices", list}});
    }
    fmt::print("{} lies in {} ({}):\n{:>18} {:>18}\n", file.name(), printable(volume.source),
               medium_text(volume.medium), "on the device", "length");
    for (const Slice &slice : slices) fmt::print("{:>18} {:>18}\n", slice.offset, slice.length);
    return kDone;
}

}  // namespace pmfs::ctl
