// The users and groups that an access control list names, for clients that have other numbers for
// them.
#pragma once
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace pmfs {

// Whether the attribute `name` is the list that a file's mode follows.
bool is_access_acl(std::string_view name);

// The value of the attribute `name`, with each id of an access control list replaced, in `made`.
// If the attribute is no list, `value` itself.
using NewId = std::function<std::uint32_t(bool user, std::uint32_t id)>;
ConstBytes with_other_ids(std::string_view name, ConstBytes value, const NewId &other,
                          std::vector<std::byte> *made);

}  // namespace pmfs
