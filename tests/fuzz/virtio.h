// What a fuzzer feeds to the vhost-user back end, and where it begins.  Any bytes are an input; a
// fault shows as a crash, a sanitizer's report or a failed assertion.
#pragma once
#include <string>
#include <vector>

#include "base/bytes.h"

namespace pmfs::test {

// A front end's messages: for each a byte for the request, the flags, the descriptors that come
// with it, and the payload's size in two; then the payload.  Whether it was heard to its end.
bool fuzz_messages(ConstBytes input);
std::vector<std::string> message_seeds();

// A queue's memory, from the descriptor table on: 16 descriptors, the available ring, and what is
// behind it.
void fuzz_queue(ConstBytes input);
std::vector<std::string> queue_seeds();

}  // namespace pmfs::test
