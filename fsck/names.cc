// Names in reports: see names.h.
#include "fsck/names.h"

#include <fmt/format.h>

#include "base/printable.h"

namespace pmfs::fsck {

std::string in_quotes(std::string_view name) {
    std::string text;
    for (const char c : name) {
        if (c == '"' || c == '\\')
            text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        else
            text += c;
    }
    return '"' + printable(text) + '"';
}

}  // namespace pmfs::fsck
