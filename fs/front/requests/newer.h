// Requests that libfuse 3.14 does not know. Some are translated to requests that it knows; the
// dispatcher answers the others itself.
//
// Definitions that <linux/fuse.h> of Debian 12 (protocol 7.38) lacks are here and in statx.h.
#pragma once
#include <linux/fuse.h>

#include <vector>

#include "base/bytes.h"
#include "front/requests/statx.h"

namespace pmfs::front {

// FUSE_CREATE or FUSE_TMPFILE, whose message contains a name without meaning.
inline bool opens_new(std::uint32_t opcode) {
    return opcode == FUSE_CREATE || opcode == FUSE_TMPFILE;
}

// The message to pass to the library: `message` itself, or a translation of it in `made`.  The
// operation that gets it asks Request::current() for the difference.  `long_setxattr`: as agreed in
// INIT, a SETXATTR has fields that the library does not know.
Bytes in_older_words(Bytes message, bool long_setxattr, std::vector<std::byte> *made);

}  // namespace pmfs::front
