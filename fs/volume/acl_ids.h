// The users and groups that an access control list names, for clients that have other numbers for
// them.
#pragma once
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace pmfs {

// The value of the attribute `name`, with each number of a list replaced.  What is no list stays as
// it is.
using NewId = std::function<std::uint32_t(bool user, std::uint32_t id)>;
std::vector<std::byte> with_other_ids(std::string_view name, ConstBytes value, const NewId &other);

}  // namespace pmfs
