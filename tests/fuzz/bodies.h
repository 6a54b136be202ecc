// What the makers of messages share: the meaning of a step's bytes.
#pragma once
#include <cstdint>
#include <string>

#include "fuzz/steps.h"

namespace pmfs::test {

inline constexpr std::uint64_t kRange = std::uint64_t{2} << 20;  // of a window

template <class T>
std::string text_of(const T &object) {
    return {reinterpret_cast<const char *>(&object), sizeof object};
}

// An offset or a size: those at which something changes, and any page of the first half MiB.
std::uint64_t number(std::uint8_t byte);
// A node that the client was given, or a forged number.
std::uint64_t node_of(std::uint8_t byte, const Known &known);
std::uint32_t flags_of(const Step &step);

// The body of an ioctl on that open file.
std::string ioctl_text(const Step &step, const Known &known, std::uint64_t fh);
// Whether it takes a grant.
bool takes_grant(const Step &step);

}  // namespace pmfs::test
