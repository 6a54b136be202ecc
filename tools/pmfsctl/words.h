// How pmfsctl writes numbers and names.
#pragma once
#include <cstdint>
#include <span>
#include <string>

namespace pmfs::ctl {

const char *medium_text(std::uint32_t medium);
const char *medium_key(std::uint32_t medium);  // in JSON
const char *seal_text(std::uint32_t level);
// A kind of FUSE request, as in <linux/fuse.h> without FUSE_; 0: the others together.
std::string request_key(std::size_t opcode);

}  // namespace pmfs::ctl
