// A report in words, or as one JSON object a line.
#pragma once
#include <string>

#include "fsck/check.h"

namespace pmfs::fsck {

// Every problem, then a summary.  Each ends with a newline.
std::string text_of(const Report &report, const std::string &device);
// Objects with "type": "problem" or, last, "summary".  Numbers that do not apply are left out.
std::string json_of(const Report &report, const std::string &device);

}  // namespace pmfs::fsck
