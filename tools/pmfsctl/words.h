// How pmfsctl writes numbers and names.
#pragma once
#include <cstdint>
#include <span>
#include <string>

namespace pmfs::ctl {

std::string hex_text(std::span<const std::uint8_t> bytes);
std::string uuid_text(std::span<const std::uint8_t, 16> uuid);
const char *medium_text(std::uint32_t medium);
const char *medium_key(std::uint32_t medium);  // in JSON
const char *seal_text(std::uint32_t level);

}  // namespace pmfs::ctl
