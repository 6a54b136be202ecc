// Which volume is on a device, and which device a volume is on: by its label or its UUID, since the
// number of a device-DAX node changes when DIMMs come and go.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace pmfs::probe {

struct Identity {
    std::string label;  // may be empty
    std::array<std::uint8_t, 16> uuid{};
    std::uint64_t size = 0;          // bytes, of the volume
    std::uint32_t mapping_unit = 0;  // bytes
};

// Reads the superblock of a device, memory file or image file, also while the volume is mounted.
Result<Identity> identify(const std::string &path);

// A volume by name: label:NAME, LABEL=NAME, uuid:UUID or UUID=UUID.  In a label \xNN may stand for
// a byte, as in the names of links in /dev/pmfs/by-label and of instances of systemd's units.
struct Name {
    enum class Kind { label, uuid } kind = Kind::label;
    std::string text;
};

// Empty: `source` is a path.
std::optional<Name> name_in(std::string_view source);

// The path of the only volume of that name, or a sentence that says why there is none.
struct Found {
    std::string path, objection;
};

// Looks at each daxX.Y in `devices`, and at what the links below `devices`/pmfs lead to.
Found find_volume(const Name &name, const std::string &devices = "/dev");

}  // namespace pmfs::probe
