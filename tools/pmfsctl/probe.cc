// probe: which volume is on a device that need not be mounted.  For udev, and for people.
#include <fmt/format.h>

#include <climits>
#include <string>

#include "base/hex.h"
#include "base/printable.h"
#include "base/units.h"
#include "json.h"
#include "probe/identity.h"
#include "verbs.h"

namespace pmfs::ctl {
namespace {

// As libblkid writes ID_FS_LABEL_ENC: every byte that could mean something in a path is \xNN.
std::string encoded(const std::string &text) {
    std::string out;
    for (const char c : text) {
        const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                           (c >= 'A' && c <= 'Z') ||
                           std::string_view("#+-.:=@_").find(c) != std::string_view::npos;
        out += plain
                   ? std::string(1, c)
                   : fmt::format("\\x{:02x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    }
    return out == "." || out == ".." ? fmt::format("\\x2e{}", out.substr(1)) : out;
}

}  // namespace

int probe(const Options &options) {
    const auto identity = probe::identify(options.path);
    if (!identity.ok()) {
        fmt::print(stderr, "pmfsctl: {}: {}\n", printable(options.path), identity.error().what());
        return kFailed;
    }
    const probe::Identity &found = identity.value();
    const std::string uuid = uuid_text(found.uuid);
    if (options.udev) {
        fmt::print("ID_FS_TYPE=pmfs\nID_FS_USAGE=filesystem\nID_FS_UUID={0}\nID_FS_UUID_ENC={0}\n",
                   uuid);
        const std::string label = encoded(found.label);
        // (A longer name than a link can have: udevd would complain.)
        if (!label.empty() && label.size() <= NAME_MAX) fmt::print("ID_FS_LABEL_ENC={}\n", label);
        return kDone;
    }
    if (options.json)
        return print({{"path", options.path},
                      {"uuid", uuid},
                      {"label", found.label},
                      {"size", found.size},
                      {"mapping_unit", found.mapping_unit}});
    fmt::print("{}: pmfs volume {}{}, {}, mapping unit {}\n", printable(options.path), uuid,
               found.label.empty() ? "" : fmt::format(" \"{}\"", printable(found.label)),
               size_words(found.size), size_words(found.mapping_unit));
    return kDone;
}

}  // namespace pmfs::ctl
