// Names of media and seals, and identifiers in hexadecimal.
#include "words.h"

#include <fmt/format.h>

#include "pmfs_ioctl.h"

namespace pmfs::ctl {

std::string hex_text(std::span<const std::uint8_t> bytes) {
    std::string text;
    for (const std::uint8_t byte : bytes) text += fmt::format("{:02x}", byte);
    return text;
}

std::string uuid_text(std::span<const std::uint8_t, 16> uuid) {
    const std::string hex = hex_text(uuid);
    return fmt::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4),
                       hex.substr(16, 4), hex.substr(20));
}

const char *medium_text(std::uint32_t medium) {
    switch (medium) {
        case PMFS_MEDIUM_DEVDAX:
            return "device-DAX";
        case PMFS_MEDIUM_FSDAX:
            return "file on fsdax";
        case PMFS_MEDIUM_MEMORY:
            return "memory";
        case PMFS_MEDIUM_IMAGE:
            return "image file";
        default:
            return "unknown medium";
    }
}

const char *medium_key(std::uint32_t medium) {
    switch (medium) {
        case PMFS_MEDIUM_DEVDAX:
            return "devdax";
        case PMFS_MEDIUM_FSDAX:
            return "fsdax";
        case PMFS_MEDIUM_MEMORY:
            return "memory";
        case PMFS_MEDIUM_IMAGE:
            return "image";
        default:
            return "unknown";
    }
}

const char *seal_text(std::uint32_t level) {
    switch (level) {
        case PMFS_SEAL_NONE:
            return "none";
        case PMFS_SEAL_AS_IS:
            return "as-is";
        case PMFS_SEAL_FULL:
            return "full";
        default:
            return "unknown";
    }
}

}  // namespace pmfs::ctl
