// Names in reports: see names.h.
#include "fsck/names.h"

#include <fmt/format.h>

namespace pmfs::fsck {

std::string printable(std::string_view name) {
    std::string text = "\"";
    for (const char c : name) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte >= 0x7f || c == '"' || c == '\\')
            text += fmt::format("\\x{:02x}", byte);
        else
            text += c;
    }
    return text + "\"";
}

}  // namespace pmfs::fsck
