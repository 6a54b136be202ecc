// The fuzzer of the whole server: sequences of requests of the host's kernel and of two guests, to
// a small volume in memory or in an image file, which is then closed and checked.  The input is
// explained in steps.h.
#pragma once
#include "base/bytes.h"
#include "fuzz/steps.h"

namespace pmfs::test {

// A fault shows as a crash, a sanitizer's report, or a failed assertion:
// - each request gets one answer, which the kernel would accept, and none blames the medium;
// - when all clients have left, nothing is left of what they held, and fsck finds nothing.
void fuzz_requests(ConstBytes input);

}  // namespace pmfs::test
