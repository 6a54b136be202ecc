// pmfsctl's answers as JSON: keys in snake_case, sizes in bytes.
#pragma once
#include <nlohmann/json.hpp>

#include "pmfs_ioctl.h"

namespace pmfs::ctl {

using Json = nlohmann::ordered_json;

int print(const Json &json);       // over several lines; kDone
int print_line(const Json &json);  // on one, flushed: for continuous output; kDone

Json to_json(const pmfs_holder &holder);

}  // namespace pmfs::ctl
